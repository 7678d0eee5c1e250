"""Cohorts and clocks with a known answer, for tests of every room.

Chronological age is drawn *given* the markers, age ~ N(μ(x), σ(x)²) with known μ and σ, so that what a clock should
predict is known exactly, its uncertainty included. Those who die do so by the hazard of a known biological age.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.config import Config, asset_folder, load_config
from henaw.data.panel import Biomarker, Panel, load_panel
from henaw.model.bins import BinsHead
from henaw.model.calibration import fit_calibration, identity
from henaw.model.clock import Clock, Target, TrainingRange
from henaw.model.distribution import EnsembleDistribution
from henaw.model.ensemble import EnsembleShape
from henaw.model.features import fit_scaling, raw_features
from henaw.model.gap import GapRegression
from henaw.model.hazard import MONTHS, Gompertz
from henaw.model.heads import Head, QuantileHead
from henaw.model.reference import fit_reference
from henaw.training.telemetry import Events, OutOfMemory

Array = NDArray[np.float64]

BLOOD9 = load_panel("blood9", asset_folder("mlproject") / "panels")

# No real markers: nothing in the library may depend on their names.
KNOWN = Panel(
    name="known",
    title="A marker of age, and a marker of how loosely the first one tells it",
    biomarkers=(
        Biomarker(name="signal", title="S", unit="1", organ="blood", transform="identity", plausible=(-100, 100)),
        Biomarker(name="looseness", title="L", unit="1", organ="blood", transform="identity", plausible=(-100, 100)),
    ),
)
TIGHT_SD, LOOSE_SD = 2.0, 8.0

# Every form that a member's distribution may have.
GAUSSIAN = QuantileHead(knots=(), link="identity", center=50.0, scale=12.0, low=0.0, high=0.0)
OWN_AGE = QuantileHead(knots=(), link="identity", center=None, scale=10.0, low=0.0, high=0.0)
BENT = QuantileHead(knots=(0.1, 0.5, 0.9), link="identity", center=50.0, scale=12.0, low=0.0, high=0.0)
BOUNDED = QuantileHead(knots=(0.05, 0.2, 0.5, 0.8, 0.95), link="logit", center=50.0, scale=12.0, low=19.5, high=79.5)
UNBENT = QuantileHead(knots=(), link="logit", center=50.0, scale=12.0, low=19.5, high=79.5)
QUANTILE_HEADS = {"gaussian": GAUSSIAN, "own age": OWN_AGE, "bent": BENT, "bounded": BOUNDED, "unbent": UNBENT}
BINS = BinsHead(low=19.5, high=79.5, width=4.5)  # 13 bins of 4.5 years, and a last one of 1.5
HEADS: dict[str, Head] = {**QUANTILE_HEADS, "bins": BINS}

HAZARD = Gompertz(alpha=-10.0, beta=0.09)  # h(60) = 0.01, h(80) = 0.06 a year


@dataclass(frozen=True)
class KnownCohort:
    """People of panel ``KNOWN``, and the mean and standard deviation of each one's age given the markers."""

    table: pd.DataFrame
    mean: Array
    sd: Array


def known_cohort(people: int, seed: int) -> KnownCohort:
    """Half of the people are tight, age ~ N(50 + 8·signal, 2²), and half are loose, age ~ N(50 + 8·signal, 8²)."""
    rng = np.random.default_rng(seed)
    signal, loose = rng.normal(0, 1, people), rng.integers(0, 2, people).astype(float)
    mean, sd = 50 + 8 * signal, np.where(loose > 0, LOOSE_SD, TIGHT_SD)
    table = pd.DataFrame(
        {
            "participant": [f"{number:032x}" for number in range(people)],
            "age_years": mean + sd * rng.normal(0, 1, people),
            "sex": rng.choice(["female", "male"], people),
            "signal": signal,
            "looseness": loose,
        }
    )
    return KnownCohort(table, mean, sd)


@dataclass(frozen=True)
class MortalCohort:
    """People of panel ``KNOWN`` with follow-up, and the biological age by which each one's hazard runs."""

    table: pd.DataFrame
    biological_age: Array


def mortal_cohort(people: int, seed: int, *, gap: float = 8.0, hazard: Gompertz = HAZARD) -> MortalCohort:
    """Biological age = age + ``gap``·signal; deaths by ``hazard`` from there on, censored after 5 to 15 years."""
    rng = np.random.default_rng(seed)
    signal, age = rng.normal(0, 1, people), rng.uniform(30, 80, people)
    biological_age = age + gap * signal
    years = lifetimes(hazard, biological_age, rng)
    censored = rng.uniform(5, 15, people)
    table = pd.DataFrame(
        {
            "participant": [f"{number:032x}" for number in range(people)],
            "age_years": age,
            "sex": rng.choice(["female", "male"], people),
            "signal": signal,
            "looseness": rng.integers(0, 2, people).astype(float),
            "died": (years <= censored).astype(float),
            "followup_months": np.minimum(years, censored) * MONTHS,
        }
    )
    return MortalCohort(table, biological_age)


