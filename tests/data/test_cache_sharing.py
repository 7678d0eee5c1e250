"""Processes that share a cache: one builds and the others wait, the dead do not block, a full disk breaks nothing."""

import errno
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess as Process
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from henaw.data import cache
from henaw.data.cache import CachedCohort, access, cached
from henaw.data.cohort_image import encode
from henaw.errors import EnvironmentProblem
from tests.data.test_cache import KEY, assert_same, cohort, image_of, names, never

FORK = multiprocessing.get_context("fork")


def start(target: Callable[..., None], *arguments: Any) -> Process:
    process = FORK.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def note(path: Path, word: str) -> None:
    with path.open("a") as file:
        file.write(f"{word}\n")


def build_or_wait(folder: Path, keys: list[str], seconds: float) -> None:
    for key in keys:

        def build(key: str = key) -> CachedCohort:
            note(folder / "builds", key)
            time.sleep(seconds)
            return cohort(200, int(key, 16) % 100)

        found, _ = cached(folder / "cache", key, build)
        assert_same(found, cohort(200, int(key, 16) % 100))


def race(folder: Path, processes: int, keys: int) -> list[str]:
    names_of_keys = [f"{number:032x}" for number in range(keys)]
    rng = np.random.default_rng(0)
    racing = [start(build_or_wait, folder, rng.permutation(names_of_keys).tolist(), 0.05) for _ in range(processes)]
    for process in racing:
        process.join()
        assert process.exitcode == 0
    builds = (folder / "builds").read_text().split()
    print(f"{processes} processes raced for {keys} keys: {len(builds)} builds")
    assert sorted(builds) == names_of_keys
    assert not [name for name in names(folder / "cache") if not name.endswith((".h5", ".blake2b"))]
    return builds


def test_sixteen_processes_build_a_key_once(tmp_path: Path) -> None:
    race(tmp_path, 16, 3)


@pytest.mark.slow
def test_sixteen_processes_build_each_of_many_keys_once(tmp_path: Path) -> None:
    race(tmp_path, 16, 40)


def test_a_damaged_entry_is_set_aside_and_built_once_by_all(tmp_path: Path) -> None:
    race(tmp_path, 1, 1)
    (tmp_path / "builds").unlink()
    (file,) = (tmp_path / "cache").glob("*.h5")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    racing = [start(build_or_wait, tmp_path, [f"{0:032x}"], 0.1) for _ in range(8)]
    for process in racing:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "builds").read_text().split() == [f"{0:032x}"]
    assert len([name for name in names(tmp_path / "cache") if name.endswith(".corrupt")]) == 2


def hang(folder: Path) -> None:
    def build() -> CachedCohort:
        (folder / "started").touch()
        time.sleep(60)
        return cohort()

    cached(folder / "cache", KEY, build)


@pytest.fixture
def hanging(tmp_path: Path) -> Process:
    """A process that has the lock of a key and does not get on."""
    process = start(hang, tmp_path)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    return process


def test_a_builder_that_dies_leaves_the_work_to_the_next(tmp_path: Path, hanging: Process) -> None:
    waiting = start(build_or_wait, tmp_path, [KEY], 0)
    time.sleep(0.2)
    assert not (tmp_path / "builds").exists()
    assert hanging.pid is not None
    os.kill(hanging.pid, signal.SIGKILL)
    waiting.join(30)
    assert waiting.exitcode == 0
    assert (tmp_path / "builds").read_text().split() == [KEY]


def test_a_builder_that_hangs_is_not_waited_for_longer_than_asked(
    tmp_path: Path, hanging: Process, caplog: pytest.LogCaptureFixture
) -> None:
    expected = cohort(seed=4)
    found, hit = cached(tmp_path / "cache", KEY, lambda: expected, longest_wait=0.2)
    assert not hit
    assert_same(found, expected)
    assert "going on without it" in caplog.text
    assert cached(tmp_path / "cache", KEY, never)[1]
    hanging.kill()


def test_what_looking_took_is_told(tmp_path: Path) -> None:
    rates = []
    for _ in range(4):
        with access(tmp_path / "cache", KEY, 10) as found:
            rates.append(found.hit_rate)
            assert 0 <= found.lock_seconds < 5
            assert 0 <= found.load_seconds < 5
            if found.cohort is None:
                cache.store(tmp_path / "cache", found.key, cohort())
            else:
                assert found.lock_seconds == 0
    assert rates == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4])
    assert (tmp_path / "cache" / "accesses").stat().st_mode & 0o777 == 0o600


def store_within(folder: Path, limit: int, other: CachedCohort) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        cache.store(folder, KEY, other)
    except EnvironmentProblem as error:
        assert os.strerror(errno.EFBIG) in str(error)  # noqa: PT017 (another process)
        os._exit(3)
    os._exit(0)


def fill_disk(folder: Path, times: int) -> None:
    """The disk ends after any number of bytes: of the file, or of the seal."""
    before, after = cohort(300), cohort(300, seed=1)
    size = len(image_of(after))
    cache.store(folder, KEY, before)
    full = 0
    for limit in [*range(0, 100, max(1, 1000 // times)), *np.linspace(0, size + 10, times).astype(int).tolist()]:
        process = start(store_within, folder, int(limit), after)
        process.join()
        assert process.exitcode in (0, 3)
        full += process.exitcode == 3
        found = cache.load(folder, KEY)
        assert found is not None
        assert_same(found, before if process.exitcode == 3 else after)
        assert not [name for name in names(folder) if name.endswith((".tmp", ".corrupt"))]
        cache.store(folder, KEY, before)
    print(f"the disk was full {full} times: 0 broken entries, 0 leftovers")
    assert full >= times


def test_a_disk_that_fills_up_breaks_no_entry(tmp_path: Path) -> None:
    fill_disk(tmp_path / "cache", 10)


@pytest.mark.slow
def test_a_disk_that_fills_up_anywhere_breaks_no_entry(tmp_path: Path) -> None:
    fill_disk(tmp_path / "cache", 200)


def test_who_withdraws_leaves_the_cache_and_so_does_what_cannot_be_read(tmp_path: Path) -> None:
    keys = [f"{number:032x}" for number in range(4)]
    for number, key in enumerate(keys):
        cached(tmp_path, key, lambda number=number: cohort(50, number))  # type: ignore[misc]
    damaged = next(tmp_path.glob(f"{keys[3]}-*.h5"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    for name in (f"{keys[0]}-0123456789abcdef.h5", f"{keys[1]}.blake2b.corrupt", f".{keys[2]}.h5.12-ab.tmp"):
        (tmp_path / name).write_bytes(encode(cohort(50).table, {}))
    gone = {cohort(50, 1).table["participant"].iloc[7], "f" * 32}
    assert cache.remove_people(tmp_path, gone) == 7
    assert [cache.load(tmp_path, key) is not None for key in keys] == [True, False, True, False]
    assert len(names(tmp_path)) == 4
    assert cache.remove_people(tmp_path, gone) == 0
    assert cache.remove_people(tmp_path / "absent", gone) == 0


def test_an_entry_that_is_replaced_while_it_is_kept_open_is_read_anew(tmp_path: Path) -> None:
    for seed in range(3):
        cache.store(tmp_path, KEY, cohort(seed=seed))
        for _ in range(2):
            found = cache.load(tmp_path, KEY)
            assert found is not None
            assert_same(found, cohort(seed=seed))
