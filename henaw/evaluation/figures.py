"""The figures of an evaluation: what each is called, how it is written, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from henaw.evaluation.bootstrap import Estimate

Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True)
class Figure:
    """How a figure is spoken of.

    Attributes:
        title: with its unit.
        form: format of the value; ``%`` where it is a share of people.
        better: which way; ``neither`` where it describes and does not judge.
    """

    title: str
    form: str
    better: Better = "neither"

    def shown(self, value: float) -> str:
        """``value`` as the tables have it."""
        if value != value:
            return "–"
        return f"{100 * value:.1f} %" if self.form == "%" else format(value, self.form)

    def difference(self, value: float) -> str:
        """A difference of two values, with its sign."""
        if value != value:
            return "–"
        return f"{100 * value:+.1f} %" if self.form == "%" else format(value, "+" + self.form)


_FIGURES = {
    "n": Figure("people", ",.0f"),
    "deaths": Figure("deaths among the people followed", ",.0f"),
    "mae_years": Figure("mean absolute error (years)", ".2f", "lower"),
    "rmse_years": Figure("root mean squared error (years)", ".2f", "lower"),
    "mean_error_years": Figure("mean error, predicted − true (years)", ".2f"),
    "r": Figure("Pearson's r, predicted and true age", ".3f", "higher"),
    "crps_years": Figure("CRPS (years)", ".3f", "lower"),
    "crps_99_years": Figure("CRPS from quantiles 1 %, 2 %, … 99 % (years)", ".3f", "lower"),
    "nll_nats": Figure("negative log likelihood of the year of age (nats)", ".3f", "lower"),
    "pit_misplaced": Figure("people in another tenth of the PIT than if calibrated", "%", "lower"),
    "calibration_slope": Figure("slope of age on the predicted mean", ".3f"),
    "aleatoric_sd_years": Figure("mean aleatoric SD (years)", ".2f"),
    "epistemic_sd_years": Figure("mean epistemic SD (years)", ".2f"),
    "mean_gap_years": Figure("mean age gap, biological − chronological (years)", ".2f"),
    "concordance": Figure("Harrell's C of biological age", ".4f", "higher"),
    "concordance_gap": Figure("Harrell's C of the adjusted age gap", ".4f", "higher"),
    "hazard_ratio": Figure("hazard ratio per SD of the adjusted gap, given age and sex", ".2f", "higher"),
    "brier": Figure("integrated Brier score", ".4f", "lower"),
}
_OBSERVED = "observed_expected_"


def figure(name: str) -> Figure:
    """The figure that a tracker knows as ``name``: ``mae_years``, ``coverage_90``, ``observed_expected_10y``."""
    if name.startswith(_OBSERVED):
        horizon = name.removeprefix(_OBSERVED).removesuffix("y")
        return Figure(f"deaths within {horizon} years, observed / expected", ".2f")
    if name.startswith("coverage_"):
        return Figure(f"people inside the {name.removeprefix('coverage_')} % interval", "%")
    if name.startswith("width_"):
        percent = name.removeprefix("width_").removesuffix("_years")
        return Figure(f"mean width of the {percent} % interval (years)", ".2f")
    return _FIGURES[name]


def verdict(name: str, difference: Estimate) -> str:
    """What a paired ``difference`` of figure ``name``, ours less theirs, says: better, worse or a tie.

    A tie is what the 95 % interval cannot tell from no difference, or what is too small to be written. Empty where
    neither way is better.
    """
    better = figure(name).better
    if better == "neither":
        return ""
    if not difference.decided or not figure(name).shown(abs(difference.value)).strip("0.% "):
        return "tie"
    return "better" if (difference.value < 0) == (better == "lower") else "worse"
