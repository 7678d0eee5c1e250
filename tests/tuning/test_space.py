"""The space: what may be searched, how it is checked, and that settings survive the way there and back."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial

from henaw.config import load_config
from henaw.errors import BadInput
from henaw.training.speed import settled
from henaw.tuning.space import Space, apply, checked_space, load_space, values_of

CONFIG = load_config()
SMALL: dict[str, Any] = {
    "network.link": {"choices": ["logit", "identity"]},
    "network.knots": {"choices": [[0.5], [0.1, 0.5, 0.9]], "when": {"network.link": ["logit"]}},
    "training.batch_size": {"low": 64, "high": 256, "step": 64},
    "training.learning_rate": {"low": 0.001, "high": 0.01, "log": True},
}


def space(read: dict[Any, Any]) -> Space:
    return checked_space("small", read, CONFIG, "small.yaml")


@pytest.mark.parametrize("target", ["age", "mortality"])
def test_the_shipped_spaces_hold_their_own_profiles_settings(target: str) -> None:
    profile = {"age": "nhanes", "mortality": "nhanes-mortality"}[target]
    config = load_config(profile, "some.csv")
    shipped = load_space(config)
    assert shipped.name == target
    as_they_are = settled(config, 20_000)
    parameters = shipped.parameters_of(as_they_are)
    assert parameters is not None, "the first trial has the settings as they are"
    assert apply(as_they_are, values_of(shipped, parameters)) == as_they_are


@pytest.mark.parametrize(
    ("key", "described", "words"),
    [
        ("training.learning_rat", {"low": 0.1, "high": 0.2}, "did you mean 'training.learning_rate'?"),
        ("seed", {"low": 0, "high": 9}, "cannot be searched"),
        ("split.test_fraction", {"low": 0.1, "high": 0.2}, "cannot be searched"),
        ("training.device", {"choices": ["cpu", "cuda"]}, "cannot be searched"),
        ("training.learning_rate", {"low": 0.2, "high": 0.1}, "low must be less than high"),
        ("training.learning_rate", {"low": 0.0, "high": 0.1, "log": True}, "log needs a low above 0"),
        ("training.learning_rate", {"low": -1.0, "high": 0.1}, "training.learning_rate"),
        ("training.learning_rate", {"low": 0.1}, "high"),
        ("network.members", {"low": 2, "high": 8, "step": 0.5}, "step: expected a whole number, found 0.5"),
        ("network.members", {"low": 2, "high": 8, "step": 7}, "step must not reach beyond high"),
        ("training.learning_rate", {"low": 0.1, "high": 0.2, "lgo": True}, "lgo"),
        ("training.learning_rate", 0.1, "expected low and high, or choices"),
        ("training.mask_rate", {"low": 0.0, "high": 1.5}, "mask_rate"),
        ("training.batch_size", {"choices": [64, 64]}, "choices repeat"),
        ("training.batch_size", {"choices": [64, "many"]}, "batch_size"),
        ("network.hidden", {"choices": [[64], []]}, "hidden"),
        ("network.dropout", {"low": 0.0, "high": 0.3, "when": {"network.link": ["logit"]}}, "a setting above it"),
    ],
)
def test_what_is_refused_is_one_line(key: str, described: object, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        space({key: described})
    assert words in str(caught.value)
    assert str(caught.value).startswith("small.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_condition_names_a_choice_that_there_is() -> None:
    with pytest.raises(BadInput, match="no choice 'cloglog'"):
        space({**SMALL, "network.dropout": {"low": 0.0, "high": 0.3, "when": {"network.link": ["cloglog"]}}})


def test_no_such_space() -> None:
    with pytest.raises(BadInput, match="expected one of age, mortality"):
        load_space(load_config(overrides="study.space=ages"))


def test_a_trial_gets_values_of_the_right_kind_and_only_where_the_condition_holds() -> None:
    small = space(SMALL)
    chosen = {"network.link": '"logit"', "network.knots": "[0.5]", "training.batch_size": 128}
    values = small.suggest(FixedTrial({**chosen, "training.learning_rate": 0.002}), CONFIG)
    assert values == {
        "network.link": "logit",
        "network.knots": [0.5],
        "training.batch_size": 128,
        "training.learning_rate": 0.002,
    }
    assert type(values["training.batch_size"]) is int
    other = small.suggest(FixedTrial({**chosen, "network.link": '"identity"', "training.learning_rate": 0.002}), CONFIG)
    assert "network.knots" not in other
    tried = apply(CONFIG, values)
    assert (tried.network.knots, tried.training.batch_size) == ([0.5], 128)
    assert tried.model_copy(update={"network": CONFIG.network, "training": CONFIG.training}) == CONFIG


def test_every_sample_is_a_config_and_reads_back() -> None:
    shipped = load_space(CONFIG)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(50):
        trial = study.ask()
        values = shipped.suggest(trial, CONFIG)
        assert values_of(shipped, trial.params) == values
        assert shipped.parameters_of(apply(CONFIG, values)) == pytest.approx(trial.params)


def test_settings_outside_of_the_space_are_no_first_trial() -> None:
    small = space(SMALL)
    assert small.parameters_of(load_config(overrides="training.batch_size=1024")) is None
    assert small.parameters_of(load_config(overrides="network.knots=[0.2] training.batch_size=64")) is None
    identity = load_config(overrides="network.link=identity training.batch_size=64")
    assert small.parameters_of(identity) == {
        "network.link": '"identity"',
        "training.batch_size": 64,
        "training.learning_rate": 0.003,
    }


def test_settings_between_the_steps_are_no_first_trial() -> None:
    by_steps = space({"network.dropout": {"low": 0.0, "high": 0.3, "step": 0.1}})
    assert by_steps.parameters_of(load_config(overrides="network.dropout=0.15")) is None
    assert by_steps.parameters_of(load_config(overrides="network.dropout=0.3")) == {"network.dropout": 0.3}


def test_whole_numbers_are_tried_where_auto_stands_for_one() -> None:
    config = load_config(overrides="training.batch_size=auto")
    batches = checked_space("small", {"training.batch_size": {"low": 64, "high": 256}}, config, "small.yaml")
    assert batches.parameters_of(config) is None, "what auto means is for the device to say"
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    [value] = batches.suggest(trial, config).values()
    assert type(value) is int
    assert apply(config, {"training.batch_size": value}).training.batch_size == value
