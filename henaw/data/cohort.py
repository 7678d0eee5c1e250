"""From a source to the cohort: read it, and put pseudonyms in the place of ids."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from henaw.config import Config, asset_folder
from henaw.data.files import digest_file, digest_values, remembered_digest
from henaw.data.nhanes import ID_COLUMNS, is_nhanes, nhanes_files, read_nhanes
from henaw.data.nhanes_variables import MAP_FILE, NhanesMap, load_nhanes_map
from henaw.data.panel import Panel, load_biomarkers
from henaw.data.participants import load_or_create_key, participant_ids, pseudonyms
from henaw.data.synthetic import synthetic_table
from henaw.data.table import read_table, require_columns, table_columns
from henaw.data.ukb_exports import is_export
from henaw.data.ukbiobank import EID, export_files, read_ukbiobank
from henaw.data.units import UNITS_FILE, Conversion, chosen_conversions, convert
from henaw.data.withdrawals import Withdrawals, withdrawals
from henaw.errors import BadInput

logger = logging.getLogger(__name__)

PARTICIPANT = "participant"
"""Column of the pseudonym."""

_FOLLOW_UP = ("died", "followup_months")
_VISIT = "visit"
_SYNTHETIC_ID = "participant_id"


@dataclass(frozen=True, eq=False)
class Cohort:
    """A participant table as read, before validation; ``digest`` is of the source's bytes and how they are read."""

    table: pd.DataFrame
    digest: str
    kind: str


def read_cohort(config: Config, panel: Panel) -> Cohort:
    """Read the source that ``config`` names.

    The table has one row a person and visit: ``participant`` (pseudonym), ``age_years``, ``sex``, the panel's
    biomarkers (float64, NaN = missing), ``died``, ``followup_months`` and ``visit`` where the source has them, and the
    columns that ``cohort`` and ``split.column`` name. Nothing else of the source is kept.
    Biomarkers in a unit that ``source.units`` names are converted; those then below their detection limit in
    ``cohort.floors`` hold the limit. Whoever has withdrawn is gone before anything is counted.

    Raises:
        BadInput: a file, column, cell or id that cannot be used, or a setting that says nothing of such a source.
        EnvironmentProblem: the pseudonym key cannot be read or written.
    """
    kind = source_kind(config)
    columns, conversions = _Columns.of(config, panel), _conversions(config, panel)
    digest, gone = source_digest(config, panel), _withdrawn(config)
    if kind == "synthetic":
        rows, id_columns = _draw_synthetic(config, columns), [_SYNTHETIC_ID]
    elif kind == "ukbiobank":
        biomarkers, state = measured(config, panel).biomarkers, Path(config.state.folder)
        rows, id_columns = read_ukbiobank(config.source, biomarkers, columns.asked, state, gone), [EID]
    elif kind == "nhanes":
        wanted: dict[str, Any] = {"numbers": columns.numbers, "texts": columns.texts, "optional": columns.optional}
        rows, id_columns = read_nhanes(_path(config), _nhanes_map(), **wanted), list(ID_COLUMNS)
    else:
        path, id_columns = _path(config), config.source.id_columns
        rows = read_table(path, numbers=columns.numbers, texts=[*columns.texts, *id_columns], optional=columns.optional)
    if source_digest(config, panel) != digest:
        raise BadInput(f"{config.source.data}: changed while it was read; run again when it is complete")
    try:
        ids = participant_ids(rows, id_columns)
        if kind != "ukbiobank":  # which is read without them
            kept = ~gone.rows(ids)
            rows, ids = rows[kept].reset_index(drop=True), ids[kept].reset_index(drop=True)
        people = pseudonyms(ids, load_or_create_key(Path(config.state.folder)))
    except BadInput as error:
        raise BadInput(f"{config.source.data or 'synthetic'}: id columns {', '.join(id_columns)}: {error}") from None
    table = rows[[name for name in columns.kept if name in rows]]
    convert(table, conversions)
    table.insert(0, PARTICIPANT, people)
    table["sex"] = table["sex"].str.strip().str.lower()
    for name, limit in config.cohort.floors.items():
        # below zero there is no measurement: that is for validation to find
        table[name] = table[name].mask(table[name].between(0, limit), limit)
    logger.info("read %d rows of %d participants (%s)", len(table), table[PARTICIPANT].nunique(), kind)
    return Cohort(table, digest, kind)


