"""From training people to a fitted clock."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from henaw.config import Config
from henaw.data.disclosure import SMALLEST_CELL
from henaw.data.panel import Panel
from henaw.errors import BadInput
from henaw.model.bins import BinsHead
from henaw.model.calibration import Calibration, fit_calibration
from henaw.model.calibration import identity as no_calibration
from henaw.model.clock import SEXES, Clock, TrainingRange, range_ends
from henaw.model.distribution import EnsembleDistribution
from henaw.model.ensemble import AGE_CENTER, AGE_SCALE, EnsembleShape, forward
from henaw.model.features import FeatureScaling, dependence, fit_scaling, raw_features
from henaw.model.gap import GapRegression, fit_gap
from henaw.model.hazard import MONTHS, fit_gompertz
from henaw.model.heads import Head, QuantileHead
from henaw.model.losses import training_loss
from henaw.model.network import EnsembleNetwork
from henaw.model.reference import fit_reference
from henaw.training.batches import TrainingData
from henaw.training.checkpoints import Checkpoints
from henaw.training.device import choose_device, use_threads
from henaw.training.era import eras, without_era
from henaw.training.microbatch import set_up
from henaw.training.packing import train_pack
from henaw.training.ranks import several
from henaw.training.telemetry import Events, Listeners
from henaw.training.together import train_together
from henaw.training.trainer import train

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

MORTALITY_SCALE = 10.0  # years for a unit of the mortality clock's outputs: how far biological age lies from one's own


def people_arrays(table: pd.DataFrame, panel: Panel) -> tuple[Array, Array, Array]:
    """Biomarkers (n, m), sex code (n,) and age (n,) of a clean participant table."""
    sex = table["sex"].map({name: float(code) for code, name in enumerate(SEXES)})
    biomarkers: Array = table[list(panel.names)].to_numpy(np.float64)
    return biomarkers, np.asarray(sex, dtype=np.float64), np.asarray(table["age_years"], dtype=np.float64)


def fit_clock(
    people: pd.DataFrame,
    calibration: pd.DataFrame,
    panel: Panel,
    config: Config,
    events: Events,
    checkpoints: Checkpoints | None = None,
) -> tuple[Clock, list[dict[str, float]]]:
    """Fit the clock that ``config.target`` names.

    Args:
        people: clean participant table to train on.
        calibration: other participants, for early stopping, calibration and the regression of the gap on age.
        panel: the biomarkers.
        config: settings of the run.
        events: listener.
        checkpoints: where training is saved, and goes on from if it was before; None = it is not.

    Returns:
        The clock and the training history, a row an epoch (of the last ones, where there were very many).

    Raises:
        BadInput: too few people for a clock that is nobody's portrait, somebody without sex or age, no follow-up to
            learn mortality from, or losses that are not finite any more.
        IntegrityError: the checkpoints are broken, or of other settings or people.
        EnvironmentProblem: no GPU though asked for, memory ran out, or the disk does not take a checkpoint.
    """
    shared_out = several(config.training)
    fitting = _Fitting(people, calibration, panel, config, events, torch.device("cpu") if shared_out else None)
    network = fitting.network
    logger.info("training %d members on %d people (%s)", fitting.shape.members, len(people), fitting.device)
    work = fitting.trained_on, fitting.validated_on, config.training, config.seed, events, checkpoints
    if shared_out:
        history = train_together(network, fitting.hazard, *work)
    else:
        history = train(network, fitting.loss, *work)
    return fitting.clock(network), history


def fit_pack(
    people: pd.DataFrame, calibration: pd.DataFrame, panel: Panel, configs: Sequence[Config], events: Sequence[Events]
) -> Iterator[tuple[int, Clock | Exception]]:
    """Fit clocks of one shape in one program (``training/packing.py``); each is the one that ``fit_clock`` would fit.

    Args:
        people: as in ``fit_clock``.
        calibration: as in ``fit_clock``.
        panel: the biomarkers.
        configs: of each clock; they differ in ``packing.OWN_SETTINGS`` of ``training`` alone.
        events: a listener for each.

    Yields:
        The number of a clock as soon as it is fitted, and the clock, or what ended its training.

    Raises:
        As ``fit_clock``, for what they have in common.
    """
    first = configs[0]
    fitting = _Fitting(people, calibration, panel, first, Listeners(events))
    networks = [fitting.network, *(copy.deepcopy(fitting.network) for _ in configs[1:])]
    logger.info("training %d × %d members on %d people", len(configs), fitting.shape.members, len(people))
    settings = [config.training for config in configs]
    data = fitting.trained_on, fitting.validated_on
    for number, ended in train_pack(networks, fitting.loss, *data, settings, first.seed, events):
        yield number, ended if isinstance(ended, Exception) else fitting.clock(networks[number])


class _Fitting:
    """People and settings as tensors and an ensemble's shape, and the way back from a trained network to a clock."""

    def __init__(
        self,
        people: pd.DataFrame,
        calibration: pd.DataFrame,
        panel: Panel,
        config: Config,
        events: Events,
        device: torch.device | None = None,
    ) -> None:
        if min(len(people), len(calibration)) < SMALLEST_CELL:
            raise BadInput(f"training: expected at least {SMALLEST_CELL} people to train on, and as many to calibrate")
        if not all(np.isfinite(people_arrays(table, panel)[1:]).all() for table in (people, calibration)):
            raise BadInput("training: sex or age_years is missing or unknown for somebody; expected both for everyone")
        use_threads(config.training)
        self.panel, self.config = panel, config
        self.people, self.calibration_age = people, people_arrays(calibration, panel)[2]
        self.device = device = device or choose_device(config.training)
        biomarkers, _, age = people_arrays(people, panel)
        self.scaling = scaling = fit_scaling(raw_features(panel, biomarkers))
        self.hazard = None
        if config.target == "mortality":
            years, died = follow_up(people, config.mortality.cap_years)
            self.hazard = fit_gompertz(age, years, died)
        self.era = era = eras(people, calibration, config.training)
        self.shape = EnsembleShape(
            members=config.network.members,
            inputs=2 * len(scaling.center) + 1 + (self.hazard is not None),
            hidden=tuple(config.network.hidden),
            head=_head(config, age),
        )
        self.trained_shape = replace(self.shape, inputs=self.shape.inputs + (era is not None))

        def make() -> tuple[EnsembleNetwork, TrainingData, TrainingData]:
            generator = torch.Generator().manual_seed(config.seed)
            return (
                EnsembleNetwork(self.trained_shape, config.network.dropout, generator).to(device),
                training_data(people, panel, scaling, config, device, era and era[0]),
                training_data(calibration, panel, scaling, config, device, era and era[1]),
            )

        self.network, self.trained_on, self.validated_on = set_up(make, events)
        self.loss = training_loss(self.shape.head, self.hazard, config.training, device)

    def clock(self, network: EnsembleNetwork) -> Clock:
        """What the trained ``network`` makes, calibrated."""
        biomarkers, sex, age = people_arrays(self.people, self.panel)
        lowest, highest = np.array([range_ends(column) for column in biomarkers.T]).T
        youngest, oldest = range_ends(age)
        weights = {name: values.astype(np.float64) for name, values in network.arrays().items()}
        inputs = self.validated_on.inputs(slice(None)).cpu().numpy().astype(np.float64)
        outputs = forward(self.trained_shape, weights, inputs)  # everybody in their own era
        found = EnsembleDistribution(self.shape.head, outputs, self.calibration_age, no_calibration())
        levels, gap = _calibrated(found, self.calibration_age, self.config)
        return Clock(
            panel=self.panel,
            scaling=self.scaling,
            shape=self.shape,
            weights=weights if self.era is None else without_era(weights),
            calibration=levels,
            gap=gap,
            hazard=self.hazard,
            trained_on=TrainingRange(lowest, highest, (int(np.floor(youngest)), int(np.floor(oldest)))),
            reference=fit_reference(biomarkers, sex, age),
            max_missing=self.config.scoring.max_missing,
        )


