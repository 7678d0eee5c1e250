"""The size of what may be published of people, and how counts of them are told."""

from __future__ import annotations

from collections.abc import Mapping

SMALLEST_CELL = 5
"""No count of people between zero and this leaves the machine, and no figure rests on fewer."""


def published(count: int) -> int | str:
    """``count`` of people as it may leave this machine: ``"<5"``, or the nearest multiple of five.

    Rounded, because the difference of two exact totals may be a count of one to four.
    """
    return f"<{SMALLEST_CELL}" if 0 < count < SMALLEST_CELL else SMALLEST_CELL * round(count / SMALLEST_CELL)


def publishable(counts: Mapping[str, int]) -> dict[str, int | str]:
    """Each of ``counts`` as ``published``."""
    return {name: published(count) for name, count in counts.items()}
