"""Make exports in the form of UK Biobank's: any number of people and columns, every convention; nobody in them lives.

    python benchmarks/make_ukb_export.py FOLDER [--convention csv] [--people 1000] [--columns 200] [--gzip] [--seed 0]

The people are drawn from the synthetic cohort, in blocks, so that memory stays small. Beside the fields that HENAW
reads there are as many others as it takes to reach ``--columns``: numbers, codes, dates and texts with commas, half of
them missing. ``--convention mixed`` spreads the fields over files and subfolders in all conventions.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from isal import igzip

from henaw.config import asset_folder
from henaw.data.panel import load_biomarkers
from henaw.data.synthetic import synthetic_table

Variable = tuple[int, int, int]  # field, instance, array
Cells = dict[Variable, list[str]]  # "" = missing, dates as 2008-03-17

BLOCK_PEOPLE = 10_000
POOL = 50  # different stretches of other columns
SEVERAL_INSTANCES = {53, 54, 2443, 4080, 21003, 21015, 40000}  # beside the biomarkers
SEVERAL_VALUES = {4080, 21015}
DATES = {53, 191, 40000}
TEXTS = {21015}
MARKERS = {marker.ukb_field: name for name, marker in load_biomarkers(asset_folder("mlproject") / "panels").items()}


def _rap(variable: Variable) -> str:
    field, instance, array = variable
    instances = f"_i{instance}" if field in SEVERAL_INSTANCES or field in MARKERS else ""
    return f"p{field}{instances}" + (f"_a{array}" if field in SEVERAL_VALUES else "")


def _stata(variable: Variable) -> str:
    field, instance, array = variable
    prefix = "ts" if field in DATES else "s" if field in TEXTS else "n"
    return f"{prefix}_{field}_{instance}_{array}"


@dataclass(frozen=True)
class Convention:
    """How a program writes an export."""

    eid: str
    name: Callable[[Variable], str]
    suffix: str = ".csv"
    missing: str = ""
    quoted: bool = False
    date: str = "%Y-%m-%d"

    @property
    def delimiter(self) -> str:
        """Between cells."""
        return "," if self.suffix == ".csv" else "\t"

    def cell(self, value: str) -> str:
        """The cell that stands for ``value``."""
        if self.date != "%Y-%m-%d" and len(value) == 10 and value[4] == value[7] == "-":
            value = dt.date.fromisoformat(value).strftime(self.date).lower()
        if self.quoted or self.delimiter in value:
            return f'"{value}"'
        return value or self.missing


CONVENTIONS = {
    "csv": Convention("eid", lambda v: f"{v[0]}-{v[1]}.{v[2]}", quoted=True),
    "r": Convention("f.eid", lambda v: f"f.{v[0]}.{v[1]}.{v[2]}", ".tab", missing="NA"),
    "stata": Convention("n_eid", _stata, ".tsv", missing=".", date="%d%b%Y"),
    "x": Convention("eid", lambda v: f"x{v[0]}_{v[1]}_{v[2]}"),
    "make.names": Convention("eid", lambda v: f"X{v[0]}.{v[1]}.{v[2]}", missing="NA"),
    "ukbtools": Convention("eid", lambda v: f"some_title_f{v[0]}_{v[1]}_{v[2]}", ".txt", missing="NA"),
    "rap": Convention("participant.eid", lambda v: f"participant.{_rap(v)}"),
    "rap-short": Convention("eid", _rap, ".tsv"),
    "rap-parquet": Convention("eid", _rap, ".parquet"),
}
MIXED = {  # convention → does its file hold this field?
    "csv": lambda field: field in (31, 34, 52, 53, 54),
    "r": lambda field: field in (30000, 30010, 30020, 30040, 30070, 30080),
    "stata": lambda field: field in (30180, 30190, 30200, 30210, 53),
    "x": lambda field: field in (30600, 30610, 30620, 31),
    "ukbtools": lambda field: field in (30650, 30670, 30690, 30700),
    "rap": lambda field: field in (30710, 30730, 30740, 30750),
    "rap-parquet": lambda field: 30760 <= field < 31000 or field in (30710, 40000),
    "rap-short": lambda field: field in (191, 2443, 4080, 21003, 21015, 40000),
}


def people_blocks(people: int, seed: int) -> Iterator[tuple[list[str], Cells]]:
    """Ids and the cells of the fields that HENAW reads, ``BLOCK_PEOPLE`` at a time."""
    for start in range(0, people, BLOCK_PEOPLE):
        size = min(BLOCK_PEOPLE, people - start)
        # The multiplier has no divisor in common with the number of ids: none occurs twice.
        eids = [str(1_000_000 + number * 1_234_577 % 5_000_000) for number in range(start, start + size)]
        yield eids, _cells(size, seed * 1_000_003 + start)


def _cells(people: int, seed: int) -> Cells:
    random = np.random.default_rng(seed)
    summaries = asset_folder("mlproject") / "synthetic" / "nhanes_1999_2010.json"
    table = synthetic_table(people, (40, 69), seed, summaries=summaries)
    visit = np.datetime64("2006-03-13") + random.integers(0, 1600, people)
    days = (table["age_years"].fillna(55).to_numpy() + random.random(people)) * 365.25
    born = visit - days.astype("m8[D]")
    death = visit + (table["followup_months"].fillna(0).to_numpy() * 30.4375).astype("m8[D]")
    again = {0: np.ones(people, bool), 1: random.random(people) < 0.1, 2: random.random(people) < 0.2}
    cells: Cells = {
        (31, 0, 0): table["sex"].map({"female": "0", "male": "1"}).fillna("").tolist(),
        (34, 0, 0): _text(born.astype("M8[Y]")),
        (52, 0, 0): [str(int(month)) for month in born.astype("M8[M]").astype(int) % 12 + 1],
        (191, 0, 0): _text(visit + 900, random.random(people) < 0.003),
        (40000, 0, 0): _text(death, (table["died"] == 1).to_numpy()),
    }
    for instance, came in again.items():
        date = visit + 1500 * instance
        cells[53, instance, 0] = _text(date, came)
        age = (date - born).astype("m8[D]").astype(int) // 365.25
        cells[21003, instance, 0] = _text(age.astype(int), came)
        cells[54, instance, 0] = _text(random.integers(11001, 11024, people), came)
        cells[2443, instance, 0] = _text(random.choice([0, 0, 0, 0, 0, 1, -1, -3], people), came)
        for array in (0, 1):
            cells[4080, instance, array] = _text(random.integers(100, 180, people), came)
            images = [f"{number}_21015_{instance}_{array}.png" for number in range(people)]
            cells[21015, instance, array] = _text(np.array(images), came & (random.random(people) < 0.2))
        for field, name in MARKERS.items():
            if instance < 2 or field < 30500:  # no biochemistry at the imaging visit
                values = (table[name] * (1 + 0.02 * instance)).round(4)
                known = came & values.notna().to_numpy() & (random.random(people) < (0.94 if instance else 1))
                cells[field, instance, 0] = _text(values.to_numpy(), known)
    return dict(sorted(cells.items()))


def _text(values: np.ndarray[Any, Any], known: np.ndarray[Any, Any] | None = None) -> list[str]:
    texts = values.astype(str).tolist()
    return texts if known is None else [text if is_known else "" for text, is_known in zip(texts, known, strict=True)]


def write_export(
    path: Path,
    convention: Convention,
    people: int,
    *,
    columns: int = 0,
    seed: int = 0,
    holds: Callable[[int], bool] = lambda _: True,
    keeps: Callable[[int], bool] = lambda _: True,
) -> Path:
    """Write one file, ``path`` with the convention's suffix (and ``.gz`` where ``path`` ends in it).

    Args:
        path: without the suffix.
        convention: how.
        people: how many.
        columns: how many at least, the id included.
        seed: of the people.
        holds: which fields the file has.
        keeps: which people, by their number from 0.
    """
    gzipped = path.suffix == ".gz"
    target = path.with_suffix("").with_suffix(convention.suffix) if gzipped else path.with_suffix(convention.suffix)
    path = target.with_name(target.name + ".gz") if gzipped else target
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = itertools.count()
    blocks = (
        (
            eids,
            {variable: cells for variable, cells in known.items() if holds(variable[0])},
            [keeps(next(numbers)) for _ in eids],
        )
        for eids, known in people_blocks(people, seed)
    )
    if convention.suffix == ".parquet":
        _write_parquet(path, convention, blocks)
    else:
        with igzip.open(path, "wb", compresslevel=1) if gzipped else path.open("wb") as file:
            _write_text(file, convention, blocks, columns)
    return path


def _write_text(file: IO[bytes], convention: Convention, blocks: Iterator[Any], columns: int) -> None:
    header = False
    for eids, known, kept in blocks:
        if not header:
            order = _with_others(sorted(known), columns - 1)
            stretches = _stretches(order, set(known), convention)
            names = [convention.eid, *map(convention.name, order)]
            file.write((convention.delimiter.join(map(convention.cell, names)) + "\n").encode())
            header = True
        pieces: list[Sequence[str]] = [[convention.cell(eid) for eid in eids]]
        for stretch in stretches:
            if isinstance(stretch, tuple):
                pieces.append([convention.cell(value) for value in known[stretch]])
            else:
                pieces.append([stretch[int(eid) * 7 % POOL] for eid in eids])
        rows = map(convention.delimiter.join, zip(*pieces, strict=True))
        file.write("".join(f"{row}\n" for row in itertools.compress(rows, kept)).encode())


def _with_others(known: list[Variable], columns: int) -> list[Variable]:
    taken = {field for field, _, _ in known}
    free = [field for field in range(60, 60_000) if field not in taken and field not in MARKERS]
    missing = max(columns - len(known), 0)
    others = [(free[number * len(free) // missing], 0, 0) for number in range(missing)]
    return sorted([*known, *others])


def _stretches(order: list[Variable], known: set[Variable], convention: Convention) -> list[Variable | list[str]]:
    """The known variables, and between them ``POOL`` texts for the columns of others."""
    random = np.random.default_rng(0)
    stretches: list[Variable | list[str]] = []
    for is_known, run in itertools.groupby(order, known.__contains__):
        variables = list(run)
        if is_known:
            stretches += variables
        else:
            stretches.append(
                [convention.delimiter.join(convention.cell(_other(v, random)) for v in variables) for _ in range(POOL)]
            )
    return stretches


def _other(variable: Variable, random: np.random.Generator) -> str:
    value = random.random()
    kinds = (
        f"{value * 100:.4g}",
        str(int(value * 9) - 3),
        f"20{int(value * 10) + 10}-05-17",
        f"text {value:.3f}, more",
    )
    return "" if random.random() < 0.5 else kinds[variable[0] % 19 % 4]


def _write_parquet(path: Path, convention: Convention, blocks: Iterator[Any]) -> None:
    writer = None
    for eids, known, kept in blocks:
        frame = pd.DataFrame({convention.name(variable): cells for variable, cells in known.items()}).loc[kept]
        arrays = {convention.eid: pa.array(list(itertools.compress(map(int, eids), kept)))}
        for variable in known:
            cells = pa.array([cell or None for cell in frame[convention.name(variable)]], pa.string())
            kind = pa.date32() if variable[0] in DATES else pa.string() if variable[0] in TEXTS else pa.float64()
            arrays[convention.name(variable)] = cells.cast(kind)
        table = pa.table(arrays)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def write_mixed(folder: Path, people: int, *, columns: int = 0, seed: int = 0) -> list[Path]:
    """Write the fields over files in every convention, in subfolders; one file is split by people."""
    written = []
    for number, (name, holds) in enumerate(MIXED.items()):
        convention = CONVENTIONS[name]
        place = folder / ("" if number < 2 else f"basket {number % 3}") / f"ukb{670000 + number}"
        place = place.with_suffix(".gz") if number % 3 == 1 and convention.suffix != ".parquet" else place
        halves = [lambda person: person % 2 == 0, lambda person: person % 2 == 1] if name == "r" else [lambda _: True]
        for part, keeps in enumerate(halves):
            target = place.with_name(place.name.replace("ukb", f"part{part}_"))
            written.append(
                write_export(target, convention, people, columns=columns, seed=seed, holds=holds, keeps=keeps)
            )
    return written


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--convention", choices=[*CONVENTIONS, "mixed"], default="csv")
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--columns", type=int, default=200)
    parser.add_argument("--gzip", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.convention == "mixed":
        for path in write_mixed(chosen.folder, chosen.people, columns=chosen.columns, seed=chosen.seed):
            print(path)
    else:
        path = chosen.folder / ("ukb.gz" if chosen.gzip else "ukb")
        convention = CONVENTIONS[chosen.convention]
        print(write_export(path, convention, chosen.people, columns=chosen.columns, seed=chosen.seed))


if __name__ == "__main__":
    main()
