"""NHANES: from the files as they are published, of any set of cycles, to the participant table.

A folder and its subfolders hold SAS transport files (``BIOPRO_F.xpt``) and linked mortality files
(``NHANES_2009_2010_MORT_2019_PUBLIC.dat``), known by their names. ``mlproject/nhanes.yaml`` says what is in them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from henaw.data.files import is_folder, require_file
from henaw.data.nhanes_mortality import read_mortality
from henaw.data.nhanes_transport import read_transport
from henaw.data.nhanes_variables import DEMOGRAPHICS, MORTALITY, Column, NhanesMap
from henaw.data.units import Conversion
from henaw.errors import BadInput

logger = logging.getLogger(__name__)

ID_COLUMNS = ("cycle", "seqn")
"""What names a participant: respondents' numbers are not unique from one survey to another."""

_CYCLE, _SEQN = ID_COLUMNS
_SURVEY = "SDDSRVYR"
_ENDINGS = (".xpt", ".dat")
_MOST_BEYOND = 0.05  # of the people, who may come after the last one of a file
_DEMOGRAPHICS_NAME = re.compile(r"(P_)?DEMO(_[A-Z])?")


@dataclass(frozen=True)
class Survey:
    """The files of a cycle that are there, by what they hold."""

    cycle: str
    files: dict[str, Path]


def is_nhanes(path: Path) -> bool:
    """Whether ``path`` is a SAS transport file, or a folder with one in it."""
    return path.name.lower().endswith(".xpt") or any(file.suffix.lower() == ".xpt" for file in _files(path))


def find_surveys(folder: Path, known: NhanesMap) -> list[Survey]:
    """The cycles in ``folder`` and its subfolders, in order. Files that the map does not name are left alone.

    Raises:
        BadInput: no such folder, no cycle in it, one without demographics, one that is not known, a file twice, or
            cycles with the same people.
    """
    if not is_folder(folder):
        expected = "expected a folder with SAS transport files of NHANES (DEMO_F.xpt, …)"
        require_file(folder, expected)
        raise BadInput(f"{folder}: is a file; {expected}")
    named: dict[str, Path] = {}
    for file in _files(folder):
        name = file.name.lower()
        if name in named:
            raise BadInput(f"{file}: there is a file of the same name, {named[name]}; expected each once")
        named[name] = file
    surveys = []
    for cycle, one in known.cycles.items():
        files = {role: named[one.file_name(role).lower()] for role in one.files if one.file_name(role).lower() in named}
        if files and DEMOGRAPHICS not in files:
            wanted = one.file_name(DEMOGRAPHICS)
            raise BadInput(f"{folder}: {next(iter(files.values())).name} of cycle {cycle} is there without {wanted}")
        if files:
            surveys.append(Survey(cycle, files))
    read = {path for survey in surveys for path in survey.files.values()}
    for path in named.values():
        if path not in read and _DEMOGRAPHICS_NAME.fullmatch(path.stem.upper()) and path.suffix.lower() == ".xpt":
            raise BadInput(f"{path}: of no cycle that is known; expected one of {', '.join(known.cycles)}")
    if not surveys:
        raise BadInput(f"{folder}: no demographics of NHANES; expected DEMO.xpt, DEMO_B.xpt, … in it or its subfolders")
    if left := len(named) - len(read):
        logger.info("%s: %d files hold nothing that is read: left alone", folder, left)
    known.require_apart([survey.cycle for survey in surveys], str(folder))
    return surveys


def read_nhanes(
    folder: Path,
    known: NhanesMap,
    *,
    numbers: Sequence[str],
    texts: Sequence[str] = (),
    optional: Collection[str] = (),
) -> pd.DataFrame:
    """Read all cycles in ``folder``: one row an examined adult with blood (``people`` of the map).

    Args:
        folder: where the files are.
        known: the map.
        numbers: columns to give as float64, NaN = missing.
        texts: columns to give as ``str``, NaN = missing; of numbers, their digits.
        optional: those of the above that need not be; the frame then lacks them too.

    Returns:
        ``cycle`` and ``seqn`` (text), and the columns. What a cycle did not measure is missing in it.

    Raises:
        BadInput: as ``find_surveys``, a column that cannot be given, a file that is not there or cannot be read, or
            nobody in the files.
    """
    surveys = find_surveys(folder, known)
    given = _given(folder, surveys, known, [*numbers, *texts], optional)
    parts = [_read_survey(survey, known, given) for survey in surveys]
    table = pd.concat(parts, ignore_index=True)
    if table.empty:
        raise BadInput(f"{folder}: nobody aged {known.people.least_age} or more was examined and has a blood value")
    for name in texts:
        if name in table and table[name].dtype.kind == "f":
            table[name] = table[name].map("{:.15g}".format, na_action="ignore").astype("str")
    logger.info("%d people in %d cycles (%s)", len(table), len(surveys), ", ".join(one.cycle for one in surveys))
    return table


def nhanes_files(
    folder: Path, known: NhanesMap, columns: Sequence[str], optional: Collection[str] = ()
) -> dict[str, Path]:
    """The files that ``read_nhanes`` would read, by cycle and what they hold; none is read.

    Raises:
        BadInput: as ``find_surveys``, a column that cannot be given, or a file that cannot be opened.
    """
    surveys = find_surveys(folder, known)
    given = _given(folder, surveys, known, columns, optional)
    files = {f"{one.cycle} {role}": one.files[role] for one in surveys for role in _roles(one, known, given)}
    for path in files.values():
        require_file(path, "expected a file of NHANES")
    return files


