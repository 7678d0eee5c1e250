"""SAS transport files (XPORT, version 5), the form in which NHANES is published: IBM floating point to float64.

Every value of the file is kept as it is: a zero is 0 and a missing code (``.``, ``._``, ``.A`` to ``.Z``) is NaN.
``pandas.read_sas`` gives 5.4e-79 for the one and has no error for a file cut short.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.files import require_file
from henaw.errors import BadInput

SEQN = "SEQN"
"""Variable of the respondent's number."""

_CARD = 80  # everything but the rows comes in cards of 80 bytes, and the file is filled up with blanks to a whole card
_LIBRARY = b"HEADER RECORD*******LIBRARY HEADER RECORD!!!!!!!"
_LIBRARY_V8 = b"HEADER RECORD*******LIBV8"
_MEMBER = b"HEADER RECORD*******MEMBER  HEADER RECORD!!!!!!!"
_VARIABLES = b"HEADER RECORD*******NAMESTR HEADER RECORD!!!!!!!"
_ROWS = b"HEADER RECORD*******OBS     HEADER RECORD!!!!!!!"
_MEMBER_AT, _VARIABLES_AT = 3 * _CARD, 7 * _CARD
_DESCRIPTION_BYTES = slice(74, 78)  # digits in the card of the member
_VARIABLE_COUNT = slice(54, 58)  # digits in the card before the variables
_VARIABLE = struct.Struct(">2x2xh2x8s68xi")  # length of its values, name, their place in a row
_NUMERIC = b"\x00\x01"

_BLANK = ord(" ")
_MISSING_CODES = np.frombuffer(b"._ABCDEFGHIJKLMNOPQRSTUVWXYZ", np.uint8)
_MANTISSA = np.uint64((1 << 56) - 1)


@dataclass(frozen=True)
class _Layout:
    numbers: dict[str, tuple[int, int]]  # first byte in a row and length, by name
    row_bytes: int
    rows_at: int


def read_transport(path: Path, variables: Sequence[str]) -> pd.DataFrame:
    """The ``variables`` (float64, NaN = missing) of each row of the file, by ``SEQN`` (an index of int64).

    Raises:
        BadInput: not such a file, one that is cut short, no rows, a variable that is not there or no number, or a
            ``SEQN`` that is missing, repeated or no number of a respondent.
    """
    content = _content(path)
    layout = _layout(path, content)
    for name in (SEQN, *variables):
        if name not in layout.numbers:
            raise BadInput(f"{path}: no numeric variable {name}; is it the file of another cycle?")
    rows = _rows(path, content, layout)
    seqn = _numbers(rows, *layout.numbers[SEQN])
    usable = np.isfinite(seqn) & (seqn >= 1) & (seqn < 1e9) & (seqn == np.floor(seqn))
    if not usable.all():
        raise BadInput(f"{path}: {int((~usable).sum())} of {len(seqn)} rows have no respondent's number in {SEQN}")
    index = pd.Index(seqn.astype(np.int64), name=SEQN)
    if repeated := int(index.duplicated().sum()):
        raise BadInput(f"{path}: {repeated} of {len(index)} rows repeat a {SEQN}; expected each respondent once")
    return pd.DataFrame({name: _numbers(rows, *layout.numbers[name]) for name in variables}, index=index)


def _content(path: Path) -> bytes:
    require_file(path, "expected a SAS transport file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None


def _layout(path: Path, content: bytes) -> _Layout:
    """Where things are, from the header."""
    if content.startswith(_LIBRARY_V8):
        raise BadInput(f"{path}: a SAS transport file of version 8; expected version 5, as NHANES publishes")
    if content.lstrip()[:1] == b"<":
        raise BadInput(f"{path}: a web page; expected a SAS transport file")
    if not content.startswith(_LIBRARY):
        raise BadInput(f"{path}: {'empty' if not content else 'not a SAS transport file'}; expected one of NHANES")
    damaged = BadInput(f"{path}: cut short or damaged in its header; expected a complete SAS transport file")
    member = content[_MEMBER_AT : _MEMBER_AT + _CARD]
    before = content[_VARIABLES_AT : _VARIABLES_AT + _CARD]
    try:
        size, count = int(member[_DESCRIPTION_BYTES]), int(before[_VARIABLE_COUNT])
    except ValueError:
        raise damaged from None
    first, length = _VARIABLES_AT + _CARD, -(-size * count // _CARD) * _CARD
    headers = (member, _MEMBER), (before, _VARIABLES), (content[first + length :], _ROWS)
    if size < _VARIABLE.size or count < 1 or not all(card.startswith(header) for card, header in headers):
        raise damaged
    numbers, row_bytes = {}, 0
    for at in range(first, first + size * count, size):
        bytes_long, name, place = _VARIABLE.unpack_from(content, at)
        row_bytes = max(row_bytes, place + bytes_long)
        if content[at : at + 2] == _NUMERIC:
            if not 2 <= bytes_long <= 8 or place < 0:
                raise damaged
            numbers[name.decode("latin-1").strip().upper()] = (place, bytes_long)
    return _Layout(numbers, row_bytes, first + length + _CARD)


def _rows(path: Path, content: bytes, layout: _Layout) -> NDArray[np.uint8]:
    """The bytes of each row. A file does not say how many it has: the last ends where only blanks follow."""
    data = np.frombuffer(content, np.uint8, offset=layout.rows_at)
    count = len(data) // layout.row_bytes
    rows, rest = data[: count * layout.row_bytes].reshape(count, layout.row_bytes), data[count * layout.row_bytes :]
    if len(data) % _CARD or len(rest) >= _CARD or (rest != _BLANK).any():
        raise BadInput(f"{path}: cut short within a row; expected a complete SAS transport file")
    while len(rows) and (rows[-1] == _BLANK).all():
        rows = rows[:-1]
    if not len(rows):
        raise BadInput(f"{path}: no rows; expected one a respondent")
    return rows


def _numbers(rows: NDArray[np.uint8], place: int, length: int) -> NDArray[np.float64]:
    """IBM floating point: sign, seven bits of an exponent of 16, up to 56 bits of mantissa; short ones lack the end."""
    padded = np.zeros((len(rows), 8), np.uint8)
    padded[:, :length] = rows[:, place : place + length]
    bits = padded.view(">u8").ravel().astype(np.uint64)
    mantissa = bits & _MANTISSA
    exponent = (padded[:, 0] & 0x7F).astype(np.int32)
    values = np.ldexp(mantissa.astype(np.float64), 4 * (exponent - 64) - 56)
    values[padded[:, 0] >= 0x80] *= -1
    values[(mantissa == 0) & np.isin(padded[:, 0], _MISSING_CODES)] = np.nan
    return values
