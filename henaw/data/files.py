"""Files on disk: the one atomic writer, private folders and content digests.

A path that HENAW writes holds either the old content or the whole new one, after a crash at any moment: content goes to
a unique temporary file in the same folder, is flushed to the disk and renamed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from henaw.errors import BadInput, EnvironmentProblem

logger = logging.getLogger(__name__)

_TEMPORARY_SUFFIX = ".tmp"
_BLOCK_BYTES = 1 << 20
_WORTH_REMEMBERING = 1 << 26
_REMEMBERED = 1000
_TICK_SECONDS = 2.0


def write_atomically(path: Path, write: Callable[[Path], object], mode: int = 0o600) -> None:
    """Replace ``path`` by what ``write`` puts into the temporary file that it is handed.

    ``write`` opens the temporary file by its path, and may check what it wrote before it returns. When it raises, the
    temporary file is removed and ``path`` is left as it was. A symbolic link is followed.

    Raises:
        BadInput: ``path`` exists and is not a regular file.
        EnvironmentProblem: the disk or its permissions do not allow it (the message names the path).
    """
    with disk_errors(path):
        path = Path(os.path.realpath(path))
        if path.exists() and not path.is_file():
            raise BadInput(f"{path}: cannot be written: expected a file, found a folder or device")
    with _complete_temporary(path, write, mode) as temporary:
        temporary.replace(path)


def create_once(path: Path, write: Callable[[Path], object], mode: int = 0o600) -> bool:
    """Like ``write_atomically``, but the first of several racing processes wins; False where ``path`` already existed.

    Raises:
        EnvironmentProblem: the disk or its permissions do not allow it.
    """
    with _complete_temporary(path, write, mode) as temporary:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        return True


def private_folder(path: Path) -> Path:
    """Make folder ``path`` for this user alone (mode 0700) where it does not exist, and so its missing parents.

    Raises:
        EnvironmentProblem: it cannot be made, or something else has its name.
    """
    if not path.parent.exists():
        private_folder(path.parent)
    with disk_errors(path):
        path.mkdir(mode=0o700, exist_ok=True)
    return path


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder; where that cannot be known it is none, and whoever opens it says why."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def require_file(path: Path, expected: str) -> None:
    """Check that ``path`` is a regular file that can be opened: a pipe or device might never end.

    Raises:
        BadInput: it is not; the message ends with what was ``expected``.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return
    except (FileNotFoundError, ValueError):  # ValueError: a name that no file can have
        raise BadInput(f"{path}: no such file; {expected}") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    raise BadInput(f"{path}: is a {'folder' if stat.S_ISDIR(mode) else 'pipe or device'}; {expected}")


def digest_file(path: Path) -> str:
    """BLAKE2b (256 bit, hex) of the bytes of ``path``, read in blocks.

    Raises:
        EnvironmentProblem: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=32)
    with disk_errors(path, "read"), path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def remembered_digest(path: Path, memory: Path) -> str:
    """``digest_file``, looked up in the file ``memory`` as long as ``path`` is untouched: for files of gigabytes.

    Untouched means the same place, size and times of change. Small files are read every time.

    Raises:
        EnvironmentProblem: ``path`` cannot be read, or ``memory`` not written.
    """
    with disk_errors(path, "read"):
        before = path.stat()
        if before.st_size < _WORTH_REMEMBERING:
            return digest_file(path)
        identity = digest_values([str(path.resolve()), before.st_dev, before.st_ino, *_state(before)])
        known = _known(memory)
        if identity in known:
            return known[identity]
        digest = digest_file(path)
        # Changes within the tick of the clock leave no trace in the times.
        settled = time.time() - max(before.st_mtime, before.st_ctime) > _TICK_SECONDS
        if settled and _state(path.stat()) == _state(before):
            private_folder(memory.parent)
            recent = dict(list(known.items())[-_REMEMBERED:]) | {identity: digest}
            write_atomically(memory, lambda temporary: temporary.write_text(json.dumps(recent)))
    return digest


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _known(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def digest_values(values: Any) -> str:
    """BLAKE2b (256 bit, hex) of JSON-able ``values``; the order of a mapping's keys does not count."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def remove_orphans(folder: Path, older_than_seconds: float = 3600) -> int:
    """Remove temporary files that killed processes left in ``folder``; younger ones may be in use. Returns how many."""
    return sum(remove_if_old(leftover, older_than_seconds) for leftover in folder.glob(f".*{_TEMPORARY_SUFFIX}"))


def remove_if_old(path: Path, older_than_seconds: float) -> bool:
    """Remove ``path`` where it is older than that; False where it is younger, gone or not ours to remove."""
    try:
        if time.time() - path.stat().st_mtime < older_than_seconds:
            return False
        path.unlink()
    except OSError:
        return False
    logger.info("removed leftover file %s", path)
    return True


def flush_to_disk(path: Path) -> None:
    """``fsync`` a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _complete_temporary(path: Path, write: Callable[[Path], object], mode: int) -> Iterator[Path]:
    """A temporary file beside ``path``, written and on the disk; the body gives it its final name."""
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}-{secrets.token_hex(6)}{_TEMPORARY_SUFFIX}")
    with disk_errors(path):
        # The mode is set when the file is created: its content is never readable by others, not even for a moment.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IMODE(mode)))
        try:
            write(temporary)
            temporary.chmod(mode)
            flush_to_disk(temporary)
            yield temporary
            flush_to_disk(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path, action: str = "written") -> Iterator[None]:
    """What the disk refuses in the block becomes one line about ``path``.

    Raises:
        EnvironmentProblem: the block raised ``OSError``.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise EnvironmentProblem(f"{path}: cannot be {action}: {reason}") from error
