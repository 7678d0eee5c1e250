"""The age gap's regression on age, which the adjusted gap has removed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GapRegression:
    """gap ≈ intercept + slope·age, both in years; fitted on people that the network was not fitted to."""

    intercept: float
    slope: float

    def adjust(self, gap: Array, age: Array) -> Array:
        """``gap`` (n,) less what age (n,) alone explains of it."""
        return gap - (self.intercept + self.slope * age)


def fit_gap(gap: Array, age: Array) -> GapRegression:
    """Least squares of ``gap`` (n,) on ``age`` (n,); where ages do not vary only the mean is removed."""
    if len(gap) < 2 or np.ptp(age) == 0:
        return GapRegression(float(np.mean(gap)), 0.0)
    slope, intercept = np.polynomial.polynomial.polyfit(age, gap, 1)[::-1]
    return GapRegression(float(intercept), float(slope))
