"""The fitted clock: everything needed to predict."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from henaw.data.disclosure import SMALLEST_CELL
from henaw.data.panel import Panel
from henaw.model.calibration import Calibration
from henaw.model.distribution import EnsembleDistribution
from henaw.model.ensemble import EnsembleShape, forward, network_inputs
from henaw.model.features import FeatureScaling, raw_features
from henaw.model.gap import GapRegression
from henaw.model.hazard import Gompertz
from henaw.model.reference import ReferenceMedians

Array = NDArray[np.float64]
Target = Literal["age", "mortality"]

SEXES = ("female", "male")  # coded 0 and 1
RISK_YEARS = (5, 10)  # horizons of the mortality clock's outputs


@dataclass(frozen=True)
class TrainingRange:
    """What the training people spanned: outside it an answer is an extrapolation.

    Attributes:
        lowest, highest: ends of every biomarker's range, shape (m,), NaN where unknown; see ``range_ends``.
        ages: ends of the age range in whole years.
    """

    lowest: Array
    highest: Array
    ages: tuple[int, int]


def range_ends(values: Array) -> tuple[float, float]:
    """Ends of the range of ``values`` (n,): means of the 0.1 % lowest and highest, of at least five people each.

    A mean over five people is nobody's value, so that the ends may be published with the model. NaN is ignored; with
    fewer than five values the range is unknown: NaN, which no value lies outside of.
    """
    seen = np.sort(values[np.isfinite(values)])
    if seen.size < SMALLEST_CELL:
        return np.nan, np.nan
    count = max(SMALLEST_CELL, seen.size // 1000)
    return float(seen[:count].mean()), float(seen[-count:].mean())


@dataclass(frozen=True, eq=False)
class Clock:
    """A fitted clock of either kind.

    The age clock predicts chronological age and does not read it; the mortality clock reads it, and predicts the
    biological age at which the population's hazard is the person's.

    Attributes:
        panel: the biomarkers it reads, in order.
        scaling: of the features, shapes (p,).
        shape: architecture of the ensemble.
        weights: parameters as ``shape.parameter_shapes()``, float64.
        calibration: the map of levels; the identity for the mortality clock, whose biological age nobody can observe.
        gap: the regression that the adjusted gap has removed.
        hazard: the population's, None for the age clock.
        trained_on: ranges of the training people.
        reference: their medians by sex and age, for attribution.
        max_missing: most biomarkers that may be missing for an answer.
    """

    panel: Panel
    scaling: FeatureScaling
    shape: EnsembleShape
    weights: dict[str, Array]
    calibration: Calibration
    gap: GapRegression
    hazard: Gompertz | None
    trained_on: TrainingRange
    reference: ReferenceMedians
    max_missing: int

    @property
    def target(self) -> Target:
        """What the clock predicts."""
        return "age" if self.hazard is None else "mortality"

    @cached_property
    def plausible(self) -> Array:
        """Lower and upper ends of the markers' plausible ranges, (2, m)."""
        return np.array([marker.plausible for marker in self.panel.biomarkers]).T.copy()

    @cached_property
    def usual(self) -> Array:
        """Ends of the ranges that are plausible and that the training people spanned, (2, m)."""
        low, high = self.plausible
        return np.stack([np.fmax(low, self.trained_on.lowest), np.fmin(high, self.trained_on.highest)])

    def predict(self, biomarkers: Array, sex: Array, age: Array) -> EnsembleDistribution:
        """Predict biological age.

        Args:
            biomarkers: canonical units, shape (n, m) in the panel's order, NaN = missing.
            sex: shape (n,), 0 = female, 1 = male; NaN is read as half-way (the answer then is not to be used).
            age: chronological, years, shape (n,); the age clock does not look at it.

        Returns:
            A distribution a person; finite whatever the biomarkers.
        """
        scaled, present = self.scaling.apply(raw_features(self.panel, biomarkers))
        known = np.isfinite(sex)
        if np.count_nonzero(known) < len(sex):
            sex = np.where(known, sex, 0.5)
        inputs = network_inputs(scaled, present, sex, None if self.hazard is None else age)
        outputs = forward(self.shape, self.weights, inputs)
        return EnsembleDistribution(self.shape.head, outputs, age, self.calibration)
