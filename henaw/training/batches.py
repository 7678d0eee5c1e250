"""Batches of an epoch: every member sees every person exactly once, in an order and behind masks of its own.

What a batch holds is a pure function of seed, epoch and the batch's place in the epoch, so training may stop and go on
anywhere. Noise and masks are numbered bits (``random_bits``) rather than the next ones of a generator: they are drawn
where the people are, piece by piece, and come out the same on every device and in pieces of any size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from operator import is_

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from henaw.data.sampling import AgeSampler, Place, random_bits, random_numbers
from henaw.data.sampling import age_groups as decades
from henaw.settings import AgeGroups

_LEVELS = 1 << 16  # of a random number: 16 bits, so that a word of 64 gives four

Derived = tuple[tuple[int, list[int]], ...]
Order = Callable[[int, int], Tensor]
"""From an epoch to the people each member meets in turn, (K, n) row numbers; the same whenever asked.

The second argument is for how many members it is worked out at a time, which changes nothing but the memory it takes.
"""


@dataclass(frozen=True)
class TrainingData:
    """People as tensors on the training device, which are columns of one table.

    A person who is met is fetched from memory at once then: from tables of their own, which no cache holds where there
    are many people, that took three times as long.

    Attributes:
        scaled: scaled features, 0 where missing, (n, p).
        present: presence bits, (n, p).
        always: inputs that are never hidden: sex and, if the clock reads it, age, (n, 1 or 2).
        targets: what the loss needs; chronological age comes first, (n, c).
        dependence: which features each marker enters, (m, p): the first m are the markers themselves.
        table: scaled, present, always and targets side by side, (n, d + c).
    """

    scaled: Tensor
    present: Tensor
    always: Tensor
    targets: Tensor
    dependence: Tensor
    table: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = {name: getattr(self, name) for name in ("scaled", "present", "always", "targets")}
        table = torch.cat(list(parts.values()), dim=1)
        columns = table.split([values.shape[1] for values in parts.values()], dim=1)
        for name, values in zip((*parts, "table"), (*columns, table), strict=True):
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        """Number of people."""
        return len(self.targets)

    def inputs(self, rows: slice) -> Tensor:
        """Inputs of ``rows`` with nothing hidden, (B, d); not a copy."""
        return self.table[rows, : -self.targets.shape[1]]

    def to(self, place: torch.device | torch.dtype) -> TrainingData:
        """The same on another device, or as another type; itself where it is that already."""
        parts = [getattr(self, name) for name in PARTS]
        moved = [part.to(place) for part in parts]
        return self if all(map(is_, moved, parts)) else TrainingData(*moved)


PARTS = tuple(part.name for part in fields(TrainingData) if part.init)
"""Of which ``TrainingData`` are made."""


@dataclass(frozen=True)
class Disturbance:
    """What training adds to the inputs of a batch, anew in each step and for each member.

    Attributes:
        mask_rate: probability that a marker is hidden, and the features it enters with it.
        noise: standard deviation of Gaussian noise on the scaled features that are present.
    """

    mask_rate: float
    noise: float


@dataclass(frozen=True)
class Batch:
    """Inputs (K, B, d) and targets (K, B, c) on the device: a batch or a piece of one."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class LogicalBatch:
    """Who takes part in one step, and what is drawn for them once they are asked for.

    Attributes:
        data: the people.
        rows: who, for each member, (K, B).
        disturbance: what is added to their inputs.
        derived: features that several markers enter, by number, and those markers.
        stream: which random numbers that takes; on the device where it is told only when it is needed.
    """

    data: TrainingData
    rows: Tensor
    disturbance: Disturbance
    derived: Derived
    stream: int | Tensor

    def __len__(self) -> int:
        """People a member meets in it."""
        return self.rows.shape[1]

    def placed(self, rows: Tensor, stream: Tensor) -> LogicalBatch:
        """A batch of its size and kind whose people and random numbers are those that stand in ``rows``, ``stream``."""
        return replace(self, rows=rows, stream=stream)

    def split(self, size: int) -> Iterator[Batch]:
        """The batch on the device in pieces of ``size`` people of each member; the last may be smaller."""
        data = self.data
        widths = [part.shape[1] for part in (data.scaled, data.present, data.always, data.targets)]
        for start in range(0, self.rows.shape[1], size):
            piece = slice(start, start + size)
            noise, kept = self.drawn(piece)
            rows = self.rows[:, piece]
            people = rows.flatten()  # index_select of single rows takes a quarter of the time of indexing
            table = data.table.index_select(0, people).view(*rows.shape, -1)
            scaled, present, _, targets = table.split(widths, dim=-1)
            if noise is not None:
                scaled += noise
            if kept is not None:
                present *= kept
            scaled *= present
            yield Batch(table[..., : -targets.shape[-1]], targets)

    def drawn(self, piece: slice) -> tuple[Tensor | None, Tensor | None]:
        """Noise, and 1 where a feature is kept, 0 where it is hidden, each (K, b, p); None where there is none of it.

        16 bits make a number: of the noise as many as the whole batch has values, then one for each that may be hidden.
        Those of a piece are worked out one by one, which takes four times as long each, but memory for the piece alone.
        """
        noisy, hiding = self.disturbance.noise > 0, self.disturbance.mask_rate > 0
        if not (noisy or hiding):
            return None, None
        device, features = self.rows.device, self.data.scaled.shape[1]
        places, size = self.places(piece), self.in_all * features
        if places is None:
            bits = random_bits(self.stream, -(-size * (noisy + hiding) // 4), device).view(torch.int16)
            shape = (*self.rows.shape, features)
            parts = [bits[size * part : size * (part + 1)].view(shape) for part in range(noisy + hiding)]
        else:
            at = places.unsqueeze(-1) * features + torch.arange(features, device=device)
            parts = [random_numbers(self.stream, at + size * part) for part in range(noisy + hiding)]
        return self._noise(parts[0]) if noisy else None, self._kept(parts[-1]) if hiding else None

    @property
    def in_all(self) -> int:
        """People that all members meet in the whole batch, counted once for each member."""
        return self.rows.numel()

    def places(self, piece: slice) -> Tensor | None:
        """Where each of ``piece`` stands among those ``in_all``, (K, b), member by member; None = it is all of them."""
        members, people = self.rows.shape
        if len(range(people)[piece]) == people:
            return None
        return torch.arange(members * people, device=self.rows.device).view(members, people)[:, piece]

    def _noise(self, numbers: Tensor) -> Tensor:
        scores = _normal_scores(self.disturbance.noise, numbers.device)
        return scores.index_select(0, numbers.flatten().int().add_(_LEVELS // 2)).view(numbers.shape)

    def _kept(self, numbers: Tensor) -> Tensor:
        kept = numbers.float()
        torch.ge(kept, round(self.disturbance.mask_rate * _LEVELS) - _LEVELS // 2, out=kept)
        for feature, markers in self.derived:
            kept[..., feature] = 1.0
            for marker in markers:
                kept[..., feature] *= kept[..., marker]
        return kept


@lru_cache(maxsize=8)
def _normal_scores(size: float, device: torch.device) -> Tensor:
    """Quantiles of a Gaussian of standard deviation ``size`` at 65,536 even levels: one of them at random is noise.

    The largest is 4.3 standard deviations; a look-up takes a quarter of the time of PyTorch's ``randn`` on a CPU.
    """
    return torch.tensor(size * ndtri((np.arange(_LEVELS) + 0.5) / _LEVELS), dtype=torch.float32, device=device)


def stream(seed: int, purpose: str, *place: int) -> int:
    """Seed of a stream of random numbers of its own for ``purpose`` at ``place``, e.g. an epoch and a batch."""
    text = ":".join([str(seed), purpose, *map(str, place)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())


def ordered(ages: Tensor, members: int, batch_size: int, age_groups: AgeGroups, seed: int) -> Order:
    """For each member an order of its own of the people of ``ages`` (n,) in years, on their device.

    ``proportional``: everybody once an epoch, and in every batch each age group's share of the people, rounded up or
    down. ``even``: as many of each group in every batch, drawn with replacement.
    """
    groups = decades(ages.cpu()).to(ages.device)
    return AgeSampler(groups, members, batch_size, Place(seed), even=age_groups == "even").epoch


def epoch_batches(
    data: TrainingData, order: Tensor, batch_size: int, disturbance: Disturbance, seed: int, epoch: int, first: int = 0
) -> Iterator[LogicalBatch]:
    """The batches of ``epoch`` from number ``first`` on, people in ``order`` (K, n)."""
    markers, features = data.dependence.shape
    entering = data.dependence.T.tolist()
    derived = tuple(
        (feature, [marker for marker in range(markers) if entering[feature][marker]])
        for feature in range(markers, features)
    )
    for number, rows in enumerate(order.split(batch_size, dim=1)):
        if number >= first:
            yield LogicalBatch(data, rows, disturbance, derived, stream(seed, "disturbance", epoch, number))
