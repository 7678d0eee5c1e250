"""A path holds the old content or the whole new one, whatever happens in between."""

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from henaw.data import files
from henaw.errors import BadInput, EnvironmentProblem


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", "no such file; expected a list"),
        ("file/in/a/file", "cannot be read: Not a directory"),
        ("n" * 300, "cannot be read: File name too long"),
        ("n\0", "no such file"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("folder", "is a folder; expected a list"),
        ("pipe", "is a pipe or device; expected a list"),
        ("zero", "is a pipe or device"),
    ],
)
def test_what_is_no_file_is_bad_input(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    files.require_file(tmp_path / "file", "expected a list")
    assert [files.is_folder(tmp_path / one) for one in ("folder", name)] == [True, name == "folder"]
    with pytest.raises(BadInput) as caught:
        files.require_file(tmp_path / name, "expected a list")
    assert str(caught.value).startswith(f"{tmp_path / name}: {words}")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_content_replaces_old_with_private_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o644)
    files.write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert mode_of(path) == 0o600
    assert names(tmp_path) == ["a.txt"]


def test_temporary_is_private_beside_the_target_and_unique(tmp_path: Path) -> None:
    seen = []

    def write(temporary: Path) -> None:
        seen.append((temporary.name, temporary.parent, mode_of(temporary)))
        temporary.write_text("x")

    for _ in range(3):
        files.write_atomically(tmp_path / "a", write, mode=0o640)
    assert len({name for name, _, _ in seen}) == 3
    assert {(parent, mode) for _, parent, mode in seen} == {(tmp_path, 0o640)}
    assert mode_of(tmp_path / "a") == 0o640


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()])
def test_failure_leaves_the_old_content_and_no_temporary(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise failure

    with pytest.raises(type(failure)):
        files.write_atomically(path, write)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_order_is_write_flush_rename_flush_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    flush, replace = files.flush_to_disk, Path.replace
    monkeypatch.setattr(files, "flush_to_disk", lambda path: (events.append(("flush", path)), flush(path)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append(("rename", to)), replace(self, to))[1])

    def write(temporary: Path) -> None:
        events.append(("write", temporary))

    files.write_atomically(tmp_path / "a", write)
    assert [name for name, _ in events] == ["write", "flush", "rename", "flush"]
    assert [path for _, path in events[1:]] == [events[0][1], tmp_path / "a", tmp_path]


def test_full_disk_is_one_line_with_the_path(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        with Path("/dev/full").open("w") as full:
            full.write("x" * 100_000)

    with pytest.raises(EnvironmentProblem, match=r"/a: cannot be written: No space left on device$"):
        files.write_atomically(tmp_path / "a", write)
    assert names(tmp_path) == []


def test_missing_folder_and_denied_permission_name_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentProblem, match=r"/nowhere/a: cannot be written: No such file or directory"):
        files.write_atomically(tmp_path / "nowhere" / "a", lambda _: None)

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(EnvironmentProblem, match=r"/a: cannot be written: Permission denied"):
        files.write_atomically(tmp_path / "a", lambda _: None)


def test_a_folder_or_device_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(BadInput, match="expected a file"):
            files.write_atomically(path, lambda _: None)
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_symbolic_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "a", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    files.write_atomically(link, lambda temporary: temporary.write_text("new"))
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_create_once_keeps_the_first(tmp_path: Path) -> None:
    assert files.create_once(tmp_path / "a", lambda t: t.write_text("first"))
    assert not files.create_once(tmp_path / "a", lambda t: t.write_text("second"))
    assert (tmp_path / "a").read_text() == "first"
    assert names(tmp_path) == ["a"]


def test_private_folder(tmp_path: Path) -> None:
    folder = files.private_folder(tmp_path / "x" / ".henaw")
    assert mode_of(folder) == mode_of(folder.parent) == 0o700
    folder.chmod(0o750)
    assert mode_of(files.private_folder(folder)) == 0o750  # a folder that the user made is the user's
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="/file: cannot be written"):
        files.private_folder(tmp_path / "file")


def test_digest_is_blake2b_of_the_bytes(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 7)  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert files.digest_file(tmp_path / "a") == hashlib.blake2b(content, digest_size=32).hexdigest()
    with pytest.raises(EnvironmentProblem, match="/b: cannot be read: No such file"):
        files.digest_file(tmp_path / "b")


def test_only_old_temporaries_are_removed(tmp_path: Path) -> None:
    for name in (".a.1-ff.tmp", ".b.1-ff.tmp", "c.tmp", "d"):
        (tmp_path / name).write_text("")
    for name in (".a.1-ff.tmp", "c.tmp", "d"):
        os.utime(tmp_path / name, (time.time() - 3601,) * 2)
    assert files.remove_orphans(tmp_path) == 1
    assert names(tmp_path) == [".b.1-ff.tmp", "c.tmp", "d"]


def test_killed_writers_leave_whole_content(tmp_path: Path) -> None:
    """A process rewrites 2 MB of one repeated byte as fast as it can and is killed at some moment, twenty times."""
    path = tmp_path / "a"
    program = """
import itertools, sys
from pathlib import Path
from henaw.data.files import write_atomically
for i in itertools.count():
    write_atomically(Path(sys.argv[1]), lambda temporary: temporary.write_bytes(bytes([i % 256]) * 2**21))
"""
    for attempt in range(20):
        process = subprocess.Popen([sys.executable, "-c", program, str(path)])
        while not path.exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(0.002 * attempt)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        content = path.read_bytes()
        assert len(content) == 2**21
        assert len(set(content)) == 1
        path.unlink()
    files.remove_orphans(tmp_path, older_than_seconds=-1)
    assert names(tmp_path) == []
