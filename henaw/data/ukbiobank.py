"""UK Biobank: from the fields of an export to the participant table.

The fields are the panel's (``ukb_field`` of each biomarker), sex (31), for the age at a visit month and year of birth
(52, 34) and the date of the visit (53) or the age as recorded (21003, 21022), and for follow-up the dates of death
(40000) and of loss (191).
"""

from __future__ import annotations

import logging
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.files import require_file
from henaw.data.panel import Biomarker
from henaw.data.ukb_codings import answered, codes, dates, months, sexes
from henaw.data.ukb_exports import Export, Meaning, Values, estimated_rows, find_exports, read_ids, read_variables
from henaw.data.ukb_names import Variable, examples
from henaw.data.withdrawals import Withdrawals
from henaw.errors import BadInput, EnvironmentProblem
from henaw.settings import Source

logger = logging.getLogger(__name__)

EID = "eid"
"""Column of the participant's id."""

_SEX, _BIRTH_YEAR, _BIRTH_MONTH, _VISIT_DATE, _CENTRE, _LOST = 31, 34, 52, 53, 54, 191
_AGE_AT_VISIT, _AGE_AT_RECRUITMENT, _DEATH = 21003, 21022, 40000
_VISITS = (0, 1, 2, 3)
_DAYS_PER_YEAR = 365.25
_ASKABLE = {"centre": _CENTRE, "visit_date": _VISIT_DATE}
_FOLLOW_UP = ("died", "followup_months")
_DATE = "datetime64[s]"
_CAME, _MEASURED = 1, 2


def read_ukbiobank(
    source: Source,
    biomarkers: Sequence[Biomarker],
    asked: Mapping[str, str],
    state_folder: Path,
    withdrawn: Withdrawals,
) -> pd.DataFrame:
    """Read the export at ``source.data``: one row a participant who came to the visit that ``source`` chooses.

    Args:
        source: the settings.
        biomarkers: the measurements to read, in the units of UK Biobank, which are the canonical ones.
        asked: further columns, and the setting that asks for each: ``centre``, ``visit_date``, or a field as ``p2443``.
        state_folder: where the cache will be; its disk must have room.
        withdrawn: who is left out of everything, counts included.

    Returns:
        ``eid`` (text), ``age_years``, ``sex``, the biomarkers, ``visit`` (its instance, as text), what is asked for (as
        text) and, with ``source.censored_on``, ``died`` and ``followup_months``.

    Raises:
        BadInput: no export, a file that cannot be read, a field that no file has, a cell that is not what its field
            holds, ids that are missing, repeated or at odds, or nobody left.
        EnvironmentProblem: no room for the cache.
    """
    exports = find_exports(_path(source))
    wanted = _wanted(source, biomarkers, asked, exports)
    _require_room(state_folder, estimated_rows(exports), 8 * (len(biomarkers) + len(asked) + 7))
    values = read_variables(exports, wanted, withdrawn)
    first, *others = _visits(source, biomarkers, wanted)
    table = _at_visit(values, first, biomarkers, asked, source.censored_on)
    standing = _standing(table, biomarkers)
    for visit in others:
        later = _at_visit(values, visit, biomarkers, asked, source.censored_on)
        better = _standing(later, biomarkers) > standing
        table = pd.concat([table[~better], later[better]]).sort_index()
        standing = _standing(table, biomarkers)
    kept = _kept(values, standing >= _CAME, source)
    if not (kept & (standing == _MEASURED) & table["age_years"].notna() & table["sex"].notna()).any():
        raise BadInput(
            f"{source.data}: nobody of {len(table)} participants has age, sex and a biomarker; are the files of one "
            "application, and is anybody left by source.instance, source.with_ids and source.with_fields?"
        )
    table.insert(0, EID, values.eids)
    chosen_rows: pd.DataFrame = table[kept].reset_index(drop=True)
    return chosen_rows


def export_files(source: Source, biomarkers: Sequence[Biomarker], asked: Mapping[str, str]) -> list[Path]:
    """The files that ``read_ukbiobank`` would read; only headers are read.

    Raises:
        BadInput: no export there, a header that cannot be read, a field that no file has, or no file of ids.
    """
    if source.with_ids:
        require_file(Path(source.with_ids), "expected a file of ids (source.with_ids)")
    exports = find_exports(_path(source))
    wanted = _wanted(source, biomarkers, asked, exports)
    return [export.path for export in exports if any(one in wanted for one in export.columns)]


