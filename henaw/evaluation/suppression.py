"""Nothing published rests on fewer than five people, or gives fewer away."""

from __future__ import annotations

from collections.abc import Mapping

from henaw.data.disclosure import SMALLEST_CELL


def publishable(sizes: Mapping[str, int]) -> set[str]:
    """Groups of a partition whose figures may stand beside those of all its people.

    A group below ``SMALLEST_CELL`` people is withheld. Where those withheld are too few together, all less the
    published would give them away, so the next smallest group is withheld as well.
    """
    published, hidden = set(), 0
    for size, name in sorted((size, name) for name, size in sizes.items() if size):
        if size < SMALLEST_CELL or 0 < hidden < SMALLEST_CELL:
            hidden += size
        else:
            published.add(name)
    return published


def how_many(people: int) -> str:
    """A number of people in words that give away no cell below ``SMALLEST_CELL``."""
    return f"{people:,}" if people >= SMALLEST_CELL else f"fewer than {SMALLEST_CELL}"
