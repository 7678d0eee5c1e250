"""One handle a file and process, always on what the name means now, and none in a forked child."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from henaw.data import handles
from henaw.data.handles import open_handles, read_kept_open


@pytest.fixture(autouse=True)
def no_handles() -> Iterator[None]:
    handles._start_without_handles()
    yield
    handles._start_without_handles()


def opens(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    seen: list[object] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: (seen.append(path), real(path, flags))[1])
    return seen


def test_the_second_time_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"whole")
    seen = opens(monkeypatch)
    assert [read_kept_open(path) for _ in range(3)] == [b"whole"] * 3
    assert seen == [path]


def test_what_is_changed_or_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content in (b"", b"one", b"three", b"x" * 100_000):
        path.write_bytes(content)
        assert read_kept_open(path) == content
        (tmp_path / "b").write_bytes(content[::-1])
        (tmp_path / "b").replace(path)
        assert read_kept_open(path) == content[::-1]
        assert open_handles() == 1
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_kept_open(path)
    assert open_handles() == 0


def test_few_are_kept(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / str(number)).write_text(str(number))
        assert read_kept_open(tmp_path / str(number)) == str(number).encode()
    assert open_handles() == 8


def test_long_files_are_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, start: real(descriptor, min(size, 7), start))
    (tmp_path / "a").write_bytes(bytes(range(100)))
    assert read_kept_open(tmp_path / "a") == bytes(range(100))


def report(pipe: Connection, path: Path) -> None:
    held = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    pipe.send((open_handles(), path in held, read_kept_open(path)))


def test_a_forked_child_starts_without(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"whole")
    assert read_kept_open(path) == b"whole"
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=report, args=(theirs, path))
    process.start()
    assert ours.recv() == (0, False, b"whole")
    process.join()
    assert open_handles() == 1
    assert read_kept_open(path) == b"whole"


def test_threads_read_whole_files(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 50_000)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_kept_open, paths * 20))
    assert found == [path.read_bytes() for path in paths] * 20