def _path(source: Source) -> Path:
    assert source.data is not None  # the settings' own check
    return Path(source.data)


def _wanted(
    source: Source, biomarkers: Sequence[Biomarker], asked: Mapping[str, str], exports: Sequence[Export]
) -> dict[Variable, Meaning]:
    """The variables to read, and what their cells mean."""
    held: dict[tuple[int, int], list[Variable]] = defaultdict(list)
    for one in sorted({one for export in exports for one in export.columns}):
        held[one.field, one.instance].append(one)
    visits = _VISITS if source.instance == "first" else (source.instance,)
    wanted: dict[Variable, Meaning] = {}

    def take(field: int, instances: Sequence[int], meaning: Meaning, *, every_array: bool = False) -> bool:
        found = [one for visit in instances for one in held[field, visit][: None if every_array else 1]]
        wanted.update({one: meaning for one in found if one not in wanted})
        return bool(found)

    def require(taken: bool, field: int, why: str, visit: int = 0) -> None:
        if not taken:
            raise BadInput(
                f"{source.data}: no column of field {field} ({why}) at visit {visit}; expected for example "
                f"{examples(field, visit)}"
            )

    for marker in biomarkers:
        if marker.ukb_field is None:
            raise BadInput(
                f"{marker.name}: no field of UK Biobank is known for it; expected ukb_field in its panel file"
            )
        taken = take(marker.ukb_field, visits, None, every_array=marker.ukb_average)
        require(taken, marker.ukb_field, marker.title, visits[0])
    require(take(_SEX, (0,), sexes), _SEX, "sex")
    born = [take(_BIRTH_YEAR, (0,), None), take(_BIRTH_MONTH, (0,), months), take(_VISIT_DATE, visits, dates)]
    recorded = take(_AGE_AT_VISIT, visits, None) | (0 in visits and take(_AGE_AT_RECRUITMENT, (0,), None))
    require(all(born) or recorded, _AGE_AT_VISIT, "age, unless there are 34, 52 and 53", visits[0])
    if source.censored_on:
        require(take(_DEATH, _VISITS, dates), _DEATH, "date of death, for source.censored_on")
        require(born[2], _VISIT_DATE, "date of the visit, for source.censored_on", visits[0])
        take(_LOST, (0,), dates)
    for field in source.with_fields:
        taken = take(field, sorted({visit for known, visit in held if known == field}), codes, every_array=True)
        require(taken, field, "source.with_fields")
    for name, setting in asked.items():
        if name in _FOLLOW_UP and not source.censored_on:
            raise BadInput(f"{setting}: {name} needs source.censored_on, the day up to which deaths are known")
        if name not in (*_FOLLOW_UP, "age_years", "sex", "visit", *(marker.name for marker in biomarkers)):
            field = _field(name, setting)
            require(take(field, visits, codes) or take(field, (0,), codes), field, setting, visits[0])
    return wanted


def _visits(source: Source, biomarkers: Sequence[Biomarker], wanted: Mapping[Variable, Meaning]) -> list[int]:
    """The visits to choose from, in order."""
    if source.instance != "first":
        return [source.instance]
    fields = {marker.ukb_field for marker in biomarkers}
    return sorted({one.instance for one in wanted if one.field in fields and one.instance in _VISITS})


def _field(name: str, setting: str) -> int:
    if name in _ASKABLE:
        return _ASKABLE[name]
    if found := re.fullmatch("p([1-9][0-9]*)", name):
        return int(found[1])
    raise BadInput(
        f"{setting}: an export of UK Biobank gives no column {name}; expected {', '.join(_ASKABLE)}, or p2443"
    )


def _at_visit(
    values: Values, visit: int, biomarkers: Sequence[Biomarker], asked: Mapping[str, str], censored_on: str | None
) -> pd.DataFrame:
    """The table as if every participant had come to ``visit``; values that are not there are missing."""
    date = _one(values, _VISIT_DATE, visit, _DATE)
    table = pd.DataFrame({"age_years": _age(values, visit, date), "sex": _one(values, _SEX, 0, "str")})
    for marker in biomarkers:
        assert marker.ukb_field is not None
        readings = values.of(marker.ukb_field, visit)[: None if marker.ukb_average else 1]
        if marker.plausible[0] >= 0:  # no measurement is below zero: what is, is a code of "no answer"
            readings = [answered(reading) for reading in readings]
        table[marker.name] = np.nan
        if readings:
            table[marker.name] = readings[0] if len(readings) == 1 else pd.concat(readings, axis=1).mean(axis=1)
    if censored_on:
        table["died"], table["followup_months"] = _follow_up(values, date, np.datetime64(censored_on, "s"))
    table["visit"] = pd.Series(str(visit), index=table.index, dtype="str")
    for name, setting in asked.items():
        if name not in table:
            table[name] = _text(values, _field(name, setting), visit)
    return table


