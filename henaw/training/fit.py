"""From training people to a fitted clock."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from henaw.config import Config
from henaw.data.panel import Panel
from henaw.errors import BadInput
from henaw.model.clock import LEAST_PUBLISHED, SEXES, Clock, TrainingRange, range_ends
from henaw.model.ensemble import EnsembleShape
from henaw.model.features import FeatureScaling, dependence, fit_scaling, raw_features
from henaw.model.gap import GapRegression, fit_gap
from henaw.model.network import EnsembleNetwork
from henaw.training.batches import TrainingData
from henaw.training.telemetry import Events
from henaw.training.trainer import choose_device, train, use_threads

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]


def people_arrays(table: pd.DataFrame, panel: Panel) -> tuple[Array, Array, Array]:
    """Biomarkers (n, m), sex code (n,) and age (n,) of a clean participant table."""
    sex = table["sex"].map({name: float(code) for code, name in enumerate(SEXES)})
    biomarkers: Array = table[list(panel.names)].to_numpy(np.float64)
    return biomarkers, np.asarray(sex, dtype=np.float64), np.asarray(table["age_years"], dtype=np.float64)


def fit_clock(
    people: pd.DataFrame, calibration: pd.DataFrame, panel: Panel, config: Config, events: Events
) -> tuple[Clock, list[dict[str, float]]]:
    """Fit the age clock.

    Args:
        people: clean participant table to train on.
        calibration: other participants, for early stopping and for the regression of the gap on age.
        panel: the biomarkers.
        config: settings of the run.
        events: listener.

    Returns:
        The clock and the training history, a row an epoch.

    Raises:
        BadInput: too few people for a clock that is nobody's portrait.
        EnvironmentProblem: no GPU though asked for, or memory ran out.
        HenawError: the loss is not finite any more.
    """
    if min(len(people), len(calibration)) < LEAST_PUBLISHED:
        raise BadInput(f"training: expected at least {LEAST_PUBLISHED} people to train on, and as many to calibrate")
    use_threads(config.training)
    device = choose_device(config.training)
    biomarkers, _, age = people_arrays(people, panel)
    scaling = fit_scaling(raw_features(panel, biomarkers))
    shape = EnsembleShape(
        members=config.network.members,
        inputs=2 * len(scaling.center) + 1,
        hidden=tuple(config.network.hidden),
        center_years=float(age.mean()),
        scale_years=float(age.std()) or 1.0,
        sd_floor_years=config.network.sd_floor_years,
    )
    generator = torch.Generator().manual_seed(config.seed)
    network = EnsembleNetwork(shape, config.network.dropout, generator).to(device)
    logger.info("training %d members on %d people (%s)", shape.members, len(people), device)
    history = train(
        network,
        training_data(people, panel, scaling, device),
        training_data(calibration, panel, scaling, device),
        config.training,
        config.seed,
        events,
    )
    lowest, highest = np.array([range_ends(column) for column in biomarkers.T]).T
    youngest, oldest = range_ends(age)
    unadjusted = Clock(
        panel=panel,
        scaling=scaling,
        shape=shape,
        weights={name: values.astype(np.float64) for name, values in network.arrays().items()},
        gap=GapRegression(0.0, 0.0),
        trained_on=TrainingRange(lowest, highest, (int(np.floor(youngest)), int(np.floor(oldest)))),
        max_missing=config.scoring.max_missing,
    )
    return _with_gap(unadjusted, calibration), history


def _with_gap(clock: Clock, calibration: pd.DataFrame) -> Clock:
    biomarkers, sex, age = people_arrays(calibration, clock.panel)
    return replace(clock, gap=fit_gap(clock.predict(biomarkers, sex).median - age, age))


def training_data(table: pd.DataFrame, panel: Panel, scaling: FeatureScaling, device: torch.device) -> TrainingData:
    """A clean participant table as float32 tensors on ``device``."""
    biomarkers, sex, age = people_arrays(table, panel)
    scaled, present = scaling.apply(raw_features(panel, biomarkers))

    def tensor(values: Array) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return TrainingData(
        scaled=tensor(scaled),
        present=tensor(present),
        sex=tensor(sex[:, None]),
        age=tensor(age),
        dependence=tensor(dependence(panel).astype(np.float64)),
    )
