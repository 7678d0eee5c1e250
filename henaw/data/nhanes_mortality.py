"""The public-use linked mortality files of NHANES (2019 release): fixed-width text, one line a respondent."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from henaw.data.files import require_file
from henaw.data.nhanes_transport import SEQN
from henaw.errors import BadInput

_FIELDS = {"ELIGSTAT": 2, "MORTSTAT": 3, "UCOD_LEADING": 4, "PERMTH_INT": 5, "PERMTH_EXM": 6}
# Columns 1-14, 15, 16, 17-19, 20 diabetes and 21 hypertension among the causes, 22-42 blank, 43-45, 46-48; "." and
# blank are missing. The last field is cut where it ends in blanks.
_LINE = re.compile(r"([0-9]{1,6}) *(?<=^.{14})([123.])([01.])([0-9. ]{3})[01. ]{2} {21}([0-9. ]{3})([0-9. ]{1,3}) *")


def read_mortality(path: Path) -> pd.DataFrame:
    """Eligibility, death, cause and months of follow-up (float64, NaN = missing) by ``SEQN``, under the file's names.

    Raises:
        BadInput: it cannot be read, has no lines, a line of another form, or a ``SEQN`` twice.
    """
    require_file(path, "expected a linked mortality file of NHANES")
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {getattr(error, 'strerror', 'not ASCII text')}") from None
    if lines and lines[0].lstrip().startswith("<"):
        raise BadInput(f"{path}: a web page; expected a linked mortality file of NHANES")
    found = [_LINE.fullmatch(line) for line in lines]
    if not found or None in found:
        where = f"line {found.index(None) + 1} of {len(lines)} is none" if found else "it is empty"
        raise BadInput(
            f"{path}: expected lines of a linked mortality file of NHANES ({SEQN} in columns 1-6, ELIGSTAT in 15, "
            f"MORTSTAT in 16, months in 43-48); {where}"
        )
    matches = [match for match in found if match is not None]
    index = pd.Index([int(match[1]) for match in matches], name=SEQN)
    if repeated := int(index.duplicated().sum()):
        raise BadInput(f"{path}: {repeated} of {len(index)} lines repeat a {SEQN}; expected each respondent once")
    cells = {name: [match[field].strip(" .") for match in matches] for name, field in _FIELDS.items()}
    try:
        return pd.DataFrame(
            {name: [float(cell) if cell else None for cell in column] for name, column in cells.items()},
            index=index,
            dtype="float64",
        )
    except ValueError:
        raise BadInput(f"{path}: a field of numbers has something else in it; is it damaged?") from None
