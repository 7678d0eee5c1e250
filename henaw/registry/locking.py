"""One change of a model's aliases at a time, whoever asks for it."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import mlflow
import sqlalchemy

from henaw.errors import EnvironmentProblem

_LONGEST_WAIT = 60.0
_ASK_AGAIN = 0.1  # seconds
EVERYBODY = 0o666  # mode of lock files: whoever may change what they guard, as any user of the machine


@contextmanager
def postgresql_locked(uri: str, key: int, wait: float) -> Iterator[None]:
    """Hold advisory lock ``key`` of the database at ``uri`` for the block; it is released when its holder dies.

    Raises:
        TimeoutError: another held it for ``wait`` seconds.
    """
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    until = time.monotonic() + wait
    with engine.connect() as connection:
        while not connection.scalar(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}):
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(_ASK_AGAIN)
        yield


@contextmanager
def aliases_locked(model: str) -> Iterator[None]:
    """Hold the lock of ``model``'s aliases for the block.

    Where the store is PostgreSQL, all machines share it; else it is a file, beside an SQLite store or, for a tracking
    server, on this machine. Whoever holds it has to look at the aliases again: another machine may have moved them.

    Raises:
        EnvironmentProblem: it is held for too long, or its file cannot be opened.
    """
    with ExitStack() as held:
        try:
            held.enter_context(_lock_of(model))
        except TimeoutError:
            raise EnvironmentProblem(f"{model}: another process has been moving its aliases for too long") from None
        except OSError as error:
            raise EnvironmentProblem(f"{error.filename}: lock cannot be taken: {error.strerror}") from None
        yield


def _lock_of(model: str) -> AbstractContextManager[object]:
    """The same for everybody who means the same model, whatever their user, login or working folder."""
    uri = mlflow.get_tracking_uri()
    parts = urlsplit(uri)
    if parts.scheme.partition("+")[0] == "postgresql":
        return postgresql_locked(uri, int(_digest(model)[:15], 16), _LONGEST_WAIT)  # a database has its own locks
    store = Path(parts.path[1:])
    if parts.scheme == "sqlite":
        path = store.parent / f".henaw-{_digest(f'{store.name} {model}')}.lock"
    else:
        where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        path = Path(tempfile.gettempdir()) / f".henaw-{_digest(f'{where} {model}')}.lock"
    return filelock.FileLock(path, timeout=_LONGEST_WAIT, mode=EVERYBODY)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