def _files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise BadInput(f"{error.filename}: cannot be read: {error.strerror}")

    if not is_folder(folder):
        return
    for place, subfolders, names in os.walk(folder, onerror=refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (
            Path(place) / name for name in sorted(names) if name.lower().endswith(_ENDINGS) and not name.startswith(".")
        )


def _given(
    folder: Path, surveys: Sequence[Survey], known: NhanesMap, columns: Sequence[str], optional: Collection[str]
) -> list[str]:
    """Those of ``columns`` that the files give; what must be and is not, is refused."""
    given = []
    for name in dict.fromkeys(columns):
        if name == _CYCLE:
            continue
        if name not in known.columns and name not in optional:
            raise BadInput(f"{folder}: NHANES gives no column {name}; expected one that mlproject/nhanes.yaml has")
        measured = [one for one in surveys if name in known.columns and known.column_in(name, one.cycle)]
        if any(known.columns[name].file in one.files for one in measured):
            given.append(name)
        if name in optional:
            continue
        if not measured:
            raise BadInput(f"{folder}: {name} is not in the files of {', '.join(one.cycle for one in surveys)}")
        for one in measured:
            if (role := known.columns[name].file) not in one.files:
                raise BadInput(
                    f"{folder}: no {known.cycles[one.cycle].file_name(role)}, which holds {name} of {one.cycle}; "
                    f"`henaw fetch nhanes --cycles {one.cycle}` brings it"
                )
    return given


def _needed(survey: Survey, known: NhanesMap, given: Sequence[str]) -> dict[str, Column]:
    """How to make the ``given`` columns, and those that tell who is in, as far as the files are there."""
    names = dict.fromkeys([*given, "age_years", *known.people.measured])
    found = {name: known.column_in(name, survey.cycle) for name in names}
    return {name: column for name, column in found.items() if column and column.file in survey.files}


def _roles(survey: Survey, known: NhanesMap, given: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([DEMOGRAPHICS, *(column.file for column in _needed(survey, known, given).values())]))


def _read_survey(survey: Survey, known: NhanesMap, given: Sequence[str]) -> pd.DataFrame:
    needed, cycle, people = _needed(survey, known, given), known.cycles[survey.cycle], known.people
    variables = {
        role: list(dict.fromkeys(name for one in needed.values() if one.file == role for name in one.variables))
        for role in _roles(survey, known, given)
    }
    variables[DEMOGRAPHICS] = list(dict.fromkeys([_SURVEY, people.examined.variable, *variables[DEMOGRAPHICS]]))
    frames: dict[str, pd.DataFrame] = {}
    for role, names in variables.items():
        path = survey.files[role]
        frames[role] = read_mortality(path) if role == MORTALITY else read_transport(path, names)
    asked = frames[DEMOGRAPHICS]
    if (asked[_SURVEY] != cycle.survey).any():
        raise BadInput(
            f"{survey.files[DEMOGRAPHICS]}: not of cycle {survey.cycle}; expected {_SURVEY} {cycle.survey} in each row"
        )
    _require_ends(survey, frames)
    if MORTALITY in frames and (lost := int((~asked.index.isin(frames[MORTALITY].index)).sum())):
        raise BadInput(
            f"{survey.files[MORTALITY]}: no line for {lost} of the {len(asked)} people of "
            f"{survey.files[DEMOGRAPHICS].name}; expected one for each"
        )
    examined = asked.index[asked[people.examined.variable] == people.examined.code]
    rows = {role: frame.reindex(examined) for role, frame in frames.items()}
    made = {
        name: _values(rows[one.file], one, known.conversion(name, one), cycle.top_age, known.decimals)
        for name, one in needed.items()
    }
    kept = made["age_years"] >= people.least_age
    if blood := [made[name].notna() for name in people.measured if name in made]:
        kept &= np.logical_or.reduce(blood)
    table = pd.DataFrame(
        {_CYCLE: pd.Series(survey.cycle, index=examined, dtype="str"), _SEQN: examined.astype("str")}
        | {name: made[name] if name in made else _absent(known.columns[name], examined) for name in given},
        index=examined,
    )
    return table[kept]


def _require_ends(survey: Survey, frames: Mapping[str, pd.DataFrame]) -> None:
    """Check that no file ends long before the others, as one does that was cut between two rows.

    They are in order of respondents, and whom they leave out is spread over all of it.
    """
    people = np.unique(np.concatenate([frame.index.to_numpy() for frame in frames.values()]))
    for role, frame in frames.items():
        if (missing := (people > frame.index.max()).mean()) > _MOST_BEYOND:
            raise BadInput(
                f"{survey.files[role]}: ends before {missing:.0%} of the people of the other files; is it cut short?"
            )


def _values(
    rows: pd.DataFrame, column: Column, conversion: Conversion | None, top_age: int, decimals: int
) -> pd.Series[Any]:
    decimals = decimals if column.decimals is None else column.decimals
    if column.readings:
        return _mean_reading(rows[column.readings]).round(decimals)
    assert column.variable is not None  # the map's own check
    values = rows[column.variable]
    if column.codes:
        return values.map(column.codes).astype("str" if column.is_text else "float64")
    if column.equals is not None:
        sought = top_age if column.equals == "top_age" else column.equals
        return (values == sought).astype("float64").where(values.notna())
    slope, offset = column.linear
    values = slope * values + offset
    return (conversion.to_canonical(values) if conversion else values).round(decimals)


def _mean_reading(readings: pd.DataFrame) -> pd.Series[Any]:
    """The mean of the readings after each person's first, or that one where it is the only one; zeros are none."""
    taken = readings.mask(readings == 0)
    later = taken.where(taken.notna().cumsum(axis=1) > 1)
    return later.mean(axis=1).fillna(taken.mean(axis=1))


def _absent(column: Column, index: pd.Index[Any]) -> pd.Series[Any]:
    return pd.Series(None, index=index, dtype="str" if column.is_text else "float64")
