"""What a study searches: settings with ranges and choices, read from ``mlproject/search/NAME.yaml``."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import Annotated, Any

import yaml
from optuna.trial import BaseTrial
from pydantic import Field, ValidationError, model_validator

from henaw.config import Config, asset_folder, validate_config
from henaw.errors import BadInput
from henaw.settings import Number, Section

SEARCHED = ("network", "training", "calibration", "mortality")
"""Sections that may be searched: a study must not choose its own people, seed or measure."""
_GRID = 1e-8  # how far a value may be from a multiple of its step
_FIXED = ("training.device", "training.threads")

Conditions = dict[str, Annotated[list[Any], Field(min_length=1)]]


class Range(Section):
    """Numbers from ``low`` to ``high``, both included."""

    low: Number
    high: Number
    log: bool = False
    step: Annotated[Number, Field(gt=0)] | None = None
    when: Conditions = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if not self.low < self.high:
            raise ValueError("low must be less than high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and goes without step")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError("step must not reach beyond high")
        return self


class Choices(Section):
    """One of several values."""

    choices: Annotated[list[Any], Field(min_length=2)]
    when: Conditions = Field(default_factory=dict)

    @model_validator(mode="after")
    def _all_differ(self) -> Choices:
        if len({_text(choice) for choice in self.choices}) < len(self.choices):
            raise ValueError("choices repeat")
        return self


Dimension = Range | Choices


@dataclass(frozen=True)
class Space:
    """The settings that a study searches, by dotted name, in the order of the file."""

    name: str
    dimensions: dict[str, Dimension]

    def suggest(self, trial: BaseTrial, config: Config) -> dict[str, Any]:
        """The values that ``trial`` is to try; settings whose condition does not hold are not among them."""
        values: dict[str, Any] = {}
        for key, dimension in self.dimensions.items():
            if not _holds(dimension, values):
                continue
            if isinstance(dimension, Choices):
                by_text = {_text(choice): choice for choice in dimension.choices}
                values[key] = by_text[trial.suggest_categorical(key, list(by_text))]
            elif _is_whole(config, key, dimension):
                step = 1 if dimension.step is None else int(dimension.step)
                low, high = int(dimension.low), int(dimension.high)
                values[key] = trial.suggest_int(key, low, high, step=step, log=dimension.log)
            else:
                values[key] = trial.suggest_float(
                    key, dimension.low, dimension.high, step=dimension.step, log=dimension.log
                )
        return values

    def parameters_of(self, config: Config) -> dict[str, Any] | None:
        """The settings of ``config`` as Optuna's parameters; None where one of them is not in the space."""
        found: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for key, dimension in self.dimensions.items():
            if not _holds(dimension, values):
                continue
            value = values[key] = _setting(config, key)
            if isinstance(dimension, Choices):
                if _text(value) not in map(_text, dimension.choices):
                    return None
                found[key] = _text(value)
            else:
                if not isinstance(value, int | float) or not _reaches(dimension, value):
                    return None
                found[key] = value
        return found

    def to_dict(self) -> dict[str, Any]:
        """The space in the types of JSON."""
        return {key: dimension.model_dump(mode="json") for key, dimension in self.dimensions.items()}


def load_space(config: Config) -> Space:
    """The space that ``study.space`` names, checked against the settings.

    Raises:
        BadInput: no such file, a setting that does not exist or may not be searched, a value that it cannot hold, or a
            condition on what is not a choice above it.
    """
    name = config.study.space or config.target
    folder = asset_folder("mlproject") / "search"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in folder.glob("*.yaml")))
        raise BadInput(f"study.space {name!r}: no such file in {folder}; expected one of {known}")
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(read, dict) or not read:
        raise BadInput(f"{path}: expected settings to search, as training.learning_rate: {{low: 0.001, high: 0.01}}")
    return checked_space(name, read, config, str(path))


