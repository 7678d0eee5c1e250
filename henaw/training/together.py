"""A training that several processes share, each with its own members or its own people (docs/training.md).

``train_together`` is for rank 0, ``assist`` for the others; both need no more than an initialized process group, so
whatever starts processes as ``torchrun`` does can start them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from henaw import __version__
from henaw.errors import BadInput
from henaw.model.ensemble import EnsembleShape
from henaw.model.hazard import Gompertz
from henaw.model.losses import training_loss, weighted_loss
from henaw.model.network import EnsembleNetwork
from henaw.model.storage import describe_shape, read_shape
from henaw.settings import Training
from henaw.training.batches import PARTS, TrainingData
from henaw.training.checkpoints import Checkpoints
from henaw.training.device import available_cores, choose_device, use_threads
from henaw.training.gathering import DistantCheckpoints, GatheringCheckpoints
from henaw.training.history import Row
from henaw.training.microbatch import set_up
from henaw.training.ranks import RankLost, Ranks, company, joined, launched, local_processes, local_rank
from henaw.training.shares import (
    MemberShare,
    PeopleShare,
    RankShare,
    SomeMembers,
    ages_of,
    part_of,
    people_from,
    weighted,
)
from henaw.training.speed import resolved
from henaw.training.state import fingerprint
from henaw.training.telemetry import Events, Listeners
from henaw.training.trainer import train


def train_together(
    network: EnsembleNetwork,
    hazard: Gompertz | None,
    people: TrainingData,
    validation: TrainingData,
    settings: Training,
    seed: int,
    events: Events,
    checkpoints: Checkpoints | None = None,
) -> list[Row]:
    """As ``trainer.train`` with the loss that ``settings`` mean, in several processes; for rank 0.

    Args:
        network: the whole ensemble, on the host; left with every member at its best epoch.
        hazard: of the mortality clock.
        people: training people, on the host.
        validation: as in ``train``, on the host.
        settings: as in ``train``.
        seed: as in ``train``.
        events: hears of the whole ensemble, and of memory that ran out in any process.
        checkpoints: of the whole ensemble, whatever number of processes wrote the last one.

    Raises:
        RankLost: another process ended before its time; the message says why, where it did.
        BadInput: more processes than members, or people, that they share.
        As ``train`` otherwise.
    """
    if not launched():
        _require_enough(settings.processes, network, (people, validation), settings)
    with company(settings) as ranks:
        _require_enough(ranks.size, network, (people, validation), settings)
        settings = resolved(settings, len(people), choose_device(settings))
        described = (network, settings, seed, people, validation)
        marks = fingerprint(*described) if checkpoints else {}
        ranks.tell(
            {
                "version": __version__,
                "shape": describe_shape(network.shape),
                "dropout": network.dropout,
                "hazard": hazard and asdict(hazard),
                "training": settings.model_dump(),
                "seed": seed,
                "saved": checkpoints is not None,
                "people": len(people),
                "validation": len(validation),
                "widths": {name: getattr(people, name).shape[1] for name in PARTS},
                "markers": len(people.dependence),
            }
        )
        for rank in range(1, ranks.size):
            for data in (people, validation):
                for name in PARTS:
                    ranks.send(getattr(_own_people(data, settings, rank, ranks), name), rank)
            for parameter in network.parameters():
                ranks.send(parameter.detach(), rank)
        if settings.split == "people":
            for rank in range(1, ranks.size):
                ranks.send(ages_of(people), rank)
        mine = [_own_people(data, settings, 0, ranks) for data in (people, validation)]
        work = _Work(ranks, network, hazard, mine, ages_of(people), len(validation), settings, seed, events)
        kept = checkpoints and GatheringCheckpoints(checkpoints, settings, ranks, work.parts, marks)
        history = work.do(kept)
        work.gather()
    return history


def assist(meeting: Path | None = None, rank: int = 0, size: int = 0) -> None:
    """The part of any other rank in ``train_together``, of which it is told all that it needs to know.

    Args:
        meeting: file in which the processes of one machine meet; None = as ``torchrun`` says.
        rank: the number of this process, where they meet in a file.
        size: how many there are, likewise.

    Raises:
        RankLost: another process ended before its time.
        As ``train`` otherwise; rank 0 is told.
    """
    with joined(meeting, rank, size) as ranks:
        told = ranks.listen()
        if told["version"] != __version__:
            raise BadInput(f"HENAW {__version__} is installed here, and {told['version']} where the training began")
        settings = Training.model_validate(told["training"])
        network = _empty_network(read_shape(told["shape"], "process 0"), told["dropout"])
        mine = [_received(ranks, told, settings, told[name]) for name in ("people", "validation")]
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(ranks.receive(parameter, 0))
        ages = ranks.receive(torch.empty(told["people"]), 0) if settings.split == "people" else ages_of(mine[0])
        hazard = told["hazard"] and Gompertz(**told["hazard"])
        work = _Work(ranks, network, hazard, mine, ages, told["validation"], settings, told["seed"], Events())
        work.do(DistantCheckpoints(settings, ranks, work.parts) if told["saved"] else None)
        work.gather()


class _Work:
    """What one process does."""

    def __init__(
        self,
        ranks: Ranks,
        network: EnsembleNetwork,
        hazard: Gompertz | None,
        data: list[TrainingData],
        ages: Tensor,
        validated: int,
        settings: Training,
        seed: int,
        events: Events,
    ) -> None:
        self.ranks, self.whole, self.hazard, self.data = ranks, network, hazard, data
        self.settings, self.seed = settings, seed
        self.share: RankShare
        if settings.split == "members":
            share = MemberShare(ranks, network.shape.members, events)
            self.share, self.parts = share, share.parts
        else:
            self.share = PeopleShare(ranks, ages, validated, events)
            self.parts = [slice(0, network.shape.members)] * ranks.size
        self.events = Listeners([events, self.share])
        self.network = network

    def do(self, checkpoints: Checkpoints | None) -> list[Row]:
        """Train."""
        use_threads(self.settings)
        if not self.settings.threads:
            torch.set_num_threads(max(1, available_cores() // local_processes()))
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        device = choose_device(self.settings)

        def make() -> tuple[EnsembleNetwork, list[TrainingData]]:
            network = self.whole
            if isinstance(self.share, MemberShare):
                network = SomeMembers(self.whole, self.share.own)
            data = [part.to(device) for part in self.data]
            return network.to(device), data

        self.network, (people, validation) = set_up(make, self.events)
        loss = training_loss(self.network.shape.head, self.hazard, self.settings, device)
        if self.settings.split == "people":
            loss, people, validation = weighted_loss(loss), weighted(people), weighted(validation)
        history = train(
            self.network, loss, people, validation, self.settings, self.seed, self.events, checkpoints, self.share
        )
        if self.share.agreement:
            raise RankLost("training was stopped by a signal to one of its processes; all is saved, go on with resume")
        return history

    @torch.no_grad()
    def gather(self) -> None:
        """Leave the whole ensemble with rank 0."""
        if self.settings.split == "people":
            self.whole.cpu()
            return
        for parameter, here in zip(self.whole.parameters(), self.network.parameters(), strict=True):
            if self.ranks.rank > 0:
                self.ranks.send(here.detach().cpu(), 0)
                continue
            parameter[self.parts[0]] = here.cpu()
            for rank, part in enumerate(self.parts[1:], 1):
                parameter[part] = self.ranks.receive(parameter[part], rank)


def _require_enough(processes: int, network: EnsembleNetwork, data: Sequence[TrainingData], settings: Training) -> None:
    """Something for each process to do."""
    if settings.split == "members" and processes > network.shape.members:
        raise BadInput(f"training: {processes} processes share {network.shape.members} members; expected fewer")
    if settings.split == "people" and processes > min(map(len, data)):
        raise BadInput(f"training: {processes} processes share people out, of whom there are fewer; expected fewer")


def _own_people(data: TrainingData, settings: Training, rank: int, ranks: Ranks) -> TrainingData:
    """Those of ``data`` whom ``rank`` holds."""
    if settings.split == "members":
        return data
    return people_from(data, *part_of(len(data), rank, ranks.size))


def _received(ranks: Ranks, told: dict[str, Any], settings: Training, count: int) -> TrainingData:
    if settings.split == "people":
        first, stop = part_of(count, ranks.rank, ranks.size)
        count = stop - first
    rows = {name: told["markers"] if name == "dependence" else count for name in PARTS}
    return TrainingData(*(ranks.receive(torch.empty(rows[name], told["widths"][name]), 0) for name in PARTS))


def _empty_network(shape: EnsembleShape, dropout: float) -> EnsembleNetwork:
    return EnsembleNetwork(shape, dropout, torch.Generator())
