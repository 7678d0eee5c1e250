"""Profiles: what extending one means, and that those of NHANES keep exactly the people of the standard splits."""

from pathlib import Path

import pytest

from henaw import config as settings_module
from henaw.config import asset_folder, load_config
from henaw.data.panel import load_panel
from henaw.data.splits import split
from henaw.errors import BadInput
from henaw.validation.clean import clean, judge

PARENT = "source: {kind: table}\ncohort: {ages: [30, 40], exclude: {pregnant: [1]}}\ntraining: {epochs: 2}\n"


@pytest.fixture
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of settings that a test may change, in place of ``mlproject/``."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "default.yaml").write_bytes((asset_folder("mlproject") / "default.yaml").read_bytes())
    (tmp_path / "profiles" / "parent.yaml").write_text(PARENT, encoding="utf-8")
    monkeypatch.setattr(settings_module, "asset_folder", lambda _: tmp_path)
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    (folder / "profiles" / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_a_profile_lies_over_the_one_it_extends_and_that_one_over_its_own(own_settings: Path) -> None:
    write(own_settings, "child", "extends: parent\ncohort: {ages: [50, 60]}\nseed: 5\n")
    write(own_settings, "grandchild", "extends: child\ntraining: {epochs: 3}\n")
    config = load_config("grandchild", "x.csv", "seed=6")
    assert (config.cohort.ages, config.training.epochs, config.seed) == ([50, 60], 3, 6)
    assert config.cohort.exclude == {"pregnant": [1]}
    assert load_config("child", "x.csv").training.epochs == 2
    assert load_config("parent", "x.csv").cohort.ages == [30, 40], "a parent knows nothing of its children"


def test_a_mapping_of_columns_is_replaced_whole_not_mixed_with_that_of_the_parent(own_settings: Path) -> None:
    write(own_settings, "child", "extends: parent\ncohort: {exclude: {smoker: [1]}}\n")
    assert load_config("child", "x.csv").cohort.exclude == {"smoker": [1]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: parnt\n", "profile 'parnt': no such profile; expected one of default, child, parent; did you mean"),
        ("extends: child\n", "child.yaml: extends itself"),
        ("extends: [parent]\n", "no such profile"),
        ("extends: parent\ncohort: 3\n", "child.yaml: cohort: expected keys and values"),
        ("extends: parent\nextend: parent\n", "unknown key 'extend'"),
    ],
)
def test_what_cannot_be_extended_is_one_line(own_settings: Path, text: str, words: str) -> None:
    write(own_settings, "child", text)
    with pytest.raises(BadInput) as raised:
        load_config("child", "x.csv")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_two_profiles_that_extend_each_other_are_refused(own_settings: Path) -> None:
    write(own_settings, "child", "extends: other\n")
    write(own_settings, "other", "extends: child\n")
    with pytest.raises(BadInput, match="extends itself"):
        load_config("child")


def test_mortality_profiles_register_a_model_of_their_own() -> None:
    for name in ("nhanes-mortality", "nhanes-mortality-s1"):
        assert load_config(name, "x.csv").model_name == "henaw-mortality"
    assert load_config("nhanes-extended", "x.csv").model_name == "henaw"


# Of the design: people to train on (calibration included), people to test on, deaths among these.
STANDARD = {
    "nhanes": (20_048, 5_208, None),
    "nhanes-extended": (20_022, 5_206, None),
    "nhanes-mortality": (15_978, 10_779, 1_663),
    "nhanes-mortality-s1": (14_229, 26_877, 5_710),
}


@pytest.mark.parametrize("profile", STANDARD)
def test_a_profile_keeps_exactly_the_people_of_its_standard_split(
    profile: str, nhanes_table: Path, tmp_path: Path
) -> None:
    config = load_config(profile, str(nhanes_table), f"state.folder={tmp_path}")
    panel = load_panel(config.panel, asset_folder("mlproject") / "panels")
    table, _ = clean(judge(config, panel), config, panel)
    parts = split(table, config.split, config.seed)
    trained, tested, deaths = STANDARD[profile]
    assert len(parts.train) + len(parts.calibration) == trained
    assert len(parts.test) == tested
    if deaths is not None:
        assert table["died"].iloc[parts.test].sum() == deaths
        assert not table[["died", "followup_months"]].isna().any(axis=None)
    if config.cohort.floors:
        assert table["crp_mg_l"].min() == 2.1
