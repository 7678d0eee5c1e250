"""The age gap's regression on age, which the adjusted gap has removed, and the unit in which it is standardized."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST_SD = 1e-6  # years; less is rounding, where age alone tells the gap


@dataclass(frozen=True)
class GapRegression:
    """gap ≈ intercept + slope·age, in years; fitted on people that the network was not fitted to.

    ``sd`` is the standard deviation, in years, of what is left of their gaps; 1 where nothing is.
    """

    intercept: float
    slope: float
    sd: float

    def adjust(self, gap: Array, age: Array) -> Array:
        """``gap`` (n,) less what age (n,) alone explains of it."""
        return gap - (self.intercept + self.slope * age)


def fit_gap(gap: Array, age: Array) -> GapRegression:
    """Least squares of ``gap`` (n,) on ``age`` (n,); where ages do not vary only the mean is removed."""
    intercept, slope = float(np.mean(gap)), 0.0
    if len(gap) > 1 and np.ptp(age) > 0:
        intercept, slope = map(float, np.polynomial.polynomial.polyfit(age, gap, 1))
    sd = float(np.std(gap - (intercept + slope * age)))
    return GapRegression(intercept, slope, sd if sd > LEAST_SD else 1.0)
