"""Settings: ``mlproject/default.yaml``, a profile on top, dotted overrides on top of that, all checked by pydantic.

``henaw.settings`` says what each section may hold. This module is also the one place that knows where ``mlproject/``
and ``expectations/`` are.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from henaw.errors import BadInput
from henaw.settings import (
    Calibration,
    CohortFilter,
    Evaluation,
    Integer,
    Mortality,
    Network,
    Scoring,
    Section,
    Serving,
    Source,
    Split,
    State,
    Study,
    Tracking,
    Training,
    Validation,
)


def asset_folder(name: Literal["mlproject", "expectations"]) -> Path:
    """Folder ``name``: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent
    beside, inside = package.parent / name, package / "_assets" / name
    return inside if inside.is_dir() else beside


class Config(Section):
    """The resolved settings of a run."""

    panel: str
    target: Literal["age", "mortality"]
    seed: Annotated[Integer, Field(ge=0, lt=2**32)]
    source: Source
    cohort: CohortFilter
    validation: Validation
    split: Split
    state: State
    network: Network
    training: Training
    calibration: Calibration
    mortality: Mortality
    scoring: Scoring
    evaluation: Evaluation
    study: Study
    serving: Serving
    tracking: Tracking

    @model_validator(mode="after")
    def _head_fits(self) -> Config:
        head, loss = self.network.head, self.training
        if self.target == "mortality" and head != "quantiles":
            raise ValueError(f"network.head {head} is for target age; the mortality clock has a head of its own")
        if loss.loss == "beta_nll" and head != "gaussian":
            raise ValueError(f"training.loss beta_nll needs network.head gaussian, found {head}")
        if loss.nll_weight > 0 and head != "bins":
            raise ValueError(f"training.nll_weight needs network.head bins, found {head}")
        return self

    @property
    def model_name(self) -> str:
        """``tracking.model_name`` with ``null`` decided by the target."""
        return self.tracking.model_name or {"age": "henaw", "mortality": "henaw-mortality"}[self.target]

    def to_yaml(self) -> str:
        """The settings as YAML that ``load_config`` would resolve to the same."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def available_profiles() -> list[str]:
    """Names that ``profile=`` takes."""
    return ["default", *sorted(path.stem for path in (asset_folder("mlproject") / "profiles").glob("*.yaml"))]


def load_config(profile: str = "default", data: str = "", overrides: str = "") -> Config:
    """Resolve the settings of a run.

    Args:
        profile: name of a file in ``mlproject/profiles``, or ``default``.
        data: path for ``source.data``; empty = none.
        overrides: dotted ``key=value`` pairs separated by white space, values in YAML (``network.hidden=[64,64]``).

    Raises:
        BadInput: unknown profile, unknown key (the message names the nearest), or a value of the wrong kind.
    """
    defaults, values = _defaults(), _defaults()
    known = list(_dotted(values))
    sections = {key.rpartition(".")[0] for key in known}
    for chosen, changes in _profiles(profile):
        _merge(values, changes, defaults, str(chosen))
    if data:
        values["source"]["data"] = data
    for dotted, value in parse_overrides(overrides):
        if dotted not in known:
            raise BadInput(f"overrides: unknown key {dotted!r}{_nearest(dotted, known)}")
        if dotted in sections:
            raise BadInput(f"overrides: {dotted} is a section; expected one of its keys, as in {dotted}.KEY=VALUE")
        *path, last = dotted.split(".")
        section = values
        for name in path:
            section = section[name]
        section[last] = value
    return validate_config(values)


def validate_config(values: dict[str, Any]) -> Config:
    """Check ``values`` against the model of the settings; the first fault is raised as one line.

    Raises:
        BadInput: unknown or missing key, or a value of the wrong kind.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"settings: {_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    """What pydantic found first, in words that stand on their own."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    faults = [first]
    if path and _is_a_kind(path[-1]):  # one fault for each kind that the key may hold
        faults = [fault for fault in error.errors() if fault["loc"][:-1] == first["loc"][:-1]]
        path.pop()
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest(key, _dotted(_defaults()))}"
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    if first["type"] == "value_error":
        fault = first["msg"].removeprefix("Value error, ")
        return f"{key}: {fault}" if key else fault  # what concerns several sections names them itself
    if first["type"] == "model_type":
        return f"{key}: expected keys and values"
    expected = " or ".join(_in_our_words(fault["msg"]) for fault in faults)
    found = f", found {first['input']!r}" if isinstance(first["input"], str | int | float | bool) else ""
    return f"{key}: expected {expected}{found}"


def _is_a_kind(part: str) -> bool:
    """Whether ``part`` of a fault's place is pydantic's name of one of several kinds, and no key."""
    return part in ("str", "int", "float") or part.startswith(("function-", "literal["))


def _in_our_words(message: str) -> str:
    message = message.removeprefix("Input should be ").partition(" after validation")[0]
    return message.replace("List should have", "a list of").replace("String should", "text that must")


def _defaults() -> dict[str, Any]:
    return _read_yaml(asset_folder("mlproject") / "default.yaml")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: the 30th of February
        raise BadInput(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path}: expected settings as key: value")
    return values


def _profiles(name: str) -> list[tuple[Path, dict[str, Any]]]:
    """What profile ``name`` changes, after what the one that it ``extends`` changes, and so on."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    while name != "default":
        if name not in available_profiles():
            raise BadInput(
                f"profile {name!r}: no such profile; expected one of {', '.join(available_profiles())}"
                f"{_nearest(name, available_profiles())}"
            )
        path = asset_folder("mlproject") / "profiles" / f"{name}.yaml"
        if path in [visited for visited, _ in chain]:
            raise BadInput(f"{path}: extends itself; expected profiles that end at one that extends no other")
        changes = _read_yaml(path)
        chain.insert(0, (path, changes))
        name = str(changes.pop("extends", "default"))
    return chain


def _merge(base: dict[str, Any], changes: dict[str, Any], defaults: dict[str, Any], source: str) -> None:
    """Lay ``changes`` over ``base``; what has no keys in ``defaults`` (lists, ``cohort.exclude``) is replaced whole."""
    for key, value in changes.items():
        if not (isinstance(defaults.get(key), dict) and defaults[key]):
            base[key] = value
        elif isinstance(value, dict):
            _merge(base[key], value, defaults[key], source)
        else:
            raise BadInput(f"{source}: {key}: expected keys and values, as it is a section")


def _dotted(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")


def _nearest(name: str, candidates: Iterable[str]) -> str:
    options = list(candidates)
    # the right leaf in the wrong section, or the leaf alone
    same_leaf = [option for option in options if option.rpartition(".")[2] == name.rpartition(".")[2]]
    found = difflib.get_close_matches(name, same_leaf or options, n=1, cutoff=0.0 if same_leaf else 0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def parse_overrides(text: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of ``overrides`` as ``load_config`` takes them.

    Raises:
        BadInput: it is no list of ``key=value``.
    """
    try:
        pairs = shlex.split(text)
    except ValueError as error:
        raise BadInput(f"overrides: {error}; expected key=value pairs separated by spaces") from None
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise BadInput(f"overrides: {pair!r}: expected key=value")
        try:
            yield key, yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):
            raise BadInput(f"overrides: {key}: {value!r} is not a YAML value") from None
