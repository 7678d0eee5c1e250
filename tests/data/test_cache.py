"""An entry is whole or absent, whatever is killed, raced or damaged; what follows from other input has another key."""

import hashlib
import io
import itertools
import json
import multiprocessing
import os
import signal
import stat
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess as Process
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml

import henaw
from henaw.config import Config, asset_folder, load_config, validate_config
from henaw.data import cache
from henaw.data.cache import CachedCohort, cache_folder, cache_key, cached
from henaw.data.cohort_image import decode, encode
from henaw.data.panel import Panel, load_panel
from henaw.data.participants import KEY_VARIABLE
from henaw.data.withdrawals import remember_withdrawn
from henaw.errors import BadInput, EnvironmentProblem

KEY = "0123456789abcdef" * 2


def cohort(rows: int = 100, seed: int = 0) -> CachedCohort:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "participant": [rng.bytes(16).hex() for _ in range(rows)],
            "age_years": rng.uniform(20, 80, rows),
            "sex": rng.choice(["female", "male"], rows),
            "crp_mg_l": np.where(rng.random(rows) < 0.1, np.nan, rng.lognormal(size=rows)),
            "centre": [[None, "", "a/b", "Zürich\n", "NA", "07"][number % 6] for number in range(rows)],
        }
    )
    return CachedCohort(
        table.astype({"participant": "str", "sex": "str", "centre": "str"}), {"rows": rows, "of": ["é"]}
    )


def image_of(cohort: CachedCohort) -> bytes:
    return encode(cohort.table, cohort.facts)


def link_target(link: Path) -> str:
    return str(link.readlink()) if link.is_symlink() else ""


def never() -> CachedCohort:
    raise AssertionError("the cache was expected to have it")


def assert_same(found: CachedCohort, expected: CachedCohort) -> None:
    pd.testing.assert_frame_equal(found.table, expected.table, check_exact=True)
    assert found.facts == expected.facts


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "accesses")


def entry(folder: Path) -> tuple[Path, Path]:
    (file,) = folder.glob("*.h5")
    return file, folder / f"{KEY}.blake2b"


@pytest.mark.parametrize("rows", [1, 63, 100, 70_000])
def test_what_goes_in_comes_out(tmp_path: Path, rows: int) -> None:
    expected = cohort(rows)
    first, hit = cached(tmp_path, KEY, lambda: expected)
    assert first is expected
    assert not hit
    second, hit = cached(tmp_path, KEY, never)
    assert hit
    assert_same(second, expected)
    assert isinstance(second.table.index, pd.RangeIndex)
    second.table["age_years"] += 1  # a table from the cache is an ordinary one


def test_values_keep_their_bits(tmp_path: Path) -> None:
    table = cohort(4).table
    table["age_years"] = [0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308]
    found, _ = cached(tmp_path, KEY, lambda: CachedCohort(table, {}))
    again, _ = cached(tmp_path, KEY, never)
    assert found.table["age_years"].to_numpy().tobytes() == again.table["age_years"].to_numpy().tobytes()


def test_modes_are_private_and_the_seal_is_for_b2sum(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "cache"
    cached(folder, KEY, cohort)
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    file, seal = entry(folder)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (file, seal)} == {0o600}
    digest = hashlib.blake2b(file.read_bytes(), digest_size=32).hexdigest()
    assert seal.read_text() == f"{digest}  {file.name}\n"
    assert names(folder) == sorted([file.name, seal.name])


def test_every_dataset_carries_its_checksum(tmp_path: Path) -> None:
    cached(tmp_path, KEY, lambda: cohort(70_000))
    with h5py.File(entry(tmp_path)[0], "r") as file:
        assert set(file) == {"participants", "numbers", "texts", "header"}
        assert all(dataset.fletcher32 and dataset.chunks for dataset in file.values())
    image = bytearray(entry(tmp_path)[0].read_bytes())
    marker = cohort(70_000).table["age_years"].to_numpy()[:1].tobytes()
    image[image.index(marker)] ^= 1
    assert decode(bytes(image)) is None  # found by fletcher32 alone


def test_equal_cohorts_give_equal_bytes() -> None:
    assert image_of(cohort()) == image_of(cohort())
    assert image_of(cohort()) != image_of(cohort(seed=1))


