"""One at a time where it can be had; never forever, and never in the way of the work."""

import errno
import logging
import multiprocessing
import os
import stat
import time
from pathlib import Path

import filelock
import pytest

from henaw.data.locks import locked

FORK = multiprocessing.get_context("fork")


def count_alone(path: Path, counts: Path) -> None:
    for _ in range(20):
        with locked(path, 60) as lock:
            assert lock.alone
            number = int(counts.read_text())
            time.sleep(0.001)
            counts.write_text(str(number + 1))


def test_no_two_processes_hold_it_and_the_file_is_gone_afterwards(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("0")
    processes = [FORK.Process(target=count_alone, args=(tmp_path / "lock", tmp_path / "n")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "n").read_text() == "80"
    assert not (tmp_path / "lock").exists()


def hold(path: Path, ready: Path) -> None:
    with locked(path, 60):
        ready.touch()
        time.sleep(60)


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A lock that another process holds and does not give back."""
    process = FORK.Process(target=hold, args=(tmp_path / "lock", tmp_path / "ready"), daemon=True)
    process.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    (tmp_path / "pid").write_text(str(process.pid))
    return tmp_path / "lock"


def test_a_holder_that_is_killed_lets_go_at_once(held: Path) -> None:
    assert stat.S_IMODE(held.stat().st_mode) == 0o600
    os.kill(int((held.parent / "pid").read_text()), 9)
    with locked(held, 30) as lock:
        assert lock.alone
        assert lock.seconds < 5


def test_a_holder_that_takes_too_long_is_not_waited_for(held: Path, caplog: pytest.LogCaptureFixture) -> None:
    with locked(held, 0.2) as lock:
        assert not lock.alone
        assert 0.2 <= lock.seconds < 5
    assert held.exists()
    assert "another process has held it for 0 s; going on without it" in caplog.text
    os.kill(int((held.parent / "pid").read_text()), 9)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EROFS])
def test_where_there_are_no_locks_work_goes_on(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    with caplog.at_level(logging.WARNING), locked(tmp_path / "lock", 5) as lock:
        assert not lock.alone
        assert lock.seconds < 1
    assert f"no lock to be had here ({os.strerror(number)})" in caplog.text


def test_an_error_in_the_block_gives_it_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock", 5):
        _ = 1 / 0
    with locked(tmp_path / "lock", 0) as lock:
        assert lock.alone
