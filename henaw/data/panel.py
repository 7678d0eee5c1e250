"""Panels: which biomarkers a clock reads, and all that the other rooms may know about them.

A panel is ``mlproject/panels/<name>.yaml``; it names biomarkers described once in ``mlproject/panels/biomarkers.yaml``.
No other module knows a marker's name, except the derived feature log(AST/ALT), which a panel asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from henaw.errors import BadInput

Organ = Literal["liver", "kidney", "inflammation", "metabolism", "blood"]
Transform = Literal["identity", "log", "log1p"]
Derived = Literal["log_ast_alt"]

DERIVED_NEEDS: dict[Derived, tuple[str, ...]] = {"log_ast_alt": ("ast_u_l", "alt_u_l")}


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] < pair[1]:
        raise ValueError("the lower end must lie below the upper end")
    return pair


class Biomarker(BaseModel):
    """One biomarker in its canonical unit; ``plausible`` is the closed range outside which a value is taken for a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    unit: str
    organ: Organ
    transform: Transform
    plausible: Annotated[tuple[float, float], AfterValidator(_ordered)]
    ukb_field: int | None = None


class Panel(BaseModel):
    """The biomarkers of a clock, in the order of its inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    biomarkers: tuple[Biomarker, ...]
    derived: tuple[Derived, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Column names of the biomarkers, in order."""
        return tuple(marker.name for marker in self.biomarkers)


def available_panels(folder: Path) -> list[str]:
    """Names of the panels kept in ``folder`` (``mlproject/panels``)."""
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != "biomarkers")


def load_panel(name: str, folder: Path) -> Panel:
    """Read panel ``name`` from ``folder``.

    Raises:
        BadInput: no such panel, an unknown or repeated biomarker, or a derived feature whose markers the panel lacks.
    """
    path = folder / f"{name}.yaml"
    if name not in available_panels(folder):
        raise BadInput(f"panel {name!r}: no such panel; expected one of {', '.join(available_panels(folder))}")
    catalog = load_biomarkers(folder)
    raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = raw.get("biomarkers") or []
    unknown = [marker for marker in names if marker not in catalog]
    if unknown:
        raise BadInput(f"{path.name}: {', '.join(unknown)} not described in biomarkers.yaml")
    if not names or len(set(names)) != len(names):
        raise BadInput(f"{path.name}: expected at least one biomarker and each only once")
    try:
        panel = Panel(**{**raw, "name": name, "biomarkers": tuple(catalog[marker] for marker in names)})
    except ValidationError as error:
        raise BadInput(f"{path.name}: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from None
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
    try:
        return {
            name: Biomarker(name=name, **entry)
            for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items()
        }
    except ValidationError as error:
        raise BadInput(f"{path.name}: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from None