def source_kind(config: Config) -> str:
    """``source.kind``, with ``auto`` decided by what ``source.data`` looks like."""
    if config.source.kind != "auto":
        return config.source.kind
    if config.source.data is None:
        return "synthetic"
    if is_nhanes(_path(config)):
        return "nhanes"
    return "ukbiobank" if is_export(_path(config)) else "table"


def source_digest(config: Config, panel: Panel) -> str:
    """What the cohort is made of: the source's bytes and the settings of reading, in 64 hexadecimal digits.

    Files are hashed, not parsed; their names and places do not count.

    Raises:
        BadInput: the file lacks a column or cannot be read, or a setting says nothing of such a source.
    """
    kind = source_kind(config)
    _refuse_settings_of_others(config, kind)
    columns = _Columns.of(config, panel)
    converted = {name: [one.factor, one.zero] for name, one in _conversions(config, panel).items()}
    reading: dict[str, Any] = {"kind": kind, "kept": columns.kept, "floors": config.cohort.floors, "units": converted}
    reading["withdrawn"] = _withdrawn(config).digest
    if kind == "synthetic":
        drawn = {"people": config.source.people, "ages": config.source.ages, "seed": config.seed}
        catalog = asset_folder("mlproject") / "panels" / "biomarkers.yaml"
        return digest_values(reading | drawn | {"files": [digest_file(_summaries()), digest_file(catalog)]})
    memory = Path(config.state.folder) / "digests.json"
    if kind == "ukbiobank":
        biomarkers = measured(config, panel).biomarkers
        exports = export_files(config.source, biomarkers, columns.asked)
        reading |= config.source.model_dump(include={"instance", "with_fields", "censored_on"})
        reading["ids"] = digest_file(Path(config.source.with_ids)) if config.source.with_ids else None
        reading["biomarkers"] = [marker.model_dump(mode="json") for marker in biomarkers]
        return digest_values(reading | {"bytes": sorted(remembered_digest(file, memory) for file in exports)})
    path = _path(config)
    if kind == "nhanes":
        wanted = [*columns.numbers, *columns.texts]
        held = nhanes_files(path, _nhanes_map(), wanted, columns.optional)
        digests = {what: remembered_digest(file, memory) for what, file in held.items()}
        reading["map"] = [digest_file(asset_folder("mlproject") / name) for name in (MAP_FILE, f"panels/{UNITS_FILE}")]
        return digest_values(reading | {"bytes": digests})
    _check_header(path, config, panel, columns)
    digest = remembered_digest(path, memory)
    return digest_values(reading | {"id_columns": config.source.id_columns, "bytes": digest})


def measured(config: Config, panel: Panel) -> Panel:
    """All biomarkers that are judged: those of ``panel``, and what ``cohort.require`` and ``cohort.plausible`` name.

    Raises:
        BadInput: ``cohort.plausible`` names something else.
    """
    catalog = load_biomarkers(asset_folder("mlproject") / "panels")
    if unknown := [name for name in config.cohort.plausible if name not in catalog]:
        raise BadInput(f"cohort.plausible: {unknown[0]}: no such biomarker; expected names of biomarkers.yaml")
    named = dict.fromkeys([*config.cohort.require, *config.cohort.plausible])
    beyond = [catalog[name] for name in named if name in catalog and name not in panel.names]
    return panel.model_copy(update={"biomarkers": (*panel.biomarkers, *beyond)})


def required(config: Config) -> dict[str, str]:
    """Columns in which a participant must have a value, by the setting that asks for it."""
    follow_up = _FOLLOW_UP if config.target == "mortality" else ()
    return dict.fromkeys(follow_up, "target mortality") | dict.fromkeys(config.cohort.require, "cohort.require")


