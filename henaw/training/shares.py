"""Two ways to share a training out: by member, where nothing is added up, and by person, where gradients are.

Members are independent, so a process that trains some of them needs nothing of the others but this: whether all losses
and gradients are finite decides for all whether a step counts (and with it the learning rate of the next), the mean
over all members is what is logged, and training ends when no member gets better. The processes therefore tell each
other their members' losses and gradient norms at every step: a few hundred bytes, no gradients.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from henaw.model.losses import AGE
from henaw.model.network import EnsembleNetwork
from henaw.training.batches import Batch, LogicalBatch, TrainingData
from henaw.training.interruption import Interruption
from henaw.training.ranks import Ranks
from henaw.training.share import Share
from henaw.training.telemetry import Events, OutOfMemory

_PHASES = ("set-up", "training", "validation", "order")
_EVENT_NUMBERS = 9


class Agreement(Interruption):
    """The signals of all processes: each process learns of any with the same message."""

    own: Interruption = Interruption()
    stop = False

    def __bool__(self) -> bool:
        """Whether training is to stop, in the same place everywhere."""
        return self.stop


class RankShare(Share, Events):
    """What both ways have in common: messages that also carry signals, and that memory ran out elsewhere."""

    def __init__(self, ranks: Ranks, events: Events) -> None:
        """Share with ``ranks``; ``events`` hear of memory that ran out in other processes."""
        self.ranks, self._events, self.agreement = ranks, events, Agreement()
        self._out_of_memory: deque[OutOfMemory] = deque()

    def agreed(self, stop: Interruption) -> Interruption:  # noqa: D102
        self.agreement.own = stop
        return self.agreement

    def on_out_of_memory(self, event: OutOfMemory) -> None:
        """Keep it for rank 0, which hears of its own by itself."""
        if self.ranks.rank > 0:
            self._out_of_memory.append(event)

    def exchanged(self, own: Tensor) -> list[Tensor]:
        """``own`` numbers (any,) of every process, by rank."""
        found, waiting = self._told_once(own)
        while waiting:
            _, waiting = self._told_once(own[:0])
        return found

    def _told_once(self, own: Tensor) -> tuple[list[Tensor], bool]:
        """``own`` of every process, and whether one has more to tell of memory than a message holds."""
        report = [math.nan] * _EVENT_NUMBERS
        if self._out_of_memory:
            phase, *numbers = astuple(self._out_of_memory.popleft())
            report = [float(_PHASES.index(phase)), *map(float, numbers)]
        control = [float(bool(self.agreement.own)), float(bool(self._out_of_memory)), *report]
        message = torch.tensor(control, dtype=torch.float64)
        found = self.ranks.numbers(torch.cat([message, own.to("cpu", torch.float64)]))
        self.agreement.stop |= any(bool(values[0]) for values in found)
        for values in found[1:]:
            phase_number, *numbers = values[2 : len(control)].tolist()
            if not math.isnan(phase_number) and self.ranks.rank == 0:
                epoch, step, before, after, allocated, reserved, peak = map(int, numbers[:-1])
                place = _PHASES[int(phase_number)], epoch, step
                event = OutOfMemory(*place, before, after, allocated, reserved, peak, numbers[-1])
                self._events.on_out_of_memory(event)
        return [values[len(control) :] for values in found], any(bool(values[1]) for values in found)


class MemberShare(RankShare):
    """Some of the members, on all people."""

    def __init__(self, ranks: Ranks, members: int, events: Events) -> None:
        """Share ``members`` out, as evenly as may be."""
        super().__init__(ranks, events)
        ends = [members * rank // ranks.size for rank in range(ranks.size + 1)]
        self.parts = [slice(*pair) for pair in pairwise(ends)]
        self.own = self.parts[ranks.rank]
        self._members = members
        self._found: Tensor | None = None

    def members(self, here: int) -> int:  # noqa: D102
        return self._members

    def batches(self, batches: Iterator[LogicalBatch]) -> Iterable[LogicalBatch]:  # noqa: D102
        for batch in batches:
            self._found = None
            rows = batch.rows[self.own]
            yield _OfMembers(batch.data, rows, batch.disturbance, batch.derived, batch.stream, batch, self.own)

    def of_everyone(self, found: Tensor) -> Tensor:  # noqa: D102
        if self._found is None:  # else the step is done again here alone, after the others have heard of it
            wide = max(part.stop - part.start for part in self.parts)
            figures = self.exchanged(functional.pad(found.cpu(), (0, wide - found.shape[1])).flatten())
            by_rank = [
                values.view(len(found), wide)[:, : part.stop - part.start]
                for values, part in zip(figures, self.parts, strict=True)
            ]
            self._found = torch.cat(by_rank, dim=1).to(found.dtype)
        return self._found

    def validated(self, losses: Tensor, people: int) -> Tensor:  # noqa: D102
        wide = max(part.stop - part.start for part in self.parts)
        found = self.exchanged(functional.pad(losses, (0, wide - len(losses))))
        everyone = [values[: part.stop - part.start] for values, part in zip(found, self.parts, strict=True)]
        return torch.cat(everyone).to(losses)


@dataclass(frozen=True)
class _OfMembers(LogicalBatch):
    """The part of some members: what is drawn for them is what they would get in the ``whole`` batch."""

    whole: LogicalBatch
    own: slice

    def placed(self, rows: Tensor, stream: Tensor) -> _OfMembers:
        return replace(self, rows=rows, stream=stream, whole=replace(self.whole, stream=stream))

    def drawn(self, piece: slice) -> tuple[Tensor | None, Tensor | None]:
        """Noise and what is kept, of these members."""
        noise, kept = (None if drawn is None else drawn[self.own] for drawn in self.whole.drawn(piece))
        return noise, kept


class SomeMembers(EnsembleNetwork):
    """Some members of an ensemble, which do what they would do in it."""

    def __init__(self, whole: EnsembleNetwork, own: slice) -> None:
        """Copy members ``own`` of ``whole``."""
        nn.Module.__init__(self)
        self._own, self._everyone = own, whole.shape.members
        self.shape, self.dropout = replace(whole.shape, members=own.stop - own.start), whole.dropout
        for name, parameter in whole.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach()[own].clone()))

    def dropped(self, activation: Tensor) -> Tensor:
        """Hidden units dropped as in the whole ensemble: the numbers of all members are drawn."""
        if not self.training or self.dropout == 0:
            return activation
        everyone = activation.new_ones(self._everyone, *activation.shape[1:])
        return activation.mul(functional.dropout(everyone, self.dropout)[self._own])


class PeopleShare(RankShare):
    """All members, on some of the people: gradients are summed over processes before they are clipped."""

    sums_gradients = True

    def __init__(self, ranks: Ranks, ages: Tensor, validated: int, events: Events) -> None:
        """Share people of ``ages`` (n,) out; ``validated`` people validate in all."""
        super().__init__(ranks, events)
        self._ages, self._validated = ages, validated
        self.first, self.stop = part_of(len(ages), ranks.rank, ranks.size)
        self._found: Tensor | None = None

    def ages(self, people: TrainingData) -> Tensor:  # noqa: D102
        return self._ages.to(people.targets.device)

    def batches(self, batches: Iterator[LogicalBatch]) -> Iterable[LogicalBatch]:  # noqa: D102
        for batch in batches:
            self._found = None
            yield SomePeople.of_batch(batch, self.first, self.stop)

    def summed(self, losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:  # noqa: D102
        gradients = [torch.zeros_like(part) if part.grad is None else part.grad for part in parameters]
        if self._found is None:
            stop = losses.new_tensor([float(bool(self.agreement.own))])
            self._found = torch.cat([stop, losses.flatten(), *(gradient.flatten() for gradient in gradients)])
            self.ranks.add_up(self._found)
            self.agreement.stop = bool(self._found[0] > 0)
        total: Tensor
        _, total, *parts = self._found.split([1, losses.numel(), *(gradient.numel() for gradient in gradients)])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()
        return total.view_as(losses)

    def validated(self, losses: Tensor, people: int) -> Tensor:  # noqa: D102
        found = self.exchanged(losses.double() * people)
        total: Tensor = torch.stack(found).sum(dim=0) / self._validated
        return total.to(losses)


def part_of(count: int, rank: int, size: int) -> tuple[int, int]:
    """First and beyond the last of the ``count`` people that ``rank`` holds."""
    return count * rank // size, count * (rank + 1) // size


@dataclass(frozen=True)
class _Held(LogicalBatch):
    """Some people of a batch, in other columns: ``columns`` (K, B′) says in which of ``whole`` each was."""

    whole: LogicalBatch
    columns: Tensor

    @property
    def in_all(self) -> int:
        """As many as ``whole`` has."""
        return self.whole.rows.numel()

    def places(self, piece: slice) -> Tensor:
        """Where they stand in ``whole``."""
        members, people = self.whole.rows.shape
        return self.columns[:, piece] + people * torch.arange(members, device=self.columns.device).unsqueeze(1)


@dataclass(frozen=True)
class SomePeople(_Held):
    """Those of a batch whom one process holds: as many columns as its fullest member needs, of weight 0 beyond."""

    weights: Tensor

    @classmethod
    def of_batch(cls, batch: LogicalBatch, first: int, stop: int) -> SomePeople:
        """The part of ``batch`` with rows from ``first`` to before ``stop``, which ``batch.data`` holds from 0 on."""
        here = (batch.rows >= first) & (batch.rows < stop)
        width = int(here.sum(dim=1).max())
        columns = here.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
        weights = here.gather(1, columns)
        rows = torch.where(weights, batch.rows.gather(1, columns) - first, 0)
        parts = batch.data, rows, batch.disturbance, batch.derived, batch.stream
        return cls(*parts, batch, columns, weights.unsqueeze(-1).float())

    def __len__(self) -> int:
        """People a member meets in the whole batch."""
        return len(self.whole)

    def split(self, size: int) -> Iterator[Batch]:
        """As ``LogicalBatch.split``; the last target is the weight."""
        parts = self.data, self.rows, self.disturbance, self.derived, self.stream
        pieces = _Held(*parts, self.whole, self.columns).split(size)
        for piece, weights in zip(pieces, self.weights.split(size, dim=1), strict=False):  # of nobody there is no piece
            yield Batch(piece.inputs, torch.cat([piece.targets[..., :-1], weights], dim=-1))


def weighted(data: TrainingData) -> TrainingData:
    """``data`` with a weight of 1 as the last target."""
    ones = data.targets.new_ones(len(data), 1)
    return replace(data, targets=torch.cat([data.targets, ones], dim=1))


def people_from(data: TrainingData, first: int, stop: int) -> TrainingData:
    """People ``first`` to before ``stop``."""
    rows = slice(first, stop)
    return replace(
        data,
        scaled=data.scaled[rows],
        present=data.present[rows],
        always=data.always[rows],
        targets=data.targets[rows],
    )


def ages_of(data: TrainingData) -> Tensor:
    """Ages (n,) in years."""
    return data.targets[:, AGE]
