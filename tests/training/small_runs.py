"""Runs that take a tenth of a second, for tests of the loop and of all that may go wrong in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from henaw.model.ensemble import EnsembleShape
from henaw.model.losses import crps_loss
from henaw.model.network import EnsembleNetwork
from henaw.settings import Training
from henaw.training.batches import TrainingData
from henaw.training.checkpoints import Checkpoints
from henaw.training.history import History
from henaw.training.state import TrainingState, fingerprint
from henaw.training.telemetry import Events
from henaw.training.trainer import train
from tests.scenarios import GAUSSIAN, tiny_config

SHAPE = EnsembleShape(members=3, inputs=5, hidden=(8,), head=GAUSSIAN)
CPU = torch.device("cpu")
CRPS = crps_loss(GAUSSIAN, CPU)


def training(overrides: str = "") -> Training:
    """Settings of three epochs of two steps, unless overridden."""
    return tiny_config(overrides).training


def people(count: int = 100, seed: int = 0) -> TrainingData:
    """People of two markers, the first of which tells age."""
    generator = torch.Generator().manual_seed(seed)
    scaled = torch.randn(count, 2, generator=generator)
    noise = torch.randn(count, 1, generator=generator)
    return TrainingData(
        scaled=scaled,
        present=torch.ones(count, 2),
        always=torch.zeros(count, 1),
        targets=50 + 8 * scaled[:, :1] + 3 * noise,
        dependence=torch.eye(2),
    )


def network(dropout: float = 0.0, seed: int = 0) -> EnsembleNetwork:
    """Three members with one hidden layer."""
    return EnsembleNetwork(SHAPE, dropout, torch.Generator().manual_seed(seed))


def run(settings: Training, made: EnsembleNetwork | None = None, seed: int = 0, events: Events | None = None) -> Any:
    """History and weights of training 100 people."""
    made = made or network()
    history = train(made, CRPS, people(), people(60, 1), settings, seed, events or Events())
    return history, made.arrays()


def saved_run(folder: Path, settings: Training, events: Events | None = None, dropout: float = 0.3) -> EnsembleNetwork:
    """The network of a run that is saved in ``folder``, and goes on from there if it was before."""
    made = network(dropout)
    train(made, CRPS, people(), people(60, 1), settings, 0, events or Events(), Checkpoints(folder, settings))
    return made


def fresh_state(settings: Training, dropout: float = 0.3) -> TrainingState:
    """The state of a run before its first step."""
    return TrainingState(network(dropout), settings, 100)


def described_run(settings: Training, dropout: float = 0.3) -> dict[str, Any]:
    """The fingerprint of ``saved_run``."""
    return fingerprint(network(dropout), settings, 0, people(), people(60, 1))


def digest_of(folder: Path) -> str:
    """Digest of all that a run has come to: the files of its newest checkpoint, and its history."""
    newest = sorted(path for path in folder.glob("epoch-*") if path.suffix != ".broken")[-1]
    manifest = json.loads((newest / "manifest.json").read_text())
    history = History(folder / "history.jsonl")
    history.keep_first(10**9)
    text = json.dumps([newest.name, manifest["blake2b"], list(history.recent)])
    return hashlib.blake2b(text.encode()).hexdigest()
