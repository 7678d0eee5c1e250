"""Cohorts and clocks with a known answer, for tests of every room.

Chronological age is drawn *given* the markers, age ~ N(μ(x), σ(x)²) with known μ and σ, so that what a clock should
predict is known exactly, its uncertainty included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.config import Config, asset_folder, load_config
from henaw.data.panel import Biomarker, Panel, load_panel
from henaw.model.clock import Clock, TrainingRange
from henaw.model.ensemble import EnsembleShape
from henaw.model.features import FeatureScaling
from henaw.model.gap import GapRegression
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


def blood_rows(people: int, seed: int) -> pd.DataFrame:
    """Rows to score with every marker of ``BLOOD9`` well inside the range of ``blood_clock``."""
    rng = np.random.default_rng(seed)
    low, high = _middle_of_plausible()
    rows = pd.DataFrame(rng.uniform(low, high, (people, len(low))), columns=list(BLOOD9.names))
    return rows.assign(sex=rng.choice(["female", "male"], people), age_years=rng.integers(30, 70, people) + 0.5)


def blood_clock(seed: int = 0, *, members: int = 3, hidden: tuple[int, ...] = (8, 8), max_missing: int = 3) -> Clock:
    """A clock of ``BLOOD9`` with random weights, trained on nobody: its answers mean nothing and are reproducible."""
    rng = np.random.default_rng(seed)
    low, high = _middle_of_plausible()
    features = len(BLOOD9.names) + len(BLOOD9.derived)
    shape = EnsembleShape(members, 2 * features + 1, hidden, center_years=50.0, scale_years=12.0, sd_floor_years=0.5)
    return Clock(
        panel=BLOOD9,
        scaling=FeatureScaling(rng.normal(2, 1, features), rng.uniform(0.5, 2, features)),
        shape=shape,
        # as stored: what float32 can hold
        weights={
            name: rng.normal(0, 0.4, size).astype(np.float32).astype(np.float64)
            for name, size in shape.parameter_shapes().items()
        },
        gap=GapRegression(10.0, -0.2),
        trained_on=TrainingRange(low, high, (20, 79)),
        max_missing=max_missing,
    )


def _middle_of_plausible() -> tuple[Array, Array]:
    """A narrow range inside every marker's plausible one."""
    low, high = np.array([marker.plausible for marker in BLOOD9.biomarkers]).T
    return low + 0.2 * (high - low), low + 0.3 * (high - low)


def tiny_config(overrides: str = "") -> Config:
    """Settings for a network that trains in a second."""
    tiny = "network.members=3 network.hidden=[16] training.epochs=3 training.batch_size=64 training.threads=1"
    return load_config("smoke", overrides=f"{tiny} {overrides}")


class Recorder(Events):
    """Listener that keeps every event, in order, with what it carried."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[dict[str, float]] = []
        self.epochs: list[dict[str, float]] = []
        self.out_of_memory: list[OutOfMemory] = []

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self.names.append("train_begin")

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
