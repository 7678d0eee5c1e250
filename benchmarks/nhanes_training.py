"""Split A's training people as tensors, and the CRPS by which trainings are compared, without the test people."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from boosted import LEVELS, Sample
from fitting import PROFILES, age_sample, training_people
from judging import CRPS, scores
from numpy.typing import NDArray
from scipy.special import ndtri
from standard_splits import standard_split
from torch import Tensor

from henaw.config import Config, load_config
from henaw.model.ensemble import EnsembleShape
from henaw.model.features import fit_scaling, raw_features
from henaw.model.heads import QuantileHead
from henaw.model.losses import Loss, crps_loss
from henaw.model.network import EnsembleNetwork
from henaw.training.batches import TrainingData
from henaw.training.fit import people_arrays, training_data
from henaw.training.telemetry import Events

Array = NDArray[np.float64]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Task:
    """People to train on and people to validate with, as HENAW and as others take them.

    Attributes:
        people, validation: as tensors.
        sample, validation_sample: as arrays, unscaled.
        head: of the members.
    """

    people: TrainingData
    validation: TrainingData
    sample: Sample
    validation_sample: Sample
    head: QuantileHead

    @property
    def loss(self) -> Loss:
        """CRPS in years of a member's outputs."""
        return crps_loss(self.head, CPU)

    def network(self, config: Config, hidden: tuple[int, ...]) -> EnsembleNetwork:
        """An untrained ensemble."""
        inputs = self.validation.inputs(slice(1)).shape[1]
        shape = EnsembleShape(config.network.members, inputs, hidden, self.head)
        return EnsembleNetwork(shape, 0.0, torch.Generator().manual_seed(config.seed))

    def crps(self, outputs: Tensor) -> float:
        """CRPS of the validation people, years, from the members' outputs (K, n, outputs): of their barycenter."""
        age = self.validation_sample.y
        quantiles = self.head.quantiles(outputs.double().numpy(), ndtri(LEVELS), age).mean(axis=0)
        return self.crps_of(quantiles)

    def crps_of(self, quantiles: Array) -> float:
        """The same from quantiles (n, 99)."""
        return float(scores(quantiles, self.validation_sample.y)[:, CRPS].mean())


def split_a(data: Path, seed: int = 0) -> Task:
    """The training people of split A, a tenth of them set apart to validate with."""
    config = load_config(PROFILES["A"], str(data), f"seed={seed} training.era_column=null")
    people = standard_split(data, "A")
    tables = training_people(people, config, seed)
    biomarkers, _, age = people_arrays(tables[0], people.panel)
    scaling = fit_scaling(raw_features(people.panel, biomarkers))
    tensors = [training_data(table, people.panel, scaling, config, CPU) for table in tables]
    samples = [age_sample(table, people.panel) for table in tables]
    low, high = float(np.floor(age.min())) - 0.5, float(np.ceil(age.max())) + 0.5
    head = QuantileHead(tuple(config.network.knots), "logit", float(age.mean()), float(age.std()), low, high)
    return Task(tensors[0], tensors[1], samples[0], samples[1], head)


@dataclass
class Course(Events):
    """Seconds of training and the ensemble's CRPS after each epoch; the clock stands still while CRPS is worked out."""

    measure: Callable[[], float]
    clock: Callable[[], float] = time.perf_counter
    seconds: list[float] = field(default_factory=list)
    crps: list[float] = field(default_factory=list)

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Training begins."""
        self.spent, self.began = 0.0, self.clock()

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """An epoch is over."""
        self.spent += self.clock() - self.began
        self.seconds.append(self.spent)
        self.crps.append(self.measure())
        self.began = self.clock()
