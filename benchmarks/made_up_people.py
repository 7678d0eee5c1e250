"""People who do not exist and untrained ensembles, in the form that training takes: what speed is measured with."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from henaw.config import Config
from henaw.model.ensemble import EnsembleShape
from henaw.model.heads import QuantileHead
from henaw.model.network import EnsembleNetwork
from henaw.training.batches import TrainingData

MARKERS, FEATURES = 9, 10  # blood9, and the one ratio derived from it
_MISSING = 0.05


def people(count: int, seed: int, device: torch.device) -> TrainingData:
    """``count`` people of the default panel's form, some of whose markers are missing, with ages from 20 to 79."""
    generator = torch.Generator().manual_seed(seed)
    present = (torch.rand(count, FEATURES, generator=generator) > _MISSING).float()
    scaled = torch.randn(count, FEATURES, generator=generator) * present
    age = 50 + 8 * scaled[:, :1] + 6 * torch.randn(count, 1, generator=generator)
    dependence = torch.eye(MARKERS, FEATURES)
    dependence[-2:, -1] = 1  # the ratio is of the last two
    parts = {
        "scaled": scaled,
        "present": present,
        "always": torch.randint(2, (count, 1), generator=generator).float(),
        "targets": age.clamp(20, 79),
        "dependence": dependence,
    }
    return TrainingData(**parts).to(device)


def network(
    config: Config, device: torch.device, hidden: Sequence[int] | None = None, seed: int = 0
) -> EnsembleNetwork:
    """The untrained ensemble of ``config`` for these people, with other ``hidden`` layers where given."""
    head = QuantileHead(tuple(config.network.knots), "logit", 50.0, 12.0, 19.5, 79.5)
    widths = tuple(config.network.hidden if hidden is None else hidden)
    shape = EnsembleShape(config.network.members, 2 * FEATURES + 1, widths, head)
    return EnsembleNetwork(shape, config.network.dropout, torch.Generator().manual_seed(seed)).to(device)
