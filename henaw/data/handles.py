"""Files that are read again and again through one handle a process.

A file is known by its inode: what a rename put in the place of another is opened anew. A forked child starts without
handles: its parent's are closed there before anything else runs.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

_MOST = 8
_BLOCK_BYTES = 1 << 30

_open: dict[Path, int] = {}  # the oldest first
_access = threading.Lock()
_watches_forks = False


def read_kept_open(path: Path) -> bytes:
    """The content of ``path``, read from its start; its handle stays open for the next time.

    Raises:
        OSError: it cannot be read.
    """
    with _access:
        _close_at_fork()
        descriptor = _descriptor(path)
        content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        while block := os.pread(descriptor, _BLOCK_BYTES, len(content)):  # a read gives 2 GiB at most
            content += block
        return content


def open_handles() -> int:
    """How many files this process keeps open."""
    return len(_open)


def _descriptor(path: Path) -> int:
    for known in list(_open):
        if not _is_current(known):
            os.close(_open.pop(known))
    if path not in _open:
        while len(_open) >= _MOST:
            os.close(_open.pop(next(iter(_open))))
        _open[path] = os.open(path, os.O_RDONLY)  # no program that is started inherits it
    return _open[path]


def _is_current(path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(_open[path]))
    except OSError:
        return False


def _close_at_fork() -> None:
    global _watches_forks
    if not _watches_forks and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_start_without_handles)
    _watches_forks = True


def _start_without_handles() -> None:
    global _access
    _access = threading.Lock()  # a thread of the parent may have held it
    for descriptor in _open.values():
        os.close(descriptor)
    _open.clear()
