"""Scoring a file: rows in, answers out, in the same order and in memory that does not grow with the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from henaw.console import ProgressLine
from henaw.data.files import write_atomically
from henaw.data.table import scan_table
from henaw.errors import BadInput
from henaw.model.answers import QUANTILE_COLUMNS, answer, input_columns, output_columns
from henaw.model.clock import Clock
from henaw.model.distribution import central_levels

OUTPUT_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_TEXTS = ("status", "flags")
_ANSWERED_AT_ONCE = 16_384  # rows; where some abstain, a hundred quantiles each are Python objects

Write = Callable[[pd.DataFrame], None]


def score_file(
    clock: Clock,
    source: Path,
    target: Path,
    *,
    coverage: float,
    quantiles: bool = False,
    keep: Sequence[str] = (),
    progress: ProgressLine,
) -> int:
    """Answer every row of ``source`` into ``target``, which appears only when it is whole (mode 0600).

    Args:
        clock: the fitted clock.
        source: CSV, TSV (plain or gzip) or Parquet with the columns of ``input_columns``; others are ignored.
        target: CSV, CSV.gz or Parquet, by its ending; replaced if it exists.
        coverage: of the interval.
        quantiles: add ``q01`` … ``q99``.
        keep: columns of ``source`` to copy beside the answers: the model's own as numbers, every other as text.
        progress: shows how many rows are done.

    Returns:
        The number of rows.

    Raises:
        BadInput: whatever is wrong with source, target, coverage or kept columns.
        EnvironmentProblem: the disk is full or may not be written to.
    """
    central_levels(coverage)
    suffix = _checked_target(source, target)
    numbers = [name for name in input_columns(clock.panel) if name != "sex"]
    texts = list(dict.fromkeys(["sex", *(name for name in keep if name not in numbers)]))
    outputs = [*output_columns(clock.target), *(QUANTILE_COLUMNS if quantiles else ())]
    if clash := sorted(set(keep) & set(outputs)):
        raise BadInput(f"keep: {', '.join(clash)} is the name of an answer; expected other columns of the input")
    columns = [*dict.fromkeys(keep), *outputs]
    schema = pa.schema([(name, pa.string() if name in (*_TEXTS, *texts) else pa.float64()) for name in columns])
    done = 0

    def write(temporary: Path) -> None:
        nonlocal done
        with _writer(temporary, suffix, schema) as add:
            for batch in scan_table(source, numbers=numbers, texts=texts):
                for start in range(0, len(batch), _ANSWERED_AT_ONCE):
                    rows = batch.iloc[start : start + _ANSWERED_AT_ONCE]
                    answers = answer(clock, rows, coverage, quantiles=quantiles)
                    add(answers.assign(**{name: rows[name] for name in keep}))
                    done += len(rows)
                    progress.update(0.0, f"{done:,} rows")
        if not done:
            raise BadInput(f"{source}: no rows after the header; expected at least one")

    with progress.stage("score"):
        write_atomically(target, write)
    return done


def _checked_target(source: Path, target: Path) -> str:
    if not target.parent.is_dir():
        raise BadInput(f"{target}: its folder does not exist")
    if target.is_dir() or (target.exists() and source.exists() and target.samefile(source)):
        raise BadInput(f"{target}: is {'a folder' if target.is_dir() else 'the input'}; expected another file")
    for suffix in reversed(OUTPUT_SUFFIXES):
        if target.name.endswith(suffix):
            return suffix
    raise BadInput(f"{target}: expected an output name that ends in {', '.join(OUTPUT_SUFFIXES)}")


@contextmanager
def _writer(path: Path, suffix: str, schema: pa.Schema) -> Iterator[Write]:
    """A function that appends frames to the file at ``path``."""
    if suffix == ".parquet":
        opened: pq.ParquetWriter | pyarrow.csv.CSVWriter = pq.ParquetWriter(path, schema)
        with opened:
            yield lambda frame: opened.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))
        return
    with (
        pa.output_stream(str(path), compression="gzip" if suffix == ".csv.gz" else None) as stream,
        closing(pyarrow.csv.CSVWriter(stream, schema, write_options=_CSV)) as writer,
    ):
        yield lambda frame: writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))


_CSV = pyarrow.csv.WriteOptions(quoting_style="needed")