def test_one_handle_stays_open_and_nothing_is_opened_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    real = h5py.File
    monkeypatch.setattr(h5py, "File", lambda name, mode: (opened.append(name), real(name, mode))[1])
    for _ in range(4):
        cached(tmp_path, KEY, cohort)
    assert opened
    assert all(isinstance(name, io.BytesIO) for name in opened)
    held = [target for target in map(link_target, Path("/proc/self/fd").iterdir()) if target.startswith(str(tmp_path))]
    assert held == [str(entry(tmp_path)[0])]


def damage_bit(content: bytes, rng: np.random.Generator) -> bytes:
    position = rng.integers(len(content))
    return content[:position] + bytes([content[position] ^ 1 << rng.integers(8)]) + content[position + 1 :]


def damage_tail(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def damage_page(content: bytes, rng: np.random.Generator) -> bytes:
    start = rng.integers(len(content)) // 4096 * 4096
    return content[:start] + bytes(len(content[start : start + 4096])) + content[start + 4096 :]


DAMAGES: dict[str, tuple[int, Callable[[bytes, np.random.Generator], bytes], int, int]] = {
    "bits of the file": (0, damage_bit, 60, 480),
    "the file cut short": (0, damage_tail, 15, 200),
    "pages of the file": (0, damage_page, 15, 200),
    "bits of the seal": (1, damage_bit, 15, 100),
    "the seal cut short": (1, damage_tail, 10, 19),
    "the seal zeroed": (1, damage_page, 1, 1),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_found_or_harmless(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    damage_entry(tmp_path, kind, DAMAGES[kind][2], caplog)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_damages_are_found_or_harmless(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert sum(times for *_, times in DAMAGES.values()) == 1000
    for kind, (*_, times) in DAMAGES.items():
        damage_entry(tmp_path / kind, kind, times, caplog)


def damage_entry(tmp_path: Path, kind: str, times: int, caplog: pytest.LogCaptureFixture) -> None:
    which, damage, *_ = DAMAGES[kind]
    rng, expected, found = np.random.default_rng(which), cohort(2000), 0
    cached(tmp_path, KEY, lambda: expected)
    path = entry(tmp_path)[which]
    whole = path.read_bytes()
    for _ in range(times):
        path.write_bytes(damage(whole, rng))
        changed = path.read_bytes() != whole
        caplog.clear()
        back, hit = cached(tmp_path, KEY, lambda: expected)
        assert_same(back, expected)
        assert path.read_bytes()[:64] == whole[:64]
        if not hit:
            found += 1
            assert f"entry {KEY} is damaged; set aside" in caplog.text
            assert any(name.endswith(".corrupt") for name in names(tmp_path))
        assert not hit or not changed or which == 1  # the seal's second half is not read
        assert cached(tmp_path, KEY, never)[1]
    assert found > times / 3
    print(f"{kind}: damaged {times} times, {found} found and built again, {times - found} harmless, 0 read wrong")


def test_set_aside_files_stay_private(tmp_path: Path) -> None:
    cached(tmp_path, KEY, cohort)
    file, _ = entry(tmp_path)
    file.write_bytes(b"x")
    assert cache.load(tmp_path, KEY) is None
    assert names(tmp_path) == [f"{file.name}.corrupt", f"{KEY}.blake2b.corrupt"] or len(names(tmp_path)) == 2
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.iterdir())


def test_a_sealed_file_that_is_no_cohort_is_set_aside(tmp_path: Path) -> None:
    for image in (b"", b"no HDF5", image_of(cohort())[:-8]):
        digest = hashlib.blake2b(image, digest_size=32).hexdigest()
        (tmp_path / f"{KEY}-{digest[:16]}.h5").write_bytes(image)
        (tmp_path / f"{KEY}.blake2b").write_text(digest)
        assert cache.load(tmp_path, KEY) is None
        assert not (tmp_path / f"{KEY}.blake2b").exists()


def test_a_file_without_its_seal_is_not_read(tmp_path: Path) -> None:
    cached(tmp_path, KEY, cohort)
    entry(tmp_path)[1].unlink()
    found, hit = cached(tmp_path, KEY, lambda: cohort(seed=1))
    assert not hit
    assert_same(found, cohort(seed=1))


def test_a_failing_build_keeps_nothing(tmp_path: Path) -> None:
    def fail() -> CachedCohort:
        raise BadInput("no rows")

    with pytest.raises(BadInput):
        cached(tmp_path / "cache", KEY, fail)
    assert names(tmp_path / "cache") == []


def test_a_disk_that_gives_back_other_bytes_is_found_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: real(path)[:-1] + b"?" if path.suffix == ".tmp" else real(path)
    )
    with pytest.raises(EnvironmentProblem, match="the disk gives back other bytes than were written"):
        cached(tmp_path, KEY, cohort)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "flush_to_disk", full)
    with pytest.raises(EnvironmentProblem, match=r"\.h5: cannot be written: No space left on device$"):
        cached(tmp_path, KEY, cohort)
    assert names(tmp_path) == []


def test_old_leftovers_are_removed_young_ones_and_entries_stay(tmp_path: Path) -> None:
    cached(tmp_path, KEY, cohort)
    kept = names(tmp_path)
    for age, prefix in ((3700, "old"), (100, "young")):
        for name in (f".{prefix}.1-ff.tmp", f"{prefix}-0123456789abcdef.h5"):
            (tmp_path / name).write_text("")
            os.utime(tmp_path / name, (time.time() - age,) * 2)
    for name in kept:
        os.utime(tmp_path / name, (time.time() - 1e6,) * 2)
    cache.store(tmp_path, "f" * 32, cohort(seed=1))
    left = [name for name in names(tmp_path) if not name.startswith("f" * 32)]
    assert left == sorted([*kept, ".young.1-ff.tmp", "young-0123456789abcdef.h5"])
    assert cached(tmp_path, KEY, never)[1]


@pytest.mark.parametrize("fault", ["dtype", "index", "rows"])
def test_what_cannot_be_kept_exactly_is_refused(tmp_path: Path, fault: str) -> None:
    table = {
        "dtype": lambda rows: rows.astype({"age_years": "float32"}),
        "index": lambda rows: rows.iloc[::2],
        "rows": lambda rows: rows.iloc[:0].reset_index(drop=True),
    }[fault](cohort().table)
    with pytest.raises(ValueError, match="a cohort to cache has"):
        cached(tmp_path, KEY, lambda: CachedCohort(table, {}))


def write_slowly(path: Path, content: bytes) -> int:
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(content), 1 << 17):
            time.sleep(0.003)
            file.write(content[start : start + (1 << 17)])
    return len(content)


