"""Settings: every key explained once, nothing unknown accepted, and every refusal one line that says what to do."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from henaw import config as settings_module
from henaw.config import asset_folder, available_profiles, load_config, validate_config
from henaw.data.panel import available_panels, load_panel
from henaw.errors import BadInput

SETTINGS = asset_folder("mlproject")
DEFAULT = (SETTINGS / "default.yaml").read_text(encoding="utf-8")
PROFILES = [name for name in available_profiles() if name != "default"]


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def refusal(profile: str = "default", data: str = "", overrides: str = "") -> str:
    with pytest.raises(BadInput) as raised:
        load_config(profile, data, overrides)
    message = str(raised.value)
    assert "\n" not in message
    assert raised.value.exit_code == 2
    for jargon in ("Value error", "Input should", "pydantic", "expected expected", "_Section", "Config", "None"):
        assert jargon not in message
    return message


@pytest.fixture
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of settings that a test may change, in place of ``mlproject/``."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "default.yaml").write_text(DEFAULT, encoding="utf-8")
    monkeypatch.setattr(settings_module, "asset_folder", lambda _: tmp_path)
    return tmp_path


# --- the files -------------------------------------------------------------------------------------------------------


def test_every_key_of_the_defaults_has_a_comment() -> None:
    """On its own line, one key a line; only the name of a section may stand without one."""
    lines = [line for line in DEFAULT.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    sections = [line for line in lines if re.fullmatch(r"\w+:( +#.*)?", line)]
    assert len(lines) - len(sections) == len(list(leaves(yaml.safe_load(DEFAULT))))
    assert [line for line in lines if line not in sections and not re.search(r"\S +# \S.{7,}", line)] == []


def test_the_defaults_hold_every_key_and_no_other() -> None:
    assert dict(leaves(load_config().model_dump())).keys() == dict(leaves(yaml.safe_load(DEFAULT))).keys()


def test_the_models_have_no_defaults_of_their_own(own_settings: Path) -> None:
    """A default in the code would let a key vanish from the file unnoticed: take each away in turn."""
    for key, _ in leaves(yaml.safe_load(DEFAULT)):
        values = yaml.safe_load(DEFAULT)
        *path, last = key.split(".")
        section = values
        for name in path:
            section = section[name]
        del section[last]
        (own_settings / "default.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        assert refusal() == f"settings: key {key!r} is missing"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_holds_only_what_differs(profile: str) -> None:
    default = dict(leaves(yaml.safe_load(DEFAULT)))
    changes = dict(leaves(yaml.safe_load((SETTINGS / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8"))))
    data = "table.csv" if profile.startswith(("nhanes", "ukb")) else ""
    extended = load_config(changes.pop("extends", "default"), data=data).model_dump()
    assert 0 < len(changes) < len(default) / 2
    base, resolved = dict(leaves(extended)), dict(leaves(load_config(profile, data=data).model_dump()))
    for key, value in changes.items():
        known = key if key in default else key.rpartition(".")[0]  # the keys of cohort.exclude are columns
        assert known in default, key
        assert value != base.get(key), f"{key} is so already"
        assert value == resolved[key]
    mappings = {"cohort.exclude", "cohort.floors"}
    for key in base.keys() - changes.keys() - mappings:
        assert resolved[key] == base[key]


def test_profiles_resolve_to_what_they_are_for() -> None:
    smoke = load_config("smoke")
    assert smoke.network.members * smoke.training.epochs < 100
    nhanes = load_config("nhanes", data="x.csv.gz")
    assert nhanes.split.test == ["2009-2010"]
    assert len(nhanes.split.train) == 5
    assert nhanes.cohort.exclude == {"pregnant": [1]}
    assert available_profiles()[0] == "default"


def test_the_number_of_biomarkers_stands_nowhere_but_in_the_panel() -> None:
    """Neither as a value, nor in a word, nor as a key that would have to follow it."""
    files = [SETTINGS / "default.yaml", *(SETTINGS / "profiles").glob("*.yaml")]
    # the same number, for other reasons
    unrelated = {"training.epochs", "training.max_skipped", "mortality.recalibration_cap_years"}
    for path in files:
        text = path.read_text(encoding="utf-8")
        for name in available_panels(SETTINGS / "panels"):
            panel = load_panel(name, SETTINGS / "panels")
            features = len(panel.names) + len(panel.derived)
            counts = {len(panel.names), features, 2 * features + 1}
            values = [
                value
                for key, value in leaves(yaml.safe_load(text))
                if key not in unrelated and not key.endswith("_seconds")
            ]
            flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
            assert not counts & {value for value in flat if isinstance(value, int)}, path
        assert not re.search(r"\b(nine|ten|twenty)\b", text, re.IGNORECASE), path
        assert not re.search(r"^\s*(\w*inputs|features|n_\w+|num_\w+|biomarkers):", text, re.MULTILINE), path


def test_folders_are_found_beside_the_package() -> None:
    assert (asset_folder("mlproject") / "panels").is_dir()
    assert asset_folder("expectations").name == "expectations"


# --- profile, data and overrides -------------------------------------------------------------------------------------


def test_overrides_lie_over_the_profile_and_the_profile_over_the_defaults() -> None:
    config = load_config("smoke", "table.csv", "training.epochs=3 network.hidden=[64,32] cohort.exclude={pregnant:[1]}")
    assert (config.training.epochs, config.network.hidden) == (3, [64, 32])
    assert config.network.members == 4
    assert config.training.batch_size == load_config().training.batch_size
    assert config.source.data == "table.csv"
    assert config.cohort.exclude == {"pregnant": [1]}


def test_an_override_of_a_mapping_replaces_it_whole() -> None:
    config = load_config("nhanes", "x.csv", "cohort.exclude={smoker:[1]}")
    assert config.cohort.exclude == {"smoker": [1]}
    assert load_config("nhanes", "x.csv", "cohort.exclude={}").cohort.exclude == {}


def test_values_with_spaces_are_quoted_as_in_a_shell() -> None:
    config = load_config(overrides="\"split.train=[1999-2000, 2001-2002]\" source.data='my table.csv'")
    assert config.split.train == ["1999-2000", "2001-2002"]
    assert config.source.data == "my table.csv"


@pytest.mark.parametrize("day", ["2022-13-30", "2022-02-30", "30.11.2022", "20221130", "2022-11-30T00:00:00", "5"])
def test_a_day_that_is_none(day: str) -> None:
    with pytest.raises(BadInput, match=r"censored_on: (expected a day as 2022-11-30|.* is not a YAML value)$"):
        load_config(overrides=f"source.censored_on={day}")


def test_a_day_survives_the_way_through_yaml() -> None:
    config = load_config(overrides="source.censored_on=2022-11-30")
    assert config.source.censored_on == "2022-11-30"
    assert validate_config(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize("written", ["3e-3", "3E-3", "+3e-3", ".3e-2", "3.e-3", "3.0e-3", "0.003"])
def test_a_number_is_a_number_however_it_is_written(own_settings: Path, written: str) -> None:
    """YAML 1.1 takes 3e-3 for text."""
    assert load_config(overrides=f"training.learning_rate={written}").training.learning_rate == 0.003
    (own_settings / "profiles" / "own.yaml").write_text(f"training:\n  learning_rate: {written}\n", encoding="utf-8")
    assert load_config("own").training.learning_rate == 0.003


@pytest.mark.parametrize("key", [key for key, value in leaves(yaml.safe_load(DEFAULT)) if type(value) is float])
def test_every_fractional_key_takes_the_short_form(key: str) -> None:
    *path, last = key.split(".")
    section = load_config(overrides=f"network.head=bins {key}=5e-1").model_dump()  # one key is for that head alone
    for name in path:
        section = section[name]
    assert section[last] == 0.5


def test_whole_numbers_may_have_an_exponent_too_and_stay_whole() -> None:
    people = load_config(overrides="source.people=2e4").source.people
    assert (people, type(people)) == (20_000, int)
    assert load_config(overrides="evaluation.coverages=[5e-1]").evaluation.coverages == [0.5]
    assert load_config(overrides="source.ages=[4e1,69]").source.ages == [40, 69]


def test_text_that_looks_like_a_number_stays_text_where_text_is_meant() -> None:
    config = load_config(overrides="state.folder=1e3 split.by=column split.column=c split.test=[1e3]")
    assert config.state.folder == "1e3"
    assert config.split.test == ["1e3"]


def test_settings_survive_their_yaml(tmp_path: Path) -> None:
    for profile in available_profiles():
        config = load_config(
            profile, "a: b.csv" if profile.startswith(("nhanes", "ukb")) else "", "training.learning_rate=1e-5 seed=7"
        )
        assert validate_config(yaml.safe_load(config.to_yaml())) == config


def test_settings_cannot_be_changed_after_they_are_checked() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config().training.epochs = 3


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "nearest"),
    [
        ("training.epoch=3", "training.epochs"),
        ("trainig.epochs=3", "training.epochs"),
        ("epochs=3", "training.epochs"),
        ("network.epochs=3", "training.epochs"),
        ("source.dat=x", "source.data"),
        ("kohort.ages=[40,69]", "cohort.ages"),
        ("training.lerning_rate=1", "training.learning_rate"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(own_settings: Path, overrides: str, nearest: str) -> None:
    key, _, value = overrides.partition("=")
    assert refusal(overrides=overrides) == f"overrides: unknown key {key!r}; did you mean {nearest!r}?"
    section, dot, leaf = key.partition(".")
    if dot and section in ("training", "network", "source"):
        (own_settings / "profiles" / "own.yaml").write_text(f"{section}:\n  {leaf}: {value}\n", encoding="utf-8")
        assert refusal("own") == f"settings: unknown key {key!r}; did you mean {nearest!r}?"


def test_an_unknown_section_of_a_profile_is_named_with_the_nearest(own_settings: Path) -> None:
    (own_settings / "profiles" / "own.yaml").write_text("trainig: {epochs: 3}\n", encoding="utf-8")
    assert refusal("own") == "settings: unknown key 'trainig'; did you mean 'training'?"


def test_an_unknown_profile_is_named_with_the_nearest() -> None:
    assert refusal("smok") == (
        f"profile 'smok': no such profile; expected one of {', '.join(available_profiles())}; did you mean 'smoke'?"
    )
    assert refusal("../default").startswith("profile '../default': no such profile")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("training.epochs=five", "training.epochs: expected a valid integer, found 'five'"),
        ("training.batch_size=1.5", "training.batch_size: expected a valid integer or 'auto', found 1.5"),
        (
            "training.batch_size=3e9",
            "training.batch_size: expected less than or equal to 2147483647 or 'auto', found '3e9'",
        ),
        ("training.threads=5000", "training.threads: expected less than or equal to 1024, found 5000"),
        ("training.epochs=2.5", "training.epochs: expected a valid integer, found 2.5"),
        ("training.epochs=25e-1", "training.epochs: expected a valid integer, found 2.5"),
        ("training.epochs=true", "training.epochs: expected a valid integer, found True"),
        ("training.epochs=", "training.epochs: expected a valid integer"),
        ("training.epochs=0", "training.epochs: expected greater than or equal to 1, found 0"),
        ("training.learning_rate=fast", "training.learning_rate: expected a valid number, found 'fast'"),
        ("training.learning_rate=0", "training.learning_rate: expected greater than 0, found 0"),
        ("training.learning_rate=.inf", "training.learning_rate: expected a finite number, found inf"),
        ("training.learning_rate=.nan", "training.learning_rate: expected a finite number, found nan"),
        ("training.learning_rate=1e999", "training.learning_rate: expected a finite number, found inf"),
        ("network.link=log", "network.link: expected 'identity' or 'logit', found 'log'"),
        ("network.head=bin", "network.head: expected 'quantiles', 'bins' or 'gaussian', found 'bin'"),
        ("network.bin_years=0", "network.bin_years: expected greater than or equal to 0.25, found 0"),
        ("training.loss=mse", "training.loss: expected 'crps' or 'beta_nll', found 'mse'"),
        ("training.beta=1.1", "training.beta: expected less than or equal to 1, found 1.1"),
        ("training.nll_weight=-1", "training.nll_weight: expected greater than or equal to 0, found -1"),
        (
            "network.link=identity network.knots=[]",
            "network: link identity without knots is a Gaussian; expected head gaussian, or knots",
        ),
        ("training.loss=beta_nll", "training.loss beta_nll needs network.head gaussian, found quantiles"),
        (
            "training.loss=beta_nll network.head=bins",
            "training.loss beta_nll needs network.head gaussian, found bins",
        ),
        ("training.nll_weight=0.1", "training.nll_weight needs network.head bins, found quantiles"),
        (
            "training.nll_weight=0.1 network.head=gaussian",
            "training.nll_weight needs network.head bins, found gaussian",
        ),
        (
            "target=mortality network.head=bins",
            "network.head bins is for target age; the mortality clock has a head of its own",
        ),
        ("network.knots=[0.5,0.2]", "network.knots: expected levels in ascending order"),
        ("network.knots=[0.2,0.2]", "network.knots: expected levels in ascending order"),
        ("network.knots=[0.2,1]", "network.knots.1: expected less than 1, found 1"),
        ("training.input_noise=-0.1", "training.input_noise: expected greater than or equal to 0, found -0.1"),
        ("calibration.shrinkage=0", "calibration.shrinkage: expected greater than or equal to 1, found 0"),
        ("calibration.bands=0", "calibration.bands: expected greater than or equal to 1, found 0"),
        ("mortality.cap_years=0", "mortality.cap_years: expected greater than 0, found 0"),
        ("target=death", "target: expected 'age' or 'mortality', found 'death'"),
        ("training.mask_rate=1", "training.mask_rate: expected less than 1, found 1"),
        ("network.hidden=64", "network.hidden: expected a valid list, found 64"),
        ("network.hidden=[]", "network.hidden: expected a list of at least 1 item"),
        ("network.hidden=[64,0]", "network.hidden.1: expected greater than or equal to 1, found 0"),
        ("cohort.complete_panel=1", "cohort.complete_panel: expected a valid boolean, found 1"),
        ("cohort.ages=[79,20]", "cohort.ages: expected two ages, [youngest, oldest]"),
        ("cohort.ages=[20]", "cohort.ages: expected two ages, [youngest, oldest]"),
        ("split.train=[1.5]", "split.train.0: expected a valid string or a valid integer, found 1.5"),
        ("evaluation.coverages=[0.9,1.0]", "evaluation.coverages.1: expected less than 1, found 1.0"),
        ("seed=-1", "seed: expected greater than or equal to 0, found -1"),
        ("panel=3", "panel: expected a valid string, found 3"),
        (
            "tracking.model_name=a/b",
            "tracking.model_name: expected text that must match pattern '^[A-Za-z0-9_-]{1,64}$', found 'a/b'",
        ),
        ("source.kind=table", "source: kind table needs a path in source.data (on the command line: data=FILE)"),
        (
            "source.kind=synthetic source.data=x.csv",
            "source: kind synthetic reads no data, yet source.data is set",
        ),
        ("split.by=column", "split: by column needs a name in split.column and values in split.test"),
        (
            "split.train=[a,b] split.test=[b]",
            "split: split.train and split.test share values; expected each on one side",
        ),
    ],
)
def test_a_wrong_value_is_named_by_its_key_with_what_was_expected(overrides: str, message: str) -> None:
    assert refusal(overrides=overrides) == f"settings: {message}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("training.epochs", "overrides: 'training.epochs': expected key=value"),
        ("=3", "overrides: '=3': expected key=value"),
        ("training.epochs = 3", "overrides: 'training.epochs': expected key=value"),
        ("'seed=1", "overrides: No closing quotation; expected key=value pairs separated by spaces"),
        ("network.hidden={", "overrides: network.hidden: '{' is not a YAML value"),
        ("training=3", "overrides: training is a section; expected one of its keys, as in training.KEY=VALUE"),
        ("training={epochs: 3}", "overrides: training: '{epochs:' is not a YAML value"),
        ("training={epochs:3}", "overrides: training is a section; expected one of its keys, as in training.KEY=VALUE"),
    ],
)
def test_overrides_that_are_none_are_refused(overrides: str, message: str) -> None:
    assert refusal(overrides=overrides) == message


@pytest.mark.parametrize("content", ["training: 3\n", "training:\n  # epochs: 3\n", "training: [epochs]\n"])
def test_a_profile_that_puts_a_value_for_a_section_is_refused(own_settings: Path, content: str) -> None:
    path = own_settings / "profiles" / "own.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadInput) as raised:
        load_config("own", overrides="training.epochs=3")
    assert str(raised.value) == f"{path}: training: expected keys and values, as it is a section"


@pytest.mark.parametrize("content", ["", "- a\n", "a: [", "just text"])
def test_a_profile_that_is_no_yaml_of_settings_is_refused_by_path(own_settings: Path, content: str) -> None:
    path = own_settings / "profiles" / "own.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=rf"^{re.escape(str(path))}: (not YAML|expected settings)") as raised:
        load_config("own")
    assert "\n" not in str(raised.value)
