"""Locks between processes, so that work is not done twice.

They guard nothing: what is written is whole by its rename (``henaw.data.files``), with a lock or without. The kernel
releases a lock when its holder dies. Where the disk knows no locks (some NFS mounts), where the lock is not ours to
take, or where its holder takes too long, work goes on without it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Waited:
    """How long the lock took in seconds, and whether it was had in the end."""

    seconds: float
    alone: bool


@contextmanager
def locked(path: Path, longest_wait: float) -> Iterator[Waited]:
    """Hold the lock ``path`` (mode 0600) for the block, having waited for it for ``longest_wait`` seconds at most.

    The file is gone afterwards. Whoever waits on one that was removed sees that and takes the next.
    """
    began = time.perf_counter()
    # No soft lock in place of a missing flock: it would outlive a holder that was killed.
    lock = filelock.FileLock(path, mode=0o600, poll_interval=_POLL_SECONDS, fallback_to_soft=False)
    alone = False
    try:
        lock.acquire(timeout=longest_wait)
        alone = True
    except filelock.Timeout:
        logger.warning("%s: another process has held it for %.0f s; going on without it", path, longest_wait)
    except OSError as error:
        logger.warning("%s: no lock to be had here (%s); going on without it", path, error.strerror)
    try:
        yield Waited(time.perf_counter() - began, alone)
    finally:
        if alone:
            path.unlink(missing_ok=True)
            lock.release()
