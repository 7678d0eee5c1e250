"""A saved clock of either kind is loaded whole or not at all, with numpy alone and without pickle."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from henaw.data.files import digest_file
from henaw.errors import HenawError, IntegrityError
from henaw.model.answers import answer
from henaw.model.clock import Clock, Target, TrainingRange
from henaw.model.gap import GapRegression
from henaw.model.heads import Head
from henaw.model.storage import FORMAT, load_clock, save_clock
from tests.conftest import REPOSITORY
from tests.scenarios import BINS, HEADS, blood_clock, blood_rows

FILES = ("clock.json", "manifest.json", "weights.safetensors")


@pytest.fixture(params=["age", "mortality"])
def target(request: pytest.FixtureRequest) -> Target:
    chosen: Target = request.param
    return chosen


@pytest.fixture
def saved(tmp_path: Path, target: Target) -> Path:
    save_clock(blood_clock(target=target), tmp_path / "clock")
    return tmp_path / "clock"


def rewrite_description(folder: Path, **changes: object) -> None:
    """Change ``clock.json`` and make the manifest fit, as somebody would who edits a clock."""
    described = json.loads((folder / "clock.json").read_text(encoding="utf-8"))
    (folder / "clock.json").write_text(json.dumps({**described, **changes}), encoding="utf-8")
    seal(folder)


def seal(folder: Path) -> None:
    digests = {name: digest_file(folder / name) for name in ("clock.json", "weights.safetensors")}
    (folder / "manifest.json").write_text(json.dumps({"format": FORMAT, "blake2b": digests}), encoding="utf-8")


def answers(clock: Clock) -> pd.DataFrame:
    return answer(clock, blood_rows(40, 5), 0.9, quantiles=True)


def test_what_is_saved_is_what_is_loaded(saved: Path, target: Target) -> None:
    clock = blood_clock(target=target)
    loaded = load_clock(saved)
    pd.testing.assert_frame_equal(answers(loaded), answers(clock), check_exact=True)
    for name in ("target", "panel", "shape", "gap", "hazard", "max_missing"):
        assert getattr(loaded, name) == getattr(clock, name)
    for name in ("edges", "levels"):
        np.testing.assert_array_equal(getattr(loaded.calibration, name), getattr(clock.calibration, name))
    np.testing.assert_array_equal(loaded.trained_on.lowest, clock.trained_on.lowest)
    np.testing.assert_array_equal(loaded.trained_on.highest, clock.trained_on.highest)
    assert loaded.trained_on.ages == clock.trained_on.ages


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_clock_of_any_head_is_loaded_as_it_was(tmp_path: Path, head: Head) -> None:
    clock = blood_clock(head=head)
    save_clock(clock, tmp_path / "clock")
    loaded = load_clock(tmp_path / "clock")
    assert loaded.shape == clock.shape
    pd.testing.assert_frame_equal(answers(loaded), answers(clock), check_exact=True)


def test_an_unknown_range_survives_in_strict_json(tmp_path: Path) -> None:
    clock = blood_clock()
    lowest, highest = clock.trained_on.lowest.copy(), clock.trained_on.highest.copy()
    lowest[3] = highest[3] = np.nan
    save_clock(replace(clock, trained_on=TrainingRange(lowest, highest, (20, 79))), tmp_path / "clock")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    json.loads((tmp_path / "clock" / "clock.json").read_text(encoding="utf-8"), parse_constant=refuse)
    loaded = load_clock(tmp_path / "clock")
    np.testing.assert_array_equal(loaded.trained_on.lowest, lowest)
    assert (answers(loaded)["status"] == "ok").all(), "no value lies outside an unknown range"


def test_a_clock_that_is_not_finite_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        save_clock(replace(blood_clock(), gap=GapRegression(np.nan, 0.0, 1.0)), tmp_path / "clock")
    with pytest.raises(IntegrityError):
        load_clock(tmp_path / "clock")


def test_files_are_json_and_safetensors_and_the_manifest_has_every_digest(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == list(FILES)
    manifest = json.loads((saved / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["blake2b"] == {name: digest_file(saved / name) for name in ("clock.json", "weights.safetensors")}
    json.loads((saved / "clock.json").read_text(encoding="utf-8"))
    assert load_file(saved / "weights.safetensors").keys() == blood_clock().weights.keys()


def test_saving_never_writes_over_a_clock(saved: Path) -> None:
    with pytest.raises(FileExistsError):
        save_clock(blood_clock(seed=1), saved)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_refused_or_harmless(saved: Path, target: Target, name: str) -> None:
    """100 places of each file: the clock is refused with a typed error, or answers exactly as before."""
    content, rng, before = (saved / name).read_bytes(), np.random.default_rng(7), answers(blood_clock(target=target))
    refused = 0
    for place in rng.choice(len(content), 100, replace=False):
        broken = bytearray(content)
        broken[place] ^= int(rng.integers(1, 256))
        (saved / name).write_bytes(broken)
        try:
            loaded = load_clock(saved)
        except IntegrityError:
            refused += 1
        else:
            pd.testing.assert_frame_equal(answers(loaded), before, check_exact=True)
    assert refused == 100 if name != "manifest.json" else refused > 50  # spaces of the manifest are harmless
    (saved / name).write_bytes(content)
    load_clock(saved)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_a_file_cut_short_is_refused(saved: Path, name: str, keep: float) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(len(content) * keep) if 0 < keep < 1 else int(keep)])
    with pytest.raises(IntegrityError):
        load_clock(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(IntegrityError, match=rf"^clock: {name} missing; the clock was not loaded$"):
        load_clock(saved)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="missing"):
        load_clock(tmp_path / "nothing")


@pytest.mark.parametrize(
    "content",
    ["[]", "null", "3", f'{{"format": {FORMAT}}}', f'{{"format": {FORMAT}, "blake2b": []}}', "not json", "\xff"],
)
def test_a_manifest_that_is_none_is_refused(saved: Path, content: str) -> None:
    (saved / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(IntegrityError, match="was not loaded"):
        load_clock(saved)


@pytest.mark.parametrize("other", [0, FORMAT - 1, FORMAT + 1, str(FORMAT), None])
def test_another_format_is_refused_with_what_to_do(saved: Path, other: object) -> None:
    manifest = json.loads((saved / "manifest.json").read_text(encoding="utf-8"))
    (saved / "manifest.json").write_text(json.dumps({**manifest, "format": other}), encoding="utf-8")
    with pytest.raises(
        IntegrityError, match=rf"format .*, expected {FORMAT}; load it with the version of HENAW that made it"
    ):
        load_clock(saved)


def test_weights_of_another_architecture_are_refused_by_name(saved: Path, target: Target) -> None:
    other = blood_clock(target=target, hidden=(8, 9))
    save_file(
        {name: values.astype(np.float32) for name, values in other.weights.items()}, saved / "weights.safetensors"
    )
    seal(saved)
    with pytest.raises(IntegrityError, match=r"layer1\.bias, layer1\.weight, layer2\.weight: shapes do not fit"):
        load_clock(saved)


@pytest.mark.parametrize(
    ("change", "named"), [("fewer", r"layer2\.bias"), ("more", "stowaway")], ids=["parameter missing", "one too many"]
)
def test_missing_and_foreign_parameters_are_refused_by_name(saved: Path, change: str, named: str) -> None:
    weights = load_file(saved / "weights.safetensors")
    if change == "fewer":
        del weights["layer2.bias"]
    else:
        weights["stowaway"] = np.zeros(3, np.float32)
    save_file(weights, saved / "weights.safetensors")
    seal(saved)
    with pytest.raises(IntegrityError, match=f"clock: {named}: shapes"):
        load_clock(saved)


def test_a_scaling_of_another_panel_is_refused(saved: Path) -> None:
    rewrite_description(saved, scaling={"center": [0.0] * 9, "scale": [1.0] * 9})
    with pytest.raises(IntegrityError, match="scaling: shapes do not fit"):
        load_clock(saved)


def test_the_weights_of_the_other_kind_of_clock_are_refused_by_name(saved: Path, target: Target) -> None:
    other = blood_clock(target="age" if target == "mortality" else "mortality")
    weights = {name: values.astype(np.float32) for name, values in other.weights.items()}
    save_file(weights, saved / "weights.safetensors")
    seal(saved)
    with pytest.raises(IntegrityError, match=r"clock: layer0\.weight, layer2\.bias, layer2\.weight: shapes"):
        load_clock(saved)


def test_the_weights_of_a_clock_with_another_head_are_refused_by_name(tmp_path: Path) -> None:
    save_clock(blood_clock(), tmp_path / "clock")
    weights = {name: values.astype(np.float32) for name, values in blood_clock(head=BINS).weights.items()}
    save_file(weights, tmp_path / "clock" / "weights.safetensors")
    seal(tmp_path / "clock")
    with pytest.raises(IntegrityError, match=r"^clock: layer2\.bias, layer2\.weight: shapes do not fit"):
        load_clock(tmp_path / "clock")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            {"kind": "bins", "low": 19.5, "high": 79.5, "knots": [0.5]},
            "clock: shape.head: knots, width missing or unknown; expected low, high, width in a head of kind bins",
        ),
        ({"kind": "spline", "low": 19.5}, "clock: shape.head.kind 'spline', expected one of quantiles, bins"),
        ({"low": 19.5, "high": 79.5, "width": 1.0}, "clock: shape.head.kind None, expected one of quantiles, bins"),
    ],
    ids=["fields of another kind", "unknown kind", "no kind"],
)
def test_a_head_that_is_not_known_is_refused_by_its_fields(
    tmp_path: Path, head: dict[str, object], message: str
) -> None:
    save_clock(blood_clock(head=BINS), tmp_path / "clock")
    described = json.loads((tmp_path / "clock" / "clock.json").read_text(encoding="utf-8"))
    rewrite_description(tmp_path / "clock", shape={**described["shape"], "head": head})
    with pytest.raises(IntegrityError) as raised:
        load_clock(tmp_path / "clock")
    assert str(raised.value) == message


def test_a_clock_that_reads_age_without_a_hazard_or_the_reverse_is_refused(saved: Path, target: Target) -> None:
    rewrite_description(saved, hazard=None if target == "mortality" else {"alpha": -10.0, "beta": 0.09})
    with pytest.raises(IntegrityError, match="scaling: shapes do not fit"):
        load_clock(saved)


@pytest.mark.parametrize(
    "calibration",
    [
        {"edges": [50.0], "levels": [[0.0, 0.5, 1.0]] * 2},
        {"edges": [40.0, 50.0, 60.0, 70.0], "levels": blood_clock().calibration.levels.tolist()},
        {"edges": [], "levels": []},
    ],
    ids=["another grid", "bands without a map", "none"],
)
def test_a_calibration_that_does_not_fit_is_refused(saved: Path, calibration: dict[str, object]) -> None:
    rewrite_description(saved, calibration=calibration)
    with pytest.raises(IntegrityError, match="calibration: shapes do not fit"):
        load_clock(saved)


@pytest.mark.parametrize("field", ["scaling", "shape", "calibration", "gap", "hazard", "trained_on", "max_missing"])
def test_a_description_without_a_field_is_refused(saved: Path, field: str) -> None:
    described = json.loads((saved / "clock.json").read_text(encoding="utf-8"))
    del described[field]
    (saved / "clock.json").write_text(json.dumps(described), encoding="utf-8")
    seal(saved)
    with pytest.raises(IntegrityError, match="not a whole clock"):
        load_clock(saved)


IMPOSSIBLE: dict[str, tuple[Target, list[str | int], object]] = {
    "scaling": ("age", ["scaling", "scale", 0], 0.0),
    "scaling of another length": ("age", ["scaling", "scale"], [1.0]),
    "unknown center": ("age", ["scaling", "center", 0], None),
    "a map that falls": ("age", ["calibration", "levels", 0, 3], 0.99),
    "a map without an end": ("age", ["calibration", "levels", 0, -1], 0.99),
    "an unknown level": ("age", ["calibration", "levels", 0, 3], None),
    "no slope": ("age", ["gap", "slope"], None),
    "a slope in words": ("age", ["gap", "slope"], "x"),
    "an intercept that is none": ("age", ["gap", "intercept"], float("nan")),
    "no limit": ("age", ["max_missing"], None),
    "a limit in words": ("age", ["max_missing"], "3"),
    "one age": ("age", ["trained_on", "ages"], [20]),
    "ages in words": ("age", ["trained_on", "ages"], ["20", "79"]),
    "ranges of others": ("age", ["trained_on", "lowest"], [1.0]),
    "no medians": ("age", ["reference", "edges"], None),
    "an unknown link": ("age", ["shape", "head", "link"], "probit"),
    "an open end": ("age", ["shape", "head", "low"], float("inf")),
    "a level beyond all": ("age", ["shape", "head", "knots", -1], 1.5),
    "no hazard": ("mortality", ["hazard", "alpha"], None),
    "a hazard that falls": ("mortality", ["hazard", "beta"], -0.1),
    "a hazard that stays": ("mortality", ["hazard", "beta"], 0),
    "hardly a hazard": ("mortality", ["hazard", "alpha"], float("nan")),
}


@pytest.mark.parametrize(("target", "place", "value"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_values_that_no_clock_has_are_refused_though_the_manifest_fits(
    saved: Path, place: list[str | int], value: object
) -> None:
    described = json.loads((saved / "clock.json").read_text(encoding="utf-8"))
    part = described
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    rewrite_description(saved, **described)
    with pytest.raises(IntegrityError, match=r"was not loaded$"):
        load_clock(saved)


@pytest.mark.parametrize("width", [0, -1.0, 1e-300, 1e-9, None, float("nan")])
def test_bins_that_cannot_be_are_refused_and_fill_no_memory(tmp_path: Path, width: object) -> None:
    save_clock(blood_clock(head=BINS), tmp_path / "clock")
    described = json.loads((tmp_path / "clock" / "clock.json").read_text(encoding="utf-8"))
    described["shape"]["head"]["width"] = width
    rewrite_description(tmp_path / "clock", **described)
    with pytest.raises(IntegrityError, match=r"was not loaded$"):
        load_clock(tmp_path / "clock")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(saved: Path, value: float) -> None:
    weights = load_file(saved / "weights.safetensors")
    weights["layer0.weight"][0, 0, 0] = value
    save_file(weights, saved / "weights.safetensors")
    seal(saved)
    with pytest.raises(IntegrityError, match="weights: values that no clock has"):
        load_clock(saved)


@pytest.mark.parametrize("name", ["clock.json", "manifest.json"])
def test_a_bottomless_description_is_refused(saved: Path, name: str) -> None:
    (saved / name).write_text("[" * 100_000, encoding="utf-8")
    if name == "clock.json":
        seal(saved)
    with pytest.raises(IntegrityError, match="not a whole clock"):
        load_clock(saved)


def test_an_edited_description_that_cannot_be_is_refused(saved: Path) -> None:
    rewrite_description(saved, panel={"name": "x"})
    with pytest.raises(IntegrityError, match="not a whole clock"):
        load_clock(saved)


def test_errors_of_loading_are_typed_and_one_line(saved: Path) -> None:
    (saved / "clock.json").write_text("{", encoding="utf-8")
    with pytest.raises(HenawError) as raised:
        load_clock(saved)
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)


def test_answering_needs_neither_torch_nor_pickle(saved: Path) -> None:
    """A process that loads the clock and answers imports no PyTorch, reads no pickle and says the same."""
    rows = blood_rows(5, 9)
    rows.to_csv(saved.parent / "rows.csv", index=False)
    program = (
        "import sys, pickle\n"
        "def refuse(*a, **k): raise AssertionError('pickle')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = refuse\n"
        "from pathlib import Path\n"
        "import pandas as pd\n"
        "from henaw.model.answers import answer\n"
        "from henaw.model.storage import load_clock\n"
        "folder = Path(sys.argv[1])\n"
        "answers = answer(load_clock(folder), pd.read_csv(folder.parent / 'rows.csv'), 0.9)\n"
        "assert not {'torch', 'mlflow'} & sys.modules.keys(), 'imported needlessly'\n"
        "answers.to_json(folder.parent / 'answers.json', double_precision=15)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", program, str(saved)], check=True, env=environment, timeout=120)
    there = pd.read_json(saved.parent / "answers.json")
    here = answer(load_clock(saved), rows, 0.9)
    np.testing.assert_allclose(there["biological_age_years"], here["biological_age_years"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(there["upper_years"], here["upper_years"], rtol=0, atol=1e-9)