def write_forever(folder: Path, cohorts: list[CachedCohort]) -> None:
    Path.write_bytes = write_slowly  # so that most are killed while they write
    for each in itertools.cycle(cohorts):
        cache.store(folder, KEY, each)


def writer(folder: Path, cohorts: list[CachedCohort]) -> Process:
    """A forked process, because a fresh one takes a second to import what it needs."""
    process = multiprocessing.get_context("fork").Process(target=write_forever, args=(folder, cohorts), daemon=True)
    process.start()
    return process


def kill(process: Process) -> None:
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    process.close()


def kill_writers(folder: Path, times: int) -> None:
    rng = np.random.default_rng(times)
    both = [cohort(20_000, seed) for seed in (0, 1)]
    whole = leftovers = 0
    for attempt in range(times):
        if attempt == times // 3 and not whole:  # a busy machine: no writer has got that far
            cache.store(folder, KEY, both[0])
        process = writer(folder, both)
        time.sleep(rng.uniform(0, 0.15))
        kill(process)
        found = cache.load(folder, KEY) if folder.exists() else None
        assert found is not None or not whole  # once there is an entry there always is
        assert found is None or any(found.table.equals(each.table) for each in both)
        whole += found is not None
        leftovers += any(name.endswith(".tmp") for name in names(folder)) if folder.exists() else 0
    assert whole > times / 2
    assert leftovers  # some were killed in the middle of writing
    assert not [name for name in names(folder) if name.endswith(".corrupt")]
    print(f"{times} writers killed: {leftovers} times a part was left behind, 0 torn reads")


