"""CSV and TSV, plain or gzip: the header, and batches of text cells, with every way a file can be broken named.

The file is read once, in blocks of whole lines; while one is read, the cells of the one before it are found. Memory
does not grow with the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
from isal import igzip_threaded, isal_zlib
from numpy.typing import NDArray

from henaw.data.text_index import (
    NEWLINE,
    QUOTE,
    WORD,
    Words,
    bits_before,
    byte_bits,
    cells,
    index_lines,
    parity_before,
    places_of,
)
from henaw.errors import BadInput

_HEADER_BYTES = 1 << 22
_BLOCK_BYTES = 1 << 21
_LONGEST_LINE = 1 << 23
_BATCH_ROWS = 65_536
_AHEAD = 2  # blocks that wait for their cells
_DELIMITERS = ",;\t|"
_AFTER_QUOTED = re.compile(rf'"(?:[^"]|"")*"([{_DELIMITERS}])')
_NO_NAME = re.compile(r"[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?|[0-9]{4}-[0-9]{2}-[0-9]{2}")


def header_line(path: Path, *, gzipped: bool) -> str:
    """The first line of the file at ``path``, without its end.

    Raises:
        BadInput: empty, compressed or not against its name, cut short, not UTF-8, no such line.
    """
    with _errors_in_our_words(path), _opened(path, gzipped=gzipped) as stream:
        head = stream.read(_HEADER_BYTES).removeprefix(b"\xef\xbb\xbf")
    if head[:2] == b"\x1f\x8b":
        raise BadInput(f"{path}: is compressed; expected plain text, or a name that ends in .gz")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in head[:4096]:
        raise BadInput(f"{path}: is UTF-16 or not text at all; expected text in UTF-8")
    first_line, *more = re.split(rb"\r?\n", head, maxsplit=1)
    if not first_line.strip():
        raise BadInput(f"{path}: is empty or starts with an empty line; expected a header and rows")
    if b"\r" in first_line:
        raise BadInput(f"{path}: lines end in a carriage return alone; expected a line feed")
    if not more and len(head) >= _HEADER_BYTES:
        raise BadInput(f"{path}: a header of more than {_HEADER_BYTES >> 20} MiB")
    try:
        return first_line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadInput(f"{path}: is not UTF-8; expected text in UTF-8") from None


def delimited_columns(path: Path, delimiter: str, *, gzipped: bool) -> list[str]:
    """The header of the file at ``path``.

    Raises:
        BadInput: as ``header_line``, or no names, or another delimiter.
    """
    header = header_line(path, gzipped=gzipped)
    quoted = _AFTER_QUOTED.match(header)
    other = quoted[1] if quoted else next((mark for mark in _DELIMITERS if mark in header), delimiter)
    if other != delimiter and (quoted or delimiter not in header):
        raise BadInput(
            f"{path}: columns separated by {other!r}; expected {delimiter!r} (.csv: commas, .tsv and .tab: tabs)"
        )
    try:
        names = next(csv.reader(io.StringIO(header), delimiter=delimiter, strict=True))
    except csv.Error:
        raise BadInput(f"{path}: header with a quotation mark that is not closed") from None
    filled = [name for name in names if name.strip()]
    if 2 * sum(bool(_NO_NAME.fullmatch(name.strip())) for name in filled) > len(filled):
        raise BadInput(f"{path}: first line holds numbers; expected the names of the columns")
    return names


def delimited_batches(path: Path, delimiter: str, columns: Sequence[str], *, gzipped: bool) -> Iterator[pa.RecordBatch]:
    """Batches of ``columns`` as text, an empty cell as "".

    Raises:
        BadInput: no rows, rows of more or fewer fields than the header, a quotation mark that is never closed, not
            UTF-8 in ``columns``, cut short.
    """
    names = delimited_columns(path, delimiter, gzipped=gzipped)
    positions = [names.index(column) for column in columns]
    schema = pa.schema([(column, pa.string()) for column in columns])
    pending: list[pa.RecordBatch] = []
    rows = ragged = 0
    empty = True
    first = ""
    line = 2
    with _errors_in_our_words(path), _opened(path, gzipped=gzipped) as stream:
        stream.readline(_HEADER_BYTES)
        for found in _in_order(_blocks(path, stream, ord(delimiter)), len(names), positions):
            if found.ragged and not ragged:
                first = f"line {line + found.line}: {found.fields}, expected {len(names)}"
            ragged += found.ragged
            line += found.newlines
            # A faulty block ends what is handed on; the rest is still read, to count.
            if not ragged:
                pending.append(pa.RecordBatch.from_arrays(found.columns, schema=schema))
                rows += pending[-1].num_rows
                empty &= not rows
            if rows >= _BATCH_ROWS:
                yield pa.concat_batches(pending)
                pending, rows = [], 0
    if ragged:
        raise BadInput(f"{path}: {ragged} rows have more or fewer fields than the header ({first})")
    if empty:
        raise BadInput(f"{path}: no rows after the header; expected one a participant and visit")
    if rows:
        yield pa.concat_batches(pending)


@dataclass(frozen=True, eq=False)
class _Found:
    """What a block of lines holds."""

    columns: list[pa.StringArray]
    newlines: int
    ragged: int  # lines of another number of fields
    line: int  # number of the first of them in the block, from 0
    fields: int  # its number of fields


@dataclass(frozen=True, eq=False)
class _Block:
    """Whole lines, and where their structure is; the memory of the text is used again ``_AHEAD + 1`` blocks later."""

    text: NDArray[np.uint8]
    quotes: Words
    newlines: Words
    separators: Words


def _find(block: _Block, width: int, positions: Sequence[int]) -> _Found:
    lines = index_lines(block.text, block.quotes, block.newlines, block.separators)
    wrong = np.flatnonzero(lines.fields != width)
    if len(wrong):
        line = int(np.searchsorted(lines.newlines, lines.starts[wrong[0]]))
        return _Found([], len(lines.newlines), len(wrong), line, int(lines.fields[wrong[0]]))
    return _Found(cells(lines, positions, width), len(lines.newlines), 0, 0, 0)


def _in_order(blocks: Iterator[_Block], width: int, positions: Sequence[int]) -> Iterator[_Found]:
    """Find the cells of a block on a thread while the next is read; at most ``_AHEAD`` wait when one is asked for."""
    with ThreadPoolExecutor(1) as finder:  # two threads keep each other from the interpreter's lock, and are slower
        running: deque[Future[_Found]] = deque()
        for block in blocks:
            running.append(finder.submit(_find, block, width, positions))
            if len(running) > _AHEAD:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _blocks(path: Path, stream: IO[bytes], separator: int) -> Iterator[_Block]:
    ring = deque(bytearray(_BLOCK_BYTES) for _ in range(_AHEAD + 1))
    scratch = np.empty(_BLOCK_BYTES, np.bool_)
    tail = b""
    reading = True
    while reading:
        if len(tail) > _LONGEST_LINE:
            raise BadInput(
                f"{path}: a line of more than {_LONGEST_LINE >> 20} MiB, or a quotation mark that is never closed"
            )
        if 2 * len(tail) > len(ring[0]):
            ring[0] = bytearray(4 * -(-len(tail) // WORD) * WORD)
            scratch = np.empty(max(len(ring[0]), len(scratch)), np.bool_)
        memory = ring[0]
        memory[: len(tail)] = tail
        filled = len(tail) + stream.readinto(memoryview(memory)[len(tail) : -WORD])  # type: ignore[attr-defined]
        if filled == len(tail):
            reading = False
            memory[filled] = NEWLINE  # the last line may lack its own
            filled += 1
        text = np.frombuffer(memory, np.uint8, filled // WORD * WORD + WORD)
        quotes, newlines, separators = (byte_bits(text, byte, scratch) for byte in (QUOTE, NEWLINE, separator))
        end = memory.rfind(NEWLINE, 0, filled) + 1
        if parity_before(quotes, end):
            end = _end_outside(quotes, bits_before(newlines, filled))
        tail = bytes(memory[end:filled])
        if end:
            yield _Block(text, *(bits_before(bits, end) for bits in (quotes, newlines, separators)))
            ring.rotate()
    if tail:
        raise BadInput(f"{path}: a quotation mark is opened and never closed; expected them in pairs")


def _end_outside(quotes: Words, newlines: Words) -> int:
    """Where the last line ends that does not end inside quotation marks; 0 where none does."""
    places = places_of(newlines)
    outside = places[np.searchsorted(places_of(quotes), places) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0


def _opened(path: Path, *, gzipped: bool) -> IO[bytes]:
    if gzipped:
        return igzip_threaded.open(path, "rb", threads=1)  # type: ignore[no-any-return]
    return path.open("rb")


@contextmanager
def _errors_in_our_words(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise BadInput(f"{path}: gzip file is cut short; expected the whole file") from None
    except (gzip.BadGzipFile, isal_zlib.error):
        raise BadInput(f"{path}: not a gzip file, or a damaged one") from None
    except pa.ArrowInvalid:
        raise BadInput(f"{path}: is not UTF-8; expected text in UTF-8") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