def _head(config: Config, age: Array) -> Head:
    """The age clock's support reaches half a year beyond the whole years around the ages it is trained on."""
    if config.target == "mortality":  # a Gaussian around the person's own age
        return QuantileHead(knots=(), link="identity", center=None, scale=MORTALITY_SCALE, low=0.0, high=0.0)
    low, high = float(np.floor(age.min())) - 0.5, float(np.ceil(age.max())) + 0.5
    if config.network.head == "bins":
        return BinsHead(low, high, config.network.bin_years)
    gaussian = config.network.head == "gaussian"
    return QuantileHead(
        knots=() if gaussian else tuple(config.network.knots),
        link="identity" if gaussian else config.network.link,
        center=float(age.mean()),
        scale=float(age.std()) or 1.0,
        low=low,
        high=high,
    )


def _calibrated(found: EnsembleDistribution, age: Array, config: Config) -> tuple[Calibration, GapRegression]:
    """The map of levels (age clock), then the regression of the calibrated gap, from people not trained on."""
    if config.target == "age":
        settings = config.calibration
        levels = fit_calibration(
            found.uncalibrated_cdf(age),
            found.uncalibrated_median,
            settings.bands,
            settings.least_people,
            settings.shrinkage,
        )
        found = replace(found, calibration=levels)
    return found.calibration, fit_gap(found.median - age, age)


def follow_up(table: pd.DataFrame, cap_years: float) -> tuple[Array, Array]:
    """Years followed up and 1 where that ended in death, each (n,); censored at ``cap_years``.

    Raises:
        BadInput: the table has no follow-up, or lacks it for somebody.
    """
    for name in ("died", "followup_months"):
        if name not in table or table[name].isna().any():
            raise BadInput(
                f"target mortality: column {name} is missing for somebody; expected it for every participant"
            )
    years = table["followup_months"].to_numpy(np.float64) / MONTHS
    died = table["died"].to_numpy(np.float64)
    return np.minimum(years, cap_years), np.where(years <= cap_years, died, 0.0)


def training_data(
    table: pd.DataFrame,
    panel: Panel,
    scaling: FeatureScaling,
    config: Config,
    device: torch.device,
    era: Array | None = None,
) -> TrainingData:
    """A clean participant table as float32 tensors on ``device``; ``era`` (n,) is the last input where it is given."""
    biomarkers, sex, age = people_arrays(table, panel)
    scaled, present = scaling.apply(raw_features(panel, biomarkers))
    always, targets = [sex], [age]
    if config.target == "mortality":
        always.append((age - AGE_CENTER) / AGE_SCALE)
        targets += follow_up(table, config.mortality.cap_years)
    if era is not None:
        always.append(era)

    def tensor(values: Array) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return TrainingData(
        scaled=tensor(scaled),
        present=tensor(present),
        always=tensor(np.stack(always, axis=1)),
        targets=tensor(np.stack(targets, axis=1)),
        dependence=tensor(dependence(panel).astype(np.float64)),
    )
