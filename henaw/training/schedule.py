"""The learning rate of every step: one cycle (Smith & Topin 2017), as a pure function of the steps done."""

from __future__ import annotations

import math

_RISING = 0.3  # of all steps
_START, _END = 1 / 25, 1 / 25e4  # of the peak


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Learning rate of ``step`` (from 0) of ``steps`` (at least 2): up to ``peak`` by half a cosine, then down."""
    top = _RISING * steps - 1
    if step <= top:
        return _between(peak * _START, peak, step / top)
    return _between(peak, peak * _END, (step - top) / (steps - 1 - top))


def _between(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
