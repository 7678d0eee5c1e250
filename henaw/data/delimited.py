"""CSV and TSV, plain or gzip: the header, and batches of text cells, with every way a file can be broken named.

Arrow parses; its messages hold cells, so none of them is passed on.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.csv

from henaw.errors import BadInput

_HEADER_BYTES = 1 << 22
_BLOCK_BYTES = 1 << 23  # of a batch, and of the longest line


def delimited_columns(path: Path, delimiter: str, *, gzipped: bool) -> list[str]:
    """The header of the file at ``path``.

    Raises:
        BadInput: compressed or not against its name, cut short, not UTF-8, no header, or another delimiter.
    """
    with _errors_in_our_words(path), _Stream(path, gzipped=gzipped) as stream:
        head = stream.read(_HEADER_BYTES).removeprefix(b"\xef\xbb\xbf")
    if head[:2] == b"\x1f\x8b":
        raise BadInput(f"{path}: is compressed; expected plain text, or a name that ends in .gz")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in head[:4096]:
        raise BadInput(f"{path}: is UTF-16 or not text at all; expected text in UTF-8")
    first_line = re.split(rb"[\r\n]", head, maxsplit=1)[0]
    if not first_line.strip():
        raise BadInput(f"{path}: is empty or starts with an empty line; expected a header and rows")
    try:
        names = next(csv.reader(io.StringIO(first_line.decode("utf-8")), delimiter=delimiter, strict=True))
    except UnicodeDecodeError:
        raise BadInput(f"{path}: is not UTF-8; expected text in UTF-8") from None
    except csv.Error:
        raise BadInput(f"{path}: header with a quotation mark that is not closed") from None
    if len(names) == 1 and (other := [mark for mark in ",;\t|" if mark in names[0]]):
        raise BadInput(f"{path}: columns separated by {other[0]!r}; expected {delimiter!r} (.csv: commas, .tsv: tabs)")
    if sum(name.strip().lstrip("-").replace(".", "", 1).isdigit() for name in names) * 2 > len(names):
        raise BadInput(f"{path}: first line holds numbers; expected the names of the columns")
    return names


def delimited_batches(path: Path, delimiter: str, columns: Sequence[str], *, gzipped: bool) -> Iterator[pa.RecordBatch]:
    """Batches of ``columns`` as text, an empty cell as "".

    Raises:
        BadInput: rows of more or fewer fields than the header, quotation marks that do not pair, not UTF-8, cut short.
    """
    ragged: list[tuple[int, int, int]] = []

    def note_ragged(row: Any) -> str:
        ragged.append((row.number, row.actual_columns, row.expected_columns))
        return "skip"

    with _errors_in_our_words(path), _Stream(path, gzipped=gzipped) as stream:
        reader = pyarrow.csv.open_csv(
            pa.PythonFile(stream, mode="r"),
            # With several threads rows have no numbers.
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note_ragged
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(columns), column_types=dict.fromkeys(columns, pa.string())
            ),
        )
        with closing(reader):
            for batch in reader:
                # A faulty batch ends what is handed on; the rest is still read, to count.
                if not ragged:
                    yield batch
        if ragged:
            line, found, expected = ragged[0]
            raise BadInput(
                f"{path}: {len(ragged)} rows have more or fewer fields than the header (line {line}: {found}, expected "
                f"{expected})"
            )
        # At the end of the file the parser ends an open quotation silently: thousands of rows may have gone into it.
        if stream.quotation_marks % 2:
            raise BadInput(f"{path}: a quotation mark is opened and never closed; expected them in pairs")


class _Stream:
    """The (decompressed) bytes of a file, its quotation marks counted on the way."""

    def __init__(self, path: Path, *, gzipped: bool) -> None:
        self._file = pa.input_stream(str(path), compression="gzip" if gzipped else None)
        self.quotation_marks = 0

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def read(self, size: int) -> bytes:
        block: bytes = self._file.read(size)
        self.quotation_marks += block.count(b'"')
        return block

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _errors_in_our_words(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: {_cause(str(error))}") from None


def _cause(message: str) -> str:
    if "UTF8" in message:
        return "is not UTF-8; expected text in UTF-8"
    if "Empty CSV" in message:
        return "no rows after the header; expected one a participant and visit"
    if "straddl" in message:
        return f"a line of more than {_BLOCK_BYTES >> 20} MiB, or a quotation mark that is never closed"
    if "Truncated" in message:
        return "gzip file is cut short; expected the whole file"
    if "zlib" in message:
        return "not a gzip file, or a damaged one"
    return "cannot be read as text in columns; expected a header and rows of as many fields"