def test_killed_writers_leave_a_whole_entry(tmp_path: Path) -> None:
    kill_writers(tmp_path / "cache", 20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_killed_writers_leave_a_whole_entry(tmp_path: Path) -> None:
    kill_writers(tmp_path / "cache", 200)


def test_two_processes_that_race_leave_one_valid_entry(tmp_path: Path) -> None:
    """Both write the same key again and again, with unequal content; a reader looks on."""
    both = [cohort(20_000, seed) for seed in (0, 1)]
    cache.store(tmp_path, KEY, both[0])
    processes = [writer(tmp_path, both), writer(tmp_path, both[::-1])]
    seen = []
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        found = cache.load(tmp_path, KEY)
        assert found is not None
        seen.append([found.table.equals(each.table) for each in both])
    for process in processes:
        kill(process)
    assert all(map(any, seen))
    assert {each.index(True) for each in seen} == {0, 1}
    assert cached(tmp_path, KEY, never)[1]
    assert not [name for name in names(tmp_path) if name.endswith(".corrupt")]


@pytest.fixture
def panel() -> Panel:
    return load_panel("blood9", asset_folder("mlproject") / "panels")


@pytest.fixture
def config(tmp_path: Path, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    identity = ["participant_id", "eid", "age_years", "sex", "cycle", "pregnant", "died", "followup_months"]
    header = ",".join([*identity, *panel.names])
    (tmp_path / "t.csv").write_text(f"{header}\n" + "1,2,50,male,a,0,0,60" + ",1.5" * 9 + "\n")
    return changed(load_config(data=str(tmp_path / "t.csv")), {"state": {"folder": str(tmp_path / ".henaw")}})


def changed(config: Config, sections: dict[str, Any]) -> Config:
    values = yaml.safe_load(config.to_yaml())
    for name, value in sections.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    return validate_config(values)


def test_the_key_is_stable_where_nothing_of_the_cohort_changes(config: Config, panel: Panel) -> None:
    key = cache_key(config, panel)
    assert len(key) == 32
    assert cache_key(config, panel) == key
    for sections in ({"training": {"epochs": 1}}, {"network": {"members": 2}}, {"tracking": {"experiment": "x"}}):
        assert cache_key(changed(config, sections), panel) == key
    assert cache_folder(config) == Path(config.state.folder) / "cache"


def test_any_change_of_what_the_cohort_follows_from_is_another_key(
    config: Config, panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"as it was": cache_key(config, panel)}
    withdrawn = tmp_path / "w12345_20260101.csv"
    withdrawn.write_text("7\n")
    for sections in (
        {"source": {"id_columns": ["eid"]}},
        {"source": {"id_columns": []}},
        {"cohort": {"ages": [20, 78]}},
        {"cohort": {"exclude": {"pregnant": [1]}}},
        {"cohort": {"exclude": {"pregnant": [2]}}},
        {"cohort": {"complete_panel": True}},
        {"cohort": {"require": ["pregnant"]}},
        {"cohort": {"floors": {"crp_mg_l": 2.1}}},
        {"target": "mortality"},
        {"validation": {"max_set_aside": 0.3}},
        {"split": {"by": "column", "column": "cycle", "test": ["a"]}},
        {"source": {"withdrawals": str(withdrawn)}},
    ):
        keys[json.dumps(sections)] = cache_key(changed(config, sections), panel)
    marker = panel.biomarkers[0]
    for change in ({"plausible": (0.1, 100.0)}, {"unit": "mg/dL"}, {"transform": "identity"}):
        other = (marker.model_copy(update=change), *panel.biomarkers[1:])
        keys[f"panel {change}"] = cache_key(config, panel.model_copy(update={"biomarkers": other}))
    keys["fewer biomarkers"] = cache_key(config, panel.model_copy(update={"biomarkers": panel.biomarkers[:-1]}))

    with monkeypatch.context() as patch:
        patch.setattr(cache, "__version__", henaw.__version__ + ".1")
        keys["version"] = cache_key(config, panel)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_SCHEMA", 2)
        keys["schema"] = cache_key(config, panel)
    with monkeypatch.context() as patch:
        patch.setenv(KEY_VARIABLE, "ab" * 32)
        keys["pseudonyms"] = cache_key(config, panel)
    for changed_file in (
        *("table.py", "suites.py"),  # code of data, and of validation
        *("schema.json", "units.yaml", "reference.yaml"),  # what is judged by
    ):
        with monkeypatch.context() as patch:
            real = cache.digest_file
            patch.setattr(
                cache, "digest_file", lambda path, name=changed_file, real=real: real(path) + "!" * (path.name == name)
            )
            keys[changed_file] = cache_key(config, panel)
    source = tmp_path / "t.csv"
    source.write_text(source.read_text().replace("1.5", "1.6", 1))
    keys["source"] = cache_key(config, panel)
    withdrawn.write_text("7\n8\n")
    keys["a longer list"] = cache_key(changed(config, {"source": {"withdrawals": str(withdrawn)}}), panel)
    remember_withdrawn(Path(config.state.folder), ["ab" * 16])
    keys["henaw withdraw"] = cache_key(config, panel)
    assert len(set(keys.values())) == len(keys) == 28
    print(f"{len(keys)} changes of input, code and settings: {len(set(keys.values()))} keys")
