"""All figures of an evaluation, by the name of their file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from henaw.evaluation import attribution_plots, ensemble_plots, plots, survival_plots
from henaw.evaluation.evaluate import Evaluated

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures(evaluated: Evaluated, coverages: Sequence[float]) -> Iterator[tuple[str, Figure]]:
    """Name and figure, one after the other, because each takes memory until it is let go."""
    clock, distribution, people = evaluated.clock, evaluated.distribution, evaluated.people
    age, median = people.age, distribution.median
    adjusted = clock.gap.adjust(median - age, age)
    what = "Predicted" if clock.target == "age" else "Biological"
    drawn: dict[str, Callable[[], Figure]] = {
        "predicted_against_true": partial(plots.predicted_against_true, age, median, what),
        "age_gap_by_age": partial(plots.age_gap_by_age, age, median, adjusted),
        "interval_width_by_age": partial(ensemble_plots.interval_width_by_age, age, distribution, coverages),
        "barycenter_against_mixture": partial(ensemble_plots.barycenter_against_mixture, clock),
    }
    told = evaluated.biomarkers, evaluated.sex, age
    drawn["attribution"] = partial(attribution_plots.attribution_of_cohort, clock, *told)
    if clock.target == "age":  # biological age that nobody observes cannot be called calibrated
        drawn["calibration"] = lambda: plots.calibration(distribution.cdf(age))
    seen = people.followed
    if seen.any():
        followed = adjusted[seen], people.years[seen], people.died[seen]
        drawn["survival_by_gap"] = partial(survival_plots.survival_by_gap, *followed)
    if evaluated.report.risk_calibration:
        tables = evaluated.report.risk_calibration
        drawn["risk_calibration"] = partial(survival_plots.risk_calibration_plot, tables)
    return ((name, draw()) for name, draw in drawn.items())
