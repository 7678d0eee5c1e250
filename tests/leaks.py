"""Search a folder for planted ids and values in every form in which they could have got out.

Files are searched as they are and as what they hold: members of archives, what gzip and PNG compressed, the rows of
SQLite databases and Parquet tables, and what base64 in them means. A value is looked for as text and as float64 and
float32 of either byte order, raw and in hexadecimal; an id as text, in hexadecimal, and as its plain digests.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import io
import re
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{8,}={0,2}")
_DEPTH = 4


def forms_of_id(person: str) -> dict[bytes, str]:
    """What to look for, and what it is."""
    plain = person.encode()
    found = {plain: "text", plain.hex().encode(): "hex", person.encode("utf-16-le"): "UTF-16"}
    for name in ("md5", "sha1", "sha256", "blake2b"):
        digest = hashlib.new(name, plain)
        found |= {digest.hexdigest().encode(): name, digest.digest(): f"{name}, raw"}
    return found


def forms_of_value(value: float) -> dict[bytes, str]:
    """What to look for, and what it is."""
    found = {repr(value).encode(): "text", f"{value:.9g}".encode(): "text, 9 digits"}
    for order in "<>":
        for kind in "df":
            raw = struct.pack(order + kind, value)
            found |= {raw: f"{order}{kind}", raw.hex().encode(): f"{order}{kind} in hex"}
    return found


def leaks(folder: Path, planted: dict[bytes, str], skip: Iterable[Path] = ()) -> list[str]:
    """Where one of ``planted`` (what to look for, and its name) is: in files below ``folder`` or in their paths."""
    skipped = tuple(skip)
    search = Search(planted)
    found = []
    for path in sorted(folder.rglob("*")):
        if any(path.is_relative_to(one) for one in skipped):
            continue
        name = str(path.relative_to(folder)).encode()
        contents = [("its path", name)]
        if path.is_file():
            contents += contents_of(path.read_bytes())
        for where, content in contents:
            found += [f"{path.relative_to(folder)}, {where}: {planted[hit]}" for hit in sorted(search.hits(content))]
    return found


class Search:
    """Looks for a thousand patterns of four bytes or more at once: by their first two bytes, four, and then in full."""

    def __init__(self, patterns: Iterable[bytes]) -> None:
        self._by_start: dict[int, list[bytes]] = defaultdict(list)
        self._may_start = np.zeros(1 << 16, np.bool_)
        for pattern in patterns:
            assert len(pattern) >= 4
            self._by_start[int.from_bytes(pattern[:4], "little")].append(pattern)
            self._may_start[int.from_bytes(pattern[:2], "little")] = True
        self._starts = np.array(sorted(self._by_start), np.uint32)

    def hits(self, content: bytes) -> set[bytes]:
        """Which of the patterns are in ``content``, as it is and with small letters (hexadecimal may have capitals)."""
        return self._hits(content) | self._hits(content.lower())

    def _hits(self, content: bytes) -> set[bytes]:
        if len(content) < 4:
            return set()
        letters = np.frombuffer(content, np.uint8).astype(np.uint32)
        pairs = letters[:-1] | letters[1:] << 8
        places = np.flatnonzero(self._may_start[pairs[:-2]])
        starts = pairs[places] | pairs[places + 2] << 16
        places = places[np.isin(starts, self._starts)]
        return {
            pattern
            for place in places.tolist()
            for pattern in self._by_start[int.from_bytes(content[place : place + 4], "little")]
            if content.startswith(pattern, place)
        }


def contents_of(content: bytes, where: str = "raw", depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """What ``content`` says as it is, and all that is packed into it."""
    packed = list(_unpacked(content)) if depth < _DEPTH else []
    if not any(kind in ("gzip", "PNG") for kind, _ in packed):  # compressed bytes say nothing as they are
        yield where, content
        decoded = b"\n".join(_decoded(content))
        if decoded:
            yield f"{where}, base64", decoded
    for kind, inner in packed:
        yield from contents_of(inner, f"{where}, {kind}", depth + 1)


def _unpacked(content: bytes) -> Iterator[tuple[str, bytes]]:
    file = io.BytesIO(content)
    if content[:2] == b"\x1f\x8b":
        yield "gzip", gzip.decompress(content)
    elif content[:8] == b"\x89PNG\r\n\x1a\n":
        yield "PNG", b"\n".join(_png(content))
    elif content[:16] == b"SQLite format 3\x00":
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(content)
            yield "SQLite", "\n".join(database.iterdump()).encode()
    elif content[:4] == b"PAR1" and content[-4:] == b"PAR1":
        table = pq.read_table(pa.BufferReader(content))
        cells = [repr(cell) for column in table.columns for cell in column.to_pylist()]
        yield "Parquet", "\n".join([str(table.schema.metadata), *cells]).encode()
    elif zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                yield "name", name.encode()
                yield name, archive.read(name)
    elif content[257:262] == b"ustar":
        with tarfile.open(fileobj=file) as archive:
            for member in archive.getmembers():
                yield "name", member.name.encode()
                inner = archive.extractfile(member)
                yield member.name, b"" if inner is None else inner.read()


def _png(content: bytes) -> Iterator[bytes]:
    """Texts as they are, pixels and compressed texts inflated."""
    place, pixels = 8, b""
    while place + 8 <= len(content):
        (length,), kind = struct.unpack(">I", content[place : place + 4]), content[place + 4 : place + 8]
        body = content[place + 8 : place + 8 + length]
        if kind == b"IDAT":
            pixels += body
        elif kind in (b"zTXt", b"iTXt"):
            name, _, text = body.partition(b"\x00")
            yield name + b"\n" + body
            for start in range(len(text)):
                try:
                    yield zlib.decompress(text[start:])
                    break
                except zlib.error:
                    continue
        else:
            yield body
        place += 12 + length
    yield zlib.decompress(pixels)


def _decoded(content: bytes) -> Iterator[bytes]:
    """What the stretches that could be base64 say, wherever its groups of four begin."""
    for stretch in _BASE64.findall(content):
        letters = stretch.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        for start in range(4):
            part = letters[start:]
            try:
                yield base64.b64decode(part + b"=" * (-len(part) % 4))
            except binascii.Error:  # a letter too many
                yield base64.b64decode(part[:-1])