@dataclass(frozen=True)
class _Columns:
    """What is read of a source, and what of it is kept."""

    numbers: list[str]
    texts: list[str]
    optional: list[str]
    asked: dict[str, str]  # by the setting that asks for it

    @classmethod
    def of(cls, config: Config, panel: Panel) -> _Columns:
        biomarkers = measured(config, panel).names
        if unread := [name for name in config.cohort.floors if name not in biomarkers]:
            raise BadInput(
                f"cohort.floors: {unread[0]} is not read; expected a biomarker of panel {panel.name}, or one that "
                "cohort.require or cohort.plausible names"
            )
        asked = dict.fromkeys(config.cohort.plausible, "cohort.plausible")
        asked |= required(config)
        asked |= dict.fromkeys(config.cohort.exclude, "cohort.exclude")
        if config.split.by != "person" and config.split.column:
            asked[config.split.column] = "split.column"
        if config.training.era_column:
            asked[config.training.era_column] = "training.era_column"
        numbers = ["age_years", *biomarkers, *_FOLLOW_UP]
        texts = ["sex", _VISIT, *(name for name in asked if name not in (*numbers, "sex", _VISIT))]
        return cls(numbers, texts, [name for name in (*_FOLLOW_UP, _VISIT) if name not in asked], asked)

    @property
    def kept(self) -> list[str]:
        return [self.numbers[0], self.texts[0], *self.numbers[1:], *self.texts[1:]]


def _refuse_settings_of_others(config: Config, kind: str) -> None:
    """Whoever asks for these people alone must not get everybody."""
    if kind == "ukbiobank":
        return
    for name in ("instance", "with_ids", "with_fields", "censored_on"):
        if getattr(config.source, name):
            raise BadInput(f"source.{name}: is for exports of UK Biobank; expected none for a source of kind {kind}")


def _conversions(config: Config, panel: Panel) -> dict[str, Conversion]:
    if config.source.units and source_kind(config) == "nhanes":
        raise BadInput("source.units: the units of NHANES are known, and converted already; expected none to be named")
    biomarkers = measured(config, panel).biomarkers
    return chosen_conversions(config.source.units, biomarkers, asset_folder("mlproject") / "panels")


def _withdrawn(config: Config) -> Withdrawals:
    gone = withdrawals(config.source.withdrawals, Path(config.state.folder))
    if config.source.withdrawals and not config.source.id_columns and source_kind(config) == "table":
        raise BadInput("source.withdrawals: nobody can be found without ids; name their columns in source.id_columns")
    return gone


def _path(config: Config) -> Path:
    assert config.source.data is not None  # the settings' own check
    return Path(config.source.data)


def _nhanes_map() -> NhanesMap:
    return load_nhanes_map(asset_folder("mlproject"))


def _summaries() -> Path:
    return asset_folder("mlproject") / "synthetic" / "nhanes_1999_2010.json"


def _draw_synthetic(config: Config, columns: _Columns) -> pd.DataFrame:
    youngest, oldest = config.source.ages
    rows = synthetic_table(config.source.people, (youngest, oldest), config.seed, summaries=_summaries())
    for name, setting in columns.asked.items():
        if name not in rows:
            raise BadInput(f"{setting}: the synthetic cohort has no column {name}; name a table with data=FILE")
    return rows


def _check_header(path: Path, config: Config, panel: Panel, columns: _Columns) -> None:
    present = table_columns(path)
    ids = config.source.id_columns
    measured = [name for name in ids if name in columns.numbers]
    if measured:
        raise BadInput(f"source.id_columns: {measured[0]} is a measurement; expected columns that name participants")
    if (ids and set(ids) <= set(columns.asked)) or PARTICIPANT in columns.asked:
        raise BadInput(
            "cohort.require, cohort.exclude, split.column and training.era_column keep every column that names "
            "participants; ids are never kept"
        )
    require_columns(
        path, ids, present, "source.id_columns names the columns of the participant's id ([]: every row is a person)"
    )
    for name, setting in columns.asked.items():
        require_columns(path, [name], present, f"{setting} asks for it")
    require_columns(path, ["age_years", "sex"], present)
    require_columns(
        path,
        panel.names,
        present,
        f"needed by panel {panel.name}, in the unit that the name says or source.units names",
    )
