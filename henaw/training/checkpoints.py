"""The checkpoints of one run: the newest few, in a folder that one process at a time writes to."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import filelock

from henaw.data.files import disk_errors, private_folder
from henaw.errors import BadInput, IntegrityError
from henaw.settings import Training
from henaw.training.checkpoint import (
    TEMPORARY_SUFFIX,
    Contents,
    Fingerprint,
    WrongRun,
    read_checkpoint,
    read_manifest,
    write_checkpoint,
)
from henaw.training.history import History

logger = logging.getLogger(__name__)

_BROKEN_SUFFIX = ".broken"


class Checkpoints:
    """Saves and finds the checkpoints of a run in ``folder``, beside which nothing else of the run is kept."""

    def __init__(self, folder: Path, settings: Training) -> None:
        """Use ``folder``, which is made when it is first needed; ``settings`` say how many stay."""
        self.folder, self.keep = folder, settings.checkpoints_kept
        self._lock = filelock.FileLock(folder / "lock", mode=0o600, fallback_to_soft=False)

    @property
    def history_path(self) -> Path:
        """Where the run's history is."""
        return self.folder / "history.jsonl"

    def history(self) -> History:
        """The run's history, in a file beside them."""
        return History(self.history_path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folder for this process alone, cleared of what killed processes left; who holds it may hold it again.

        Raises:
            BadInput: another process is training this run.
            EnvironmentProblem: the folder cannot be made or written to.
        """
        private_folder(self.folder)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise BadInput(f"run {self.folder.name}: another process is training it") from None
        except OSError as error:
            logger.warning("%s: no lock to be had here (%s); going on without it", self.folder, error.strerror)
        try:
            for leftover in self.folder.glob(f".*{TEMPORARY_SUFFIX}"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield
        finally:
            self._lock.release()

    def saved(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("epoch-*-batch-*") if path.suffix != _BROKEN_SUFFIX)

    def save(self, epoch: int, batch: int, contents: Contents, fingerprint: Fingerprint) -> None:
        """Save what training is before ``batch`` of ``epoch``, and remove the oldest beyond those that are kept.

        Raises:
            EnvironmentProblem: the disk does not allow it; the checkpoints that were there still are.
        """
        path = self.folder / f"epoch-{epoch:06d}-batch-{batch:08d}"
        if path.exists():  # at this point the run was the same before
            return
        write_checkpoint(path, contents, fingerprint)
        for old in self.saved()[: -self.keep]:
            leaving = old.with_name(f".{old.name}{TEMPORARY_SUFFIX}")  # never half a checkpoint under its own name
            with disk_errors(old):
                old.rename(leaving)
                shutil.rmtree(leaving)

    def newest(self, expected: Contents, fingerprint: Fingerprint) -> Contents | None:
        """The newest whole checkpoint, None where the run has none yet; broken ones are set aside with a warning.

        Raises:
            WrongRun: it is of a run with other settings, architecture or people.
            IntegrityError: there were checkpoints, and none was whole.
            EnvironmentProblem: one cannot be read.
        """
        broken: IntegrityError | None = None
        for path in reversed(self.saved()):
            try:
                return read_checkpoint(path, expected, fingerprint)
            except WrongRun:
                raise
            except IntegrityError as error:
                broken = error
                logger.warning("checkpoint set aside: %s", error)
                with disk_errors(path):
                    path.rename(_free(path))
        if broken is not None:
            raise IntegrityError(f"run {self.folder.name}: no checkpoint is whole; the oldest one: {broken}")
        return None

    def fingerprint(self) -> Fingerprint:
        """That of the newest checkpoint whose manifest is whole; an empty one where there is none."""
        for path in reversed(self.saved()):
            with suppress(IntegrityError):
                return cast(Fingerprint, read_manifest(path)["fingerprint"])
        return {}

    def remove(self) -> None:
        """Remove the folder: the run is complete."""
        with disk_errors(self.folder):
            shutil.rmtree(self.folder)


def _free(path: Path) -> Path:
    """A name to set ``path`` aside under."""
    names = (path.with_name(f"{path.name}{number}{_BROKEN_SUFFIX}") for number in ("", *range(1, 1000)))
    return next(name for name in names if not name.exists())
