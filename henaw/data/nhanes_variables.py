"""The map of NHANES, ``mlproject/nhanes.yaml``: which file and variable of each cycle hold a column of the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from henaw.data.panel import read_yaml
from henaw.data.units import UNITS_FILE, Conversion, load_conversions
from henaw.errors import BadInput

MAP_FILE = "nhanes.yaml"
MORTALITY = "mortality"
DEMOGRAPHICS = "demographics"

_PUBLISHED = "Nchs/Data/Nhanes/Public/{year}/DataFiles/{name}"
_PUBLISHED_MORTALITY = "pub/Health_Statistics/NCHS/datalinkage/linked_mortality/{name}"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Cycle(_Part):
    """A survey cycle: ``files`` are named by what they hold, without their endings."""

    survey: int
    top_age: int
    includes: list[str] = []
    files: dict[str, str]

    def file_name(self, role: str) -> str:
        """The name of the file, as the publisher writes it."""
        return f"{self.files[role]}{'.dat' if role == MORTALITY else '.xpt'}"


class Column(_Part):
    """How a column follows from a file: a ``variable``, as it is or by one of the others, or several ``readings``."""

    file: str
    variable: str | None = None
    readings: list[str] = []
    linear: tuple[float, float] = Field((1, 0), strict=False)
    unit: str | None = None
    unit_of: str | None = None
    codes: dict[int, str | int] = {}
    equals: float | Literal["top_age"] | None = None
    decimals: int | None = None
    by_cycle: dict[str, dict[str, Any] | None] = {}

    @model_validator(mode="after")
    def _one_way(self) -> Column:
        if (self.variable is None) == (not self.readings):
            raise ValueError("expected variable or readings")
        if bool(self.codes) + (self.equals is not None) + bool(self.readings) + (self.unit is not None) > 1:
            raise ValueError("expected one of codes, equals, readings and unit")
        return self

    @property
    def variables(self) -> list[str]:
        """Names of the variables that it is made of."""
        return [self.variable] if self.variable else self.readings

    @property
    def is_text(self) -> bool:
        """Whether its values are words."""
        return any(isinstance(meaning, str) for meaning in self.codes.values())


class Examined(_Part):
    """The variable, and its code, of who was examined."""

    variable: str
    code: int


class People(_Part):
    """Who is in the table."""

    examined: Examined
    least_age: int
    measured: list[str]


class NhanesMap(_Part):
    """All of ``mlproject/nhanes.yaml``, and the ``conversions`` of units that it refers to."""

    decimals: int
    people: People
    cycles: dict[str, Cycle]
    columns: dict[str, Column]
    conversions: dict[str, tuple[Conversion, ...]]

    @model_validator(mode="after")
    def _names_known(self) -> NhanesMap:
        roles = {role for cycle in self.cycles.values() for role in cycle.files}
        for name, column in self.columns.items():
            if column.file not in roles:
                raise ValueError(f"columns: {name}: no cycle has a file {column.file}")
            if unknown := [cycle for cycle in column.by_cycle if cycle not in self.cycles]:
                raise ValueError(f"columns: {name}: no cycle {unknown[0]}")
            for cycle in self.cycles:
                made = self.column_in(name, cycle)
                if made and made.unit and self.conversion(name, made) is None:
                    raise ValueError(f"columns: {name}: {UNITS_FILE} has no {made.unit} for it")
        for cycle, one in self.cycles.items():
            if DEMOGRAPHICS not in one.files or not set(one.includes) <= set(self.cycles):
                raise ValueError(f"cycles: {cycle}: expected a file {DEMOGRAPHICS}, and known cycles in includes")
        if unknown := [name for name in self.people.measured if name not in self.columns]:
            raise ValueError(f"people: measured: no column {unknown[0]}")
        return self

    def column_in(self, name: str, cycle: str) -> Column | None:
        """How column ``name`` is made in ``cycle``; None where the cycle does not have it."""
        column = self.columns[name]
        changes = column.by_cycle.get(cycle, {})
        if changes is None or column.file not in self.cycles[cycle].files:
            return None
        return Column.model_validate(column.model_dump(exclude={"by_cycle"}) | changes)

    def conversion(self, name: str, column: Column) -> Conversion | None:
        """What brings column ``name``, which is made as ``column``, into its canonical unit; None where it is in it."""
        known = self.conversions.get(column.unit_of or name, ())
        return next((one for one in known if one.unit == column.unit), None)

    def published_paths(self, cycle: str) -> dict[str, str]:
        """Where the files of ``cycle`` are, by their names: the paths of their addresses at the publisher's."""
        known = self.cycles[cycle]
        return {
            known.file_name(role): (_PUBLISHED_MORTALITY if role == MORTALITY else _PUBLISHED).format(
                year=cycle[:4], name=known.file_name(role)
            )
            for role in known.files
        }

    def require_cycle(self, cycle: str) -> str:
        """``cycle``, if there is one of that name.

        Raises:
            BadInput: there is none.
        """
        if cycle not in self.cycles:
            raise BadInput(f"NHANES cycle {cycle!r}: unknown; expected one of {', '.join(self.cycles)}")
        return cycle

    def require_apart(self, cycles: Sequence[str], where: str) -> None:
        """Check that nobody is in two of ``cycles``, which are ``where``.

        Raises:
            BadInput: one has the people of another again.
        """
        for cycle in cycles:
            if again := [other for other in self.cycles[cycle].includes if other in cycles]:
                raise BadInput(f"{where}: cycle {cycle} has the people of {again[0]} again; expected one of the two")


def load_nhanes_map(folder: Path) -> NhanesMap:
    """Read the map in ``folder`` (``mlproject``), and the units in its ``panels``.

    Raises:
        BadInput: not YAML, or a key that is missing, unknown or of the wrong kind.
    """
    path = folder / MAP_FILE
    try:
        return NhanesMap.model_validate(read_yaml(path) | {"conversions": load_conversions(folder / "panels")})
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join(map(str, first["loc"]))
        raise BadInput(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