def checked_space(name: str, read: dict[Any, Any], config: Config, where: str) -> Space:
    """The space that ``read`` describes; messages start with ``where``.

    Raises:
        BadInput: see ``load_space``.
    """
    dimensions: dict[str, Dimension] = {}
    for key, described in read.items():
        _require_searchable(str(key), config, where)
        form = Choices if isinstance(described, dict) and "choices" in described else Range
        try:
            dimension: Dimension = form.model_validate(described)
        except ValidationError as error:
            said = error.errors()[0]
            place = ".".join(map(str, [key, *said["loc"]]))
            fault = said["msg"].removeprefix("Value error, ")
            raise BadInput(f"{where}: {place}: {fault}; expected low and high, or choices") from None
        _require_conditions(key, dimension, dimensions, where)
        ends = dimension.choices if isinstance(dimension, Choices) else [dimension.low, dimension.high]
        for value in ends:
            _require_possible(key, value, config, where)
        step = dimension.step if isinstance(dimension, Range) else None
        if step is not None and _is_whole(config, key, dimension) and not step.is_integer():
            raise BadInput(f"{where}: {key}: step: expected a whole number, found {step:g}")
        dimensions[key] = dimension
    return Space(name, dimensions)


def apply(config: Config, values: dict[str, Any]) -> Config:
    """``config`` with the dotted ``values`` in place."""
    changed = config.model_dump()
    for key, value in values.items():
        section, _, name = key.partition(".")
        changed[section][name] = value
    return validate_config(changed)


def values_of(space: Space, parameters: dict[str, Any]) -> dict[str, Any]:
    """Optuna's ``parameters`` of a trial as settings."""
    found = {}
    for key, value in parameters.items():
        dimension = space.dimensions[key]
        chosen = isinstance(dimension, Choices)
        found[key] = json.loads(value) if chosen else value
    return found


def _text(value: Any) -> str:
    """A choice as Optuna keeps it: lists are no parameters there."""
    return json.dumps(value)


def _holds(dimension: Dimension, values: dict[str, Any]) -> bool:
    return all(key in values and values[key] in allowed for key, allowed in dimension.when.items())


def _setting(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def _is_whole(config: Config, key: str, dimension: Dimension) -> bool:
    """Whether only whole numbers are to be tried: of a setting that is one, or for which ``auto`` stands for now."""
    if isinstance(dimension, Choices):
        return False
    return isinstance(_setting(config, key), int | str) and dimension.low.is_integer() and dimension.high.is_integer()


def _reaches(dimension: Range, value: float) -> bool:
    """Whether ``value`` lies in the range, and on its grid where it has one."""
    steps = 0.0 if dimension.step is None else (value - dimension.low) / dimension.step
    return dimension.low <= value <= dimension.high and abs(steps - round(steps)) < _GRID


def _require_searchable(key: str, config: Config, where: str) -> None:
    known = [f"{section}.{name}" for section in SEARCHED for name in type(getattr(config, section)).model_fields]
    known = [name for name in known if name not in _FIXED]
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; expected a setting of {', '.join(SEARCHED)}"
        raise BadInput(f"{where}: {key!r} cannot be searched{hint}")


def _require_conditions(key: str, dimension: Dimension, above: dict[str, Dimension], where: str) -> None:
    for other, allowed in dimension.when.items():
        choice = above.get(other)
        if not isinstance(choice, Choices):
            raise BadInput(f"{where}: {key}: when: expected a setting above it that has choices, found {other!r}")
        if wrong := [value for value in allowed if value not in choice.choices]:
            raise BadInput(f"{where}: {key}: when: {other} has no choice {wrong[0]!r}")


def _require_possible(key: str, value: Any, config: Config, where: str) -> None:
    if type(_setting(config, key)) is not float and isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        apply(config, {key: value})
    except BadInput as error:
        raise BadInput(f"{where}: {str(error).removeprefix('settings: ')}") from None
