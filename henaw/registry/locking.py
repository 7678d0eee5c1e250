"""One change of a model's aliases at a time, whoever asks for it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import mlflow
import sqlalchemy

from henaw.errors import EnvironmentProblem

_LONGEST_WAIT = 60.0


@contextmanager
def postgresql_locked(uri: str, key: int) -> Iterator[None]:
    """Hold advisory lock ``key`` of the database at ``uri`` for the block; it is released when its holder dies."""
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": key})
        yield


@contextmanager
def aliases_locked(model: str) -> Iterator[None]:
    """Hold the lock of ``model``'s aliases for the block.

    Where the store is PostgreSQL, all machines share it; else it is a file, beside an SQLite store or, for a tracking
    server, on this machine. Whoever holds it has to look at the aliases again: another machine may have moved them.

    Raises:
        EnvironmentProblem: it is held for too long.
    """
    uri = mlflow.get_tracking_uri()
    name = hashlib.blake2b(f"{uri} {model}".encode(), digest_size=8).hexdigest()
    parts = urlsplit(uri)
    if parts.scheme.partition("+")[0] == "postgresql":
        with postgresql_locked(uri, int(name[:15], 16)):
            yield
        return
    folder = Path(parts.path[1:]).parent if parts.scheme == "sqlite" else Path(tempfile.gettempdir())
    # no trace of who: several users of one machine share a tracking server
    lock = filelock.FileLock(folder / f".henaw-{name}-{os.getuid()}.lock", timeout=_LONGEST_WAIT, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise EnvironmentProblem(f"{model}: another process has been moving its aliases for too long") from None
    try:
        yield
    finally:
        lock.release()
