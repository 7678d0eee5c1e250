"""Made-up files of NHANES in the publisher's forms, for tests: SAS transport, linked mortality, whole cycles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from henaw.config import asset_folder
from henaw.data.nhanes_variables import MORTALITY, NhanesMap, load_nhanes_map

_DATE = b"22APR14:11:24:11"


def nhanes_map() -> NhanesMap:
    return load_nhanes_map(asset_folder("mlproject"))


def ibm_float(value: float | str | None) -> bytes:
    """Eight bytes; None is ".", a letter its missing code."""
    if value is None or isinstance(value, str):
        return (value or ".").encode() + bytes(7)
    if value == 0:
        return bytes(8)
    fraction, power = math.frexp(abs(value))
    exponent = -(-power // 4)
    mantissa = int(math.ldexp(fraction, 56 + power - 4 * exponent))
    return ((value < 0) << 63 | (exponent + 64) << 56 | mantissa).to_bytes(8, "big")


def transport(columns: Mapping[str, Sequence[float | str | None]], lengths: Mapping[str, int] | None = None) -> bytes:
    """The bytes of a transport file; a column whose name ends in ``$`` holds texts of three letters."""
    widths = {name: 3 if name.endswith("$") else (lengths or {}).get(name, 8) for name in columns}
    variables, place = b"", 0
    for number, (name, width) in enumerate(widths.items(), 1):
        variables += (2 if name.endswith("$") else 1).to_bytes(2, "big") + bytes(2)
        variables += width.to_bytes(2, "big") + number.to_bytes(2, "big") + name.strip("$").ljust(8).encode()
        variables += b" " * 40 + b" " * 8 + bytes(8) + b" " * 8 + bytes(4) + place.to_bytes(4, "big") + bytes(52)
        place += width
    rows = b"".join(
        b"".join(
            str(cell).ljust(3).encode() if name.endswith("$") else ibm_float(cell)[: widths[name]]
            for name, cell in zip(columns, row, strict=True)
        )
        for row in zip(*columns.values(), strict=True)
    )
    head = [
        _header("LIBRARY", "0" * 30),
        b"SAS     SAS     SASLIB  9.3     W32_7PRO".ljust(64) + _DATE,
        _DATE.ljust(80),
        _header("MEMBER", "000000000000000001600000000140"),
        _header("DSCRPTR", "0" * 30),
        b"SAS     MADEUP  SASDATA 9.3     W32_7PRO".ljust(64) + _DATE,
        _DATE.ljust(80),
        _header("NAMESTR", f"000000{len(columns):04}00000000000000000000"),
        _filled(variables),
        _header("OBS", "0" * 30),
        _filled(rows),
    ]
    return b"".join(head)


def mortality_line(seqn: int, eligible: int, died: int | None, cause: int | None, months: int | None) -> str:
    dead = "." if died is None else str(died)
    of = "   " if cause is None else f"{cause:03}"
    passed = "." if months is None else str(months)
    return f"{seqn:<14}{eligible}{dead}{of}..{'':21}{passed:<3}{passed}"


def write_cycle(
    folder: Path, cycle: str, people: int = 4, values: Mapping[str, Sequence[float | str | None]] | None = None
) -> list[Path]:
    """All files of ``cycle``; ``values`` by variable, others are drawn. Respondents are 101, 102, …, all examined."""
    known, rng = nhanes_map(), np.random.default_rng(0)
    one, seqn = known.cycles[cycle], list(range(101, 101 + people))
    contents: dict[str, bytes] = {}
    for role in one.files:
        if role == MORTALITY:
            lines = [mortality_line(person, 1, 0, None, 100 + person % 20) for person in seqn]
            contents[one.file_name(role)] = ("\n".join(lines) + "\n").encode()
            continue
        fixed: dict[str, Sequence[float | str | None]] = {"SEQN": seqn}
        if role == "demographics":
            fixed |= {
                "SDDSRVYR": [one.survey] * people, "RIDSTATR": [2] * people, "RIAGENDR": [1, 2] * (people // 2),
                "RIDAGEYR": [30 + person % 50 for person in seqn], "RIDEXPRG": [None] * people,
            }  # fmt: skip
        for name in known.columns:
            column = known.column_in(name, cycle)
            if column and known.cycles[cycle].files[column.file] == one.files[role]:
                for variable in column.variables:
                    fixed.setdefault(variable, rng.uniform(1, 9, people).round(2).tolist())
        contents[one.file_name(role)] = transport(
            {name: (values or {}).get(name, cells) for name, cells in fixed.items()}
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def _header(kind: str, digits: str) -> bytes:
    return f"HEADER RECORD*******{kind:<8}HEADER RECORD!!!!!!!{digits}".ljust(80).encode()


def _filled(content: bytes) -> bytes:
    return content + b" " * (-len(content) % 80)
