"""Panels: which biomarkers a clock reads, and all that the other rooms may know about them.

A panel is ``mlproject/panels/<name>.yaml``; it names biomarkers described once in ``mlproject/panels/biomarkers.yaml``.
No other module knows a marker's name, except the derived feature log(AST/ALT), which a panel asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from henaw.errors import BadInput

Organ = Literal["liver", "kidney", "inflammation", "metabolism", "blood"]
Transform = Literal["identity", "log", "log1p"]
Derived = Literal["log_ast_alt"]

DERIVED_NEEDS: dict[Derived, tuple[str, ...]] = {"log_ast_alt": ("ast_u_l", "alt_u_l")}
_NO_PANELS = ("biomarkers", "units", "reference")  # what else lies in the panels' folder
_LEAST_OF_TRANSFORM: dict[Transform, float] = {"log": 0.0, "log1p": -1.0}


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] < pair[1]:
        raise ValueError("the lower end must lie below the upper end")
    return pair


class Biomarker(BaseModel):
    """One biomarker in its canonical unit; outside the closed range ``plausible`` a value is taken for a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    title: str
    unit: str
    organ: Organ
    transform: Transform
    plausible: Annotated[tuple[float, float], AfterValidator(_ordered)]
    ukb_field: int | None = None
    ukb_average: bool = False

    @model_validator(mode="after")
    def _transformable(self) -> Biomarker:
        least = _LEAST_OF_TRANSFORM.get(self.transform, float("-inf"))
        if self.plausible[0] <= least:
            raise ValueError(f"plausible: transform {self.transform} needs a lower end above {least:g}")
        return self


class Panel(BaseModel):
    """The biomarkers of a clock, in the order of its inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    biomarkers: tuple[Biomarker, ...]
    derived: tuple[Derived, ...] = ()

    @property  # these are not kept: ``model_copy`` would take them along to a panel of other biomarkers
    def names(self) -> tuple[str, ...]:
        """Column names of the biomarkers, in order."""
        return tuple(marker.name for marker in self.biomarkers)

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """How each biomarker enters the network, in order."""
        return tuple(marker.transform for marker in self.biomarkers)


def available_panels(folder: Path) -> list[str]:
    """Names of the panels kept in ``folder`` (``mlproject/panels``)."""
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem not in _NO_PANELS)


def load_panel(name: str, folder: Path) -> Panel:
    """Read panel ``name`` from ``folder``.

    Raises:
        BadInput: no such panel, a file that is no panel, an unknown or repeated biomarker, or a derived feature whose
            markers the panel lacks.
    """
    path = folder / f"{name}.yaml"
    if name not in available_panels(folder):
        raise BadInput(f"panel {name!r}: no such panel; expected one of {', '.join(available_panels(folder))}")
    catalog = load_biomarkers(folder)
    raw = read_yaml(path)
    names = raw.get("biomarkers")
    if not isinstance(names, list) or not names or not all(isinstance(marker, str) for marker in names):
        raise BadInput(f"{path.name}: biomarkers: expected a list of at least one name")
    if unknown := [marker for marker in names if marker not in catalog]:
        raise BadInput(f"{path.name}: biomarkers: {', '.join(unknown)} not described in biomarkers.yaml")
    if len(set(names)) != len(names):
        raise BadInput(f"{path.name}: biomarkers: expected each only once")
    try:
        panel = Panel.model_validate({**raw, "name": name, "biomarkers": tuple(catalog[marker] for marker in names)})
    except ValidationError as error:
        raise BadInput(f"{path.name}: {_first_fault(error)}") from None
    for feature in panel.derived:
        missing = [marker for marker in DERIVED_NEEDS[feature] if marker not in panel.names]
        if missing:
            raise BadInput(f"{path.name}: derived feature {feature} needs {', '.join(missing)}")
    return panel


def load_biomarkers(folder: Path) -> dict[str, Biomarker]:
    """Every biomarker that ``folder/biomarkers.yaml`` describes, by name.

    Raises:
        BadInput: an entry with a missing, unknown or mistyped key.
    """
    path = folder / "biomarkers.yaml"
    catalog = {}
    for name, entry in read_yaml(path).items():
        if not isinstance(entry, dict):
            raise BadInput(f"{path.name}: {name}: expected title, unit, organ, transform, plausible")
        try:
            catalog[str(name)] = Biomarker.model_validate({**entry, "name": name})
        except ValidationError as error:
            raise BadInput(f"{path.name}: {name}: {_first_fault(error)}") from None
    return catalog


def read_yaml(path: Path) -> dict[Any, Any]:
    """The keys and values of a file of ``mlproject/panels``.

    Raises:
        BadInput: it cannot be read, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path}: expected key: value")
    return values


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    where = "".join(f"{part}: " for part in first["loc"])
    return f"{where}{first['msg'].removeprefix('Value error, ')}"
