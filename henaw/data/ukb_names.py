"""How the exports of UK Biobank name their columns: one parser for every convention, mixed as they come.

=====================================  ==================================================  =================
made by                                columns                                             participant's id
=====================================  ==================================================  =================
``ukbconv … csv``                      ``30710-0.0``                                       ``eid``
``ukbconv … r``                        ``f.30710.0.0``                                     ``f.eid``
``ukbconv … stata``                    ``n_30710_0_0``, ``s_40001_0_0``, ``ts_53_0_0``     ``n_eid``
R's and other tools' mended names      ``x30710_0_0``, ``X30710.0.0``                      ``eid``, ``x_eid``
ukbtools                               ``creactive_protein_f30710_0_0``                    ``eid``
Research Analysis Platform             ``participant.p30710_i0``, ``p4080_i0_a1``, ``p31``  ``participant.eid``
=====================================  ==================================================  =================
"""

from __future__ import annotations

import re
from typing import NamedTuple

_FIELD = r"(?P<field>[1-9][0-9]*)"
_NUMBERED = rf"{_FIELD}(?P<mark>[._])(?P<instance>[0-9]+)(?P=mark)(?P<array>[0-9]+)"
_CONVENTIONS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_FIELD}-(?P<instance>[0-9]+)\.(?P<array>[0-9]+)",
        rf"(?:f[._]|(?:n|s|ts)_|[xX]){_NUMBERED}",
        rf"(?:.*_)?f{_NUMBERED}",
        rf"(?:participant\.)?p{_FIELD}(?:_i(?P<instance>[0-9]+))?(?:_a(?P<array>[0-9]+))?",
    )
)
_ID = re.compile(r"(?:participant\.|[fnsx][._]|x)?eid", re.IGNORECASE)


class Variable(NamedTuple):
    """One value of a participant: a field at a visit (``instance``), the how-manieth of its values (``array``)."""

    field: int
    instance: int
    array: int

    def __str__(self) -> str:
        return f"{self.field}-{self.instance}.{self.array}"


def variable(name: str) -> Variable | None:
    """What a column called ``name`` holds; None where the name follows no convention.

    The Research Analysis Platform leaves an instance or array out where a field has but one: it is 0.
    """
    for convention in _CONVENTIONS:
        if found := convention.fullmatch(name.strip()):
            parts = found.groupdict()
            return Variable(int(parts["field"]), int(parts["instance"] or 0), int(parts["array"] or 0))
    return None


def is_id(name: str) -> bool:
    """Whether a column called ``name`` holds the participants' ids."""
    return bool(_ID.fullmatch(name.strip()))


def examples(field: int, instance: int) -> str:
    """How a column of ``field`` may be called, for a message."""
    return f"{field}-{instance}.0, f.{field}.{instance}.0, n_{field}_{instance}_0 or p{field}_i{instance}"
