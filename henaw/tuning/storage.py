"""Where a study's trials are kept, which worker may take the next one, and which workers are dead.

One machine: Optuna's journal, a file. Its workers each hold a kernel lock (``flock``) on a file of their own for as
long as they live, so that a killed one is known at once. Several machines: PostgreSQL, with Optuna's heartbeat. Taking
a trial and reclaiming those of the dead happens under one lock for the whole study; the kernel, or the database,
releases it when its holder dies.
"""

from __future__ import annotations

import secrets
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import filelock
import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, fail_stale_trials
from optuna.storages._heartbeat import HeartbeatThread
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial

from henaw.data.files import private_folder
from henaw.errors import EnvironmentProblem

WORKER = "worker"  # the attribute of a trial that names who runs it
_LOCK_SECONDS = 120.0
_SILENT_BEATS = 2


class StudyStorage(Protocol):
    """What a study needs beyond Optuna's storage."""

    kept: BaseStorage

    def alone(self) -> AbstractContextManager[None]:
        """Hold the study's lock for the block: at most one worker is in it."""

    def alive(self) -> AbstractContextManager[str]:
        """Be a worker for the block; yields its name."""

    def beating(self, trial_id: int) -> AbstractContextManager[object]:
        """Say for the block that the trial's worker lives."""

    def fail_dead(self, study: optuna.Study, running: list[FrozenTrial]) -> None:
        """End as failed those of the ``running`` trials whose workers are dead; to be called while ``alone``."""


class _KernelLock(BaseJournalFileLock):
    """The journal's own lock as one that dies with its holder; Optuna's would hold everybody up for 30 s."""

    def __init__(self, path: Path) -> None:
        self._lock = filelock.FileLock(path, mode=0o600, fallback_to_soft=False)

    def acquire(self) -> bool:
        self._lock.acquire(timeout=_LOCK_SECONDS)
        return True

    def release(self) -> None:
        self._lock.release()


class JournalFile:
    """A study in a file, for any number of workers on this machine."""

    def __init__(self, path: Path) -> None:
        """Open ``path``, which is made where it does not exist.

        Raises:
            EnvironmentProblem: the disk does not allow it.
        """
        self._folder = private_folder(path.parent)
        self._path = path
        try:
            path.touch(mode=0o600)
            self.kept: BaseStorage = JournalStorage(
                JournalFileBackend(str(path), lock_obj=_KernelLock(path.with_suffix(".lock")))
            )
        except (OSError, ValueError) as error:
            raise EnvironmentProblem(f"{path}: the study cannot be read ({type(error).__name__})") from None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the study's lock for the block."""
        with filelock.FileLock(self._path.with_suffix(".claim"), mode=0o600, fallback_to_soft=False):
            yield

    @contextmanager
    def alive(self) -> Iterator[str]:
        """Hold a lock of this worker's own for the block."""
        name = secrets.token_hex(8)
        with filelock.FileLock(self._worker(name), mode=0o600, fallback_to_soft=False):
            yield name
            self._worker(name).unlink(missing_ok=True)

    def beating(self, trial_id: int) -> AbstractContextManager[object]:
        """The worker's lock says enough."""
        return nullcontext()

    def fail_dead(self, study: optuna.Study, running: list[FrozenTrial]) -> None:
        """Whoever's lock can be had is dead."""
        dead = {name for name in {trial.user_attrs.get(WORKER) for trial in running} if not self._lives(name)}
        for trial in running:
            if trial.user_attrs.get(WORKER) in dead:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        for name in dead - {None}:
            self._worker(str(name)).unlink(missing_ok=True)

    def _lives(self, name: str | None) -> bool:
        if name is None or not self._worker(name).exists():  # it died before it could say who it is
            return False
        lock = filelock.FileLock(self._worker(name), fallback_to_soft=False)
        try:
            with lock.acquire(timeout=0):
                return False
        except filelock.Timeout:
            return True

    def _worker(self, name: str) -> Path:
        return self._path.with_suffix(f".{name}.worker")


class PostgreSQL:
    """A study in a database, for workers on any number of machines."""

    def __init__(self, url: str, name: str, heartbeat_seconds: int) -> None:
        """Connect to ``url``; the tables are made once, under the study's lock.

        Raises:
            EnvironmentProblem: the database does not answer.
        """
        self._key = zlib.crc32(f"henaw study {name}".encode())
        try:
            self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
            with self._locked(zlib.crc32(b"henaw study tables")), warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._beats = RDBStorage(
                    url,
                    engine_kwargs={"poolclass": sqlalchemy.pool.NullPool},  # nothing stays open between trials
                    heartbeat_interval=heartbeat_seconds,
                    grace_period=_SILENT_BEATS * heartbeat_seconds,
                )
            self.kept: BaseStorage = self._beats
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
            raise EnvironmentProblem(
                f"study.storage: the database does not answer ({type(error).__name__}); check its address"
            ) from None

    def alone(self) -> AbstractContextManager[None]:
        """Hold an advisory lock of the database for the block."""
        return self._locked(self._key)

    @contextmanager
    def _locked(self, key: int) -> Iterator[None]:
        with self._engine.connect() as connection:  # closing it, or dying, releases the lock
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": key})
            yield

    @contextmanager
    def alive(self) -> Iterator[str]:
        """A name: that a worker lives is what its trial's heartbeat says."""
        yield secrets.token_hex(8)

    @contextmanager
    def beating(self, trial_id: int) -> Iterator[None]:
        """Record the trial's heartbeat now and again."""
        self._beats.record_heartbeat(trial_id)  # now: without a first beat nobody is missed
        with HeartbeatThread(trial_id, self._beats):
            yield

    def fail_dead(self, study: optuna.Study, running: list[FrozenTrial]) -> None:
        """Whose heartbeat is too old is dead, and who died before the first."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            fail_stale_trials(study)
        for trial in running:
            if WORKER not in trial.user_attrs:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)


def open_storage(url: str | None, folder: Path, name: str, heartbeat_seconds: int) -> StudyStorage:
    """The storage of study ``name``: a journal in ``folder`` where no database ``url`` is named.

    Raises:
        EnvironmentProblem: the database does not answer, or the disk does not allow it.
    """
    return PostgreSQL(url, name, heartbeat_seconds) if url else JournalFile(folder / f"{name}.journal")