def _standing(table: pd.DataFrame, biomarkers: Sequence[Biomarker]) -> NDArray[np.int8]:
    """How far each participant got: not to the visit, to it, or to a value of the panel."""
    measured = table[[marker.name for marker in biomarkers]].notna().any(axis=1)
    return np.where(measured, _MEASURED, np.where(table["age_years"].notna(), _CAME, 0)).astype(np.int8)


def _one(values: Values, field: int, visit: int, dtype: str) -> pd.Series[Any]:
    """The first value of ``field`` at ``visit``."""
    for column in values.of(field, visit):
        return column
    return pd.Series(None, index=values.eids.index, dtype=dtype)


def _text(values: Values, field: int, visit: int) -> pd.Series[Any]:
    """A field as text: at ``visit``, or at recruitment where it was asked but once."""
    column, *_ = [*values.of(field, visit), *values.of(field, 0)]
    if column.dtype.kind == "M":
        column = column.dt.strftime("%Y-%m-%d")
    elif column.dtype == "float64":
        column = column.map("{:.15g}".format, na_action="ignore")
    return column.astype("str")


def _age(values: Values, visit: int, date: pd.Series[Any]) -> pd.Series[Any]:
    """Years from the middle of the month of birth to the visit; where that is not known, the age as recorded."""
    year, month = (answered(_one(values, field, 0, "float64")) for field in (_BIRTH_YEAR, _BIRTH_MONTH))
    born = pd.to_datetime(pd.DataFrame({"year": year, "month": month, "day": 15.0}), errors="coerce")
    age = (date - born).dt.days / _DAYS_PER_YEAR
    recorded = answered(_one(values, _AGE_AT_VISIT, visit, "float64"))
    if odd := int(((age - recorded - 0.5).abs() > 1.5).sum()):
        logger.warning("visit %d: the age of %d participants does not follow from their dates", visit, odd)
    age = age.fillna(recorded)
    return age.fillna(answered(_one(values, _AGE_AT_RECRUITMENT, 0, "float64"))) if visit == 0 else age


def _follow_up(values: Values, date: pd.Series[Any], end: np.datetime64) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """Death by ``end`` (1, 0) and the months until it, loss or ``end``; missing where that lies before the visit."""
    deaths = pd.concat([_one(values, _DEATH, record, _DATE) for record in _VISITS], axis=1).min(axis=1)
    stop = pd.concat([deaths, _one(values, _LOST, 0, _DATE)], axis=1).min(axis=1).fillna(end)
    stop = stop.where(stop <= end, end)
    followed = (stop - date).dt.days / _DAYS_PER_YEAR * 12
    known = followed >= 0
    return (deaths == stop).astype("float64").where(known), followed.where(known)


def _kept(values: Values, came: NDArray[np.bool_], source: Source) -> NDArray[np.bool_]:
    """Who came to a visit, and is among the people that ``source`` asks for."""
    rules = {f"did not come to visit {source.instance}": came}
    if source.with_ids:
        rules[f"are not in {source.with_ids}"] = values.eids.isin(read_ids(Path(source.with_ids))).to_numpy()
    for field in source.with_fields:
        columns = [column.notna() for one, column in values.columns.items() if one.field == field]
        rules[f"have no value in field {field}"] = np.any(columns, axis=0)
    kept = np.ones(len(values.eids), np.bool_)
    for rule, keeps in rules.items():
        if left := int((kept & ~keeps).sum()):
            logger.info("left out: %d of %d participants, who %s", left, len(kept), rule)
        kept &= keeps
    return kept


def _require_room(folder: Path, rows: int, bytes_per_row: int) -> None:
    """Check that the cache of about ``rows`` participants, and the new one beside an old one, has a place to go."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    needed, free = 2 * rows * bytes_per_row, shutil.disk_usage(existing).free
    if free < needed:
        raise EnvironmentProblem(
            f"{folder}: {free >> 20} MiB free on its disk; the cache of {rows} participants or so needs "
            f"{needed >> 20} MiB"
        )
