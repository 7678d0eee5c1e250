"""The size of what may be published of people."""

from __future__ import annotations

SMALLEST_CELL = 5
"""No count of people between zero and this leaves the machine, and no figure rests on fewer."""