def lifetimes(hazard: Gompertz, age: Array, rng: np.random.Generator) -> Array:
    """Years (n,) until death from ``age`` (n,) on: the accumulated hazard at death is exponential."""
    years: Array = np.log1p(hazard.beta * rng.exponential(size=len(age)) / hazard.hazard(age)) / hazard.beta
    return years


def people_of(
    head: Head, people: int, seed: int = 0, *, members: int = 4, calibrated: bool = False
) -> EnsembleDistribution:
    """Predictions for ``people`` from members that differ; ``calibrated``: with a map of levels that changes much."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.6, (1, people, head.outputs))
    outputs = common + rng.normal(0, 0.4, (members, people, head.outputs))
    calibration = identity()
    if calibrated:
        pit = np.concatenate([rng.beta(0.5, 0.7, 300), rng.beta(3, 2, 300)])
        calibration = fit_calibration(pit, np.repeat([40.0, 60.0], 300), bands=2, least_people=100, shrinkage=50)
    return EnsembleDistribution(head, outputs, rng.uniform(25, 75, people), calibration)


def blood_rows(people: int, seed: int) -> pd.DataFrame:
    """Rows to score with every marker of ``BLOOD9`` well inside the range of ``blood_clock``."""
    rng = np.random.default_rng(seed)
    low, high = _middle_of_plausible()
    rows = pd.DataFrame(rng.uniform(low, high, (people, len(low))), columns=list(BLOOD9.names))
    return rows.assign(sex=rng.choice(["female", "male"], people), age_years=rng.integers(30, 70, people) + 0.5)


def blood_clock(
    seed: int = 0,
    *,
    target: Target = "age",
    head: Head = BOUNDED,
    members: int = 3,
    hidden: tuple[int, ...] = (8, 8),
    max_missing: int = 3,
) -> Clock:
    """A clock of ``BLOOD9`` with random weights, trained on nobody: its answers mean nothing and are reproducible.

    ``head`` is the age clock's; the mortality clock has its own.
    """
    rng = np.random.default_rng(seed)
    low, high = _middle_of_plausible()
    sample = rng.uniform(low, high, (400, len(low)))
    features = len(BLOOD9.names) + len(BLOOD9.derived)
    mortality = target == "mortality"
    shape = EnsembleShape(members, 2 * features + 1 + mortality, hidden, OWN_AGE if mortality else head)
    pit, sex, age = rng.beta(0.8, 0.9, 400), np.arange(400.0) % 2, rng.uniform(20, 80, 400)
    return Clock(
        panel=BLOOD9,
        scaling=fit_scaling(raw_features(BLOOD9, sample)),
        shape=shape,
        # as stored: what float32 can hold
        weights={
            name: rng.normal(0, 0.4, size).astype(np.float32).astype(np.float64)
            for name, size in shape.parameter_shapes().items()
        },
        calibration=identity() if mortality else fit_calibration(pit, age, 3, 100, 50),
        gap=GapRegression(10.0, -0.2, 8.0),
        hazard=HAZARD if mortality else None,
        trained_on=TrainingRange(low, high, (20, 79)),
        reference=fit_reference(sample, sex, age),
        max_missing=max_missing,
    )


def _middle_of_plausible() -> tuple[Array, Array]:
    """A narrow range inside every marker's plausible one."""
    low, high = np.array([marker.plausible for marker in BLOOD9.biomarkers]).T
    return low + 0.2 * (high - low), low + 0.3 * (high - low)


def tiny_config(overrides: str = "") -> Config:
    """Settings for a network that trains in a second."""
    tiny = "network.members=3 network.hidden=[16] training.epochs=3 training.batch_size=64 training.threads=1"
    exact = "training.precision=fp32 training.compiled=never"
    return load_config("smoke", overrides=f"{tiny} {exact} {overrides}")


class Recorder(Events):
    """Listener that keeps every event, in order, with what it carried."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[dict[str, float]] = []
        self.epochs: list[dict[str, float]] = []
        self.out_of_memory: list[OutOfMemory] = []
        self.skipped: list[tuple[int, int, int]] = []

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self.names.append("train_begin")

    def on_batch_begin(self, epoch: int, batch: int) -> None:
        self.names.append("batch")

    def on_grad_computed(self, step: int, metrics: dict[str, float]) -> None:
        self.names.append("grad")

    def on_step_skipped(self, epoch: int, batch: int, in_a_row: int) -> None:
        self.names.append("skipped")
        self.skipped.append((epoch, batch, in_a_row))

    def on_stopped(self, epoch: int, batch: int) -> None:
        self.names.append("stopped")

    def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:
        assert step == len(self.steps), "steps are counted from 0 over all epochs"
        self.names.append("step")
        self.steps.append(metrics)

    def on_out_of_memory(self, event: OutOfMemory) -> None:
        self.names.append("out_of_memory")
        self.out_of_memory.append(event)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self.names.append("epoch_end")
        self.epochs.append(metrics)

    def on_train_end(self) -> None:
        self.names.append("train_end")
