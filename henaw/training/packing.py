"""Several trainings as one: ensembles of one shape stacked into a larger one, each trained as if it were alone.

A small ensemble leaves a GPU idle: a step is many short programs. Members share nothing, so ensembles can be stacked as
members are: forward pass, backward pass and validation run once over all of them. Clipping, optimizer, schedule, early
stopping and history are each ensemble's own, by the code that ``train`` uses. All have the same seed, so each draws the
numbers that it would draw alone. It ends with the weights that it would have alone, bit for bit on the CPU.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from henaw.model.losses import AGE, Loss
from henaw.model.network import EnsembleNetwork
from henaw.settings import Training
from henaw.training.batches import Batch, Disturbance, LogicalBatch, TrainingData, epoch_batches, ordered, stream
from henaw.training.clipping import StepFigures, clip_members, step_figures
from henaw.training.device import keep_freed_memory, own_random_numbers
from henaw.training.evaluation import evaluate_members
from henaw.training.failures import Diverged, is_out_of_memory
from henaw.training.gradients import Gradients
from henaw.training.history import History, Row
from henaw.training.interruption import Interruption, signals_deferred
from henaw.training.microbatch import device_memory, release_memory
from henaw.training.speed import resolved
from henaw.training.state import EVALUATION_ROWS, TrainingState
from henaw.training.telemetry import Events, OutOfMemory
from henaw.training.trainer import REMEDY, train

logger = logging.getLogger(__name__)

OWN_SETTINGS = frozenset({"learning_rate", "weight_decay", "clip_norm", "mask_rate", "input_noise"})
"""Settings of ``training`` in which the ensembles of a pack may differ."""
PACK_PHASE = "pack"  # of an ``OutOfMemory`` after which the ensembles of a pack are trained one after the other

Ended = list[Row] | Exception
"""How a training ended: its history, or what ended it."""


def train_pack(
    networks: Sequence[EnsembleNetwork],
    loss: Loss,
    people: TrainingData,
    validation: TrainingData,
    settings: Sequence[Training],
    seed: int,
    events: Sequence[Events],
) -> Iterator[tuple[int, Ended]]:
    """Fit each of ``networks`` in place, as ``train`` would, all in one program.

    Args:
        networks: ensembles of one shape and dropout, on the device of the data.
        loss: of a member's outputs, for each person.
        people: training people.
        validation: people whose loss chooses each member's epoch.
        settings: of each; they differ in ``OWN_SETTINGS`` alone.
        seed: of batch order, masks and dropout, of all.
        events: a listener for each. What one raises ends its ensemble's training, and nobody else's.

    Yields:
        The number of an ensemble, as soon as its training has ended, and how.

    Raises:
        ValueError: the ensembles cannot be trained together.
    """
    if len({(str(network.shape), network.dropout) for network in networks}) > 1:
        raise ValueError("ensembles of a pack must have one shape and dropout")
    if len({one.model_dump_json(exclude=set(OWN_SETTINGS)) for one in settings}) > 1:
        raise ValueError(f"settings of a pack may differ in {', '.join(sorted(OWN_SETTINGS))} alone")
    keep_freed_memory()
    never = {"compiled": "never"}  # it would be anew whenever an ensemble leaves the pack
    settings = [resolved(one, len(people), people.targets.device).model_copy(update=never) for one in settings]
    begun = [[parameter.detach().clone() for parameter in network.parameters()] for network in networks]
    steps = math.ceil(len(people) / settings[0].people_in_batch)
    each = enumerate(zip(networks, settings, events, strict=True))
    training = [_Ensemble(number, network, own, steps, listener) for number, (network, own, listener) in each]
    pack = _Pack(training, loss, people, validation, settings[0], seed, steps)
    with own_random_numbers(people.targets.device), signals_deferred() as stop:
        yield from pack.loop(stop)
    if pack.out_of_memory is None:
        return
    left = [one.number for one in pack.training]
    del pack
    release_memory()
    for number in left:
        _begin_again(networks[number], begun[number])
        ended: Ended
        try:
            ended = train(networks[number], loss, people, validation, settings[number], seed, events[number])
        except Exception as error:  # noqa: BLE001 - it ends this training alone, and is handed on
            ended = error
        yield number, ended


@torch.no_grad()
def _begin_again(network: EnsembleNetwork, begun: Sequence[Tensor]) -> None:
    for parameter, values in zip(network.parameters(), begun, strict=True):
        parameter.grad = None
        parameter.data = values


class _Together(EnsembleNetwork):
    """Ensembles stacked into one, whose parameters and gradients are from now on parts of its own."""

    def __init__(self, networks: Sequence[EnsembleNetwork]) -> None:
        nn.Module.__init__(self)
        first = networks[0]
        self.alone = first.shape.members
        self.shape, self.dropout = replace(first.shape, members=self.alone * len(networks)), first.dropout
        for name, _ in first.named_parameters():
            parts = [network.get_parameter(name) for network in networks]
            stacked = nn.Parameter(torch.cat([part.detach() for part in parts]))
            stacked.grad = torch.zeros_like(stacked)
            self.register_parameter(name, stacked)
            slices = zip(stacked.detach().split(self.alone), stacked.grad.split(self.alone), strict=True)
            for part, (values, gradient) in zip(parts, slices, strict=True):
                part.grad = None
                part.data, part.grad = values, gradient

    def dropped(self, activation: Tensor) -> Tensor:
        """Hidden units dropped as each ensemble alone would: all draw the same numbers."""
        if not self.training or self.dropout == 0:
            return activation
        kept = functional.dropout(activation.new_ones(self.alone, *activation.shape[1:]), self.dropout)
        by_ensemble = activation.view(-1, self.alone, *activation.shape[1:])
        return (by_ensemble * kept).view_as(activation)


class _Ensemble:
    """One of a pack: what is its own."""

    def __init__(
        self, number: int, network: EnsembleNetwork, settings: Training, steps_per_epoch: int, events: Events
    ) -> None:
        self.number, self.network, self.settings, self.events = number, network, settings, events
        self.state = TrainingState(network, settings, settings.epochs * steps_per_epoch)
        self.history = History(None)
        self.failure: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether no epoch is left, no member has got better for so long, or something ended it."""
        return self.state.over or self.failure is not None

    def disturbance(self) -> Disturbance:
        return Disturbance(self.settings.mask_rate, self.settings.input_noise)

    def begin_step(self) -> None:
        progress = self.state.progress
        self.events.on_batch_begin(progress.epoch, progress.batch)
        self.state.set_learning_rate()

    def end_step(self, figures: StepFigures, people: int) -> None:
        """The optimizer's step where all is finite; a skipped one otherwise."""
        progress = self.state.progress
        step = progress.step
        self.events.on_grad_computed(step, figures.metrics | figures.by_layer)
        if figures.finite:
            self.state.optimizer.step()
            progress.add(figures)
            told = {"learning_rate": progress.learning_rate, "samples": float(people)}
            self.events.on_step_committed(step, figures.metrics | told)
            return
        progress.skip()
        self.events.on_step_skipped(progress.epoch, progress.batch - 1, progress.skipped_in_a_row)
        if progress.skipped_in_a_row >= self.settings.max_skipped:
            raise Diverged(f"loss or gradient not finite in {self.settings.max_skipped} steps in a row, {REMEDY}")

    def end_epoch(self, validation_loss: Tensor) -> None:
        progress = self.state.progress
        epoch = progress.epoch
        if not bool(torch.isfinite(validation_loss).all()):
            raise Diverged(f"the validation loss is not finite in epoch {epoch}, {REMEDY}")
        self.state.keep_best(validation_loss)
        row = progress.end_epoch(float(validation_loss.mean()))
        self.events.on_epoch_end(epoch, row)
        self.history.append(row)

    def end(self) -> Ended:
        self.events.on_train_end()
        self.state.restore_best()  # also of one that something ended: it must not hold the memory of the others
        return self.failure or list(self.history.recent)


@dataclass
class _Pack:
    training: list[_Ensemble]
    loss: Loss
    people: TrainingData
    validation: TrainingData
    common: Training
    seed: int
    steps_per_epoch: int
    out_of_memory: OutOfMemory | None = None

    def __post_init__(self) -> None:
        ages, size = self.people.targets[:, AGE], self.common.people_in_batch
        self.members = self.training[0].network.shape.members
        self.order = ordered(ages, self.members, size, self.common.age_groups, self.seed)

    def loop(self, stop: Interruption) -> Iterator[tuple[int, Ended]]:
        """Epoch by epoch until all have ended, memory runs out, or a signal."""
        for one in self.training:
            one.events.on_train_begin(self.common.epochs, self.steps_per_epoch)
        together = None
        epoch = 0
        while self.training:
            together = together or _Together([one.network for one in self.training])
            try:
                finished = self.epoch(together, epoch, stop)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                finished = False
                size = self.common.people_in_batch
                self.out_of_memory = OutOfMemory(PACK_PHASE, epoch, 0, size, size, *device_memory(), 0.0)
            if self.out_of_memory:
                logger.warning("a pack of %d does not fit into memory: one after the other now", len(self.training))
                for one in self.training:
                    one.events.on_out_of_memory(self.out_of_memory)
                return
            if not finished:
                for one in self.training:
                    one.events.on_stopped(epoch, one.state.progress.batch)
                    one.events.on_train_end()
                return
            epoch += 1
            ended = [one for one in self.training if one.over]
            self.training = [one for one in self.training if not one.over]
            if ended:
                together = None
            for one in ended:
                yield one.number, one.end()

    def epoch(self, together: _Together, epoch: int, stop: Interruption) -> bool:
        """An epoch of all, and its validation; whether it was finished."""
        together.train()
        order, size = self.order(epoch, self.members), self.common.people_in_batch
        batches = [
            epoch_batches(self.people, order, size, one.disturbance(), self.seed, epoch) for one in self.training
        ]
        for number, drawn in enumerate(zip(*batches, strict=True)):
            self.step(together, drawn, stream(self.seed, "dropout", epoch, number))
            if stop:
                return False
        rows = min(EVALUATION_ROWS, len(self.validation))
        losses = evaluate_members(together, self.loss, self.validation, rows)
        for one, own in zip(self.training, losses.split(self.members), strict=True):
            self.guarded(one, one.end_epoch, own)
        return True

    def step(self, together: _Together, drawn: Sequence[LogicalBatch], dropout_stream: int) -> None:
        """A batch of each in one program, then each one's step of its own."""
        for one in self.training:
            self.guarded(one, one.begin_step)
        parameters = list(together.parameters())
        torch._foreach_zero_([parameter.grad for parameter in parameters if parameter.grad is not None])
        if together.dropout > 0:
            torch.manual_seed(dropout_stream)
        people = len(drawn[0])
        pieces = [next(batch.split(people)) for batch in drawn]
        inputs, targets = (torch.cat(parts) for parts in zip(*((p.inputs, p.targets) for p in pieces), strict=True))
        gradients = Gradients(together, self.loss, self.common)
        losses = gradients.add(Batch(inputs, targets), people)
        limits = losses.new_tensor([one.settings.clip_norm for one in self.training])
        squares = clip_members(parameters, limits.repeat_interleave(self.members))
        figures = torch.cat([losses, squares]).cpu()  # a step's only wait for the device
        for one, own in zip(self.training, figures.split(self.members, dim=1), strict=True):
            told = step_figures(one.state.names, own, one.settings.clip_norm, gradients.parts)
            self.guarded(one, one.end_step, told, people)

    @staticmethod
    def guarded(one: _Ensemble, do: object, *arguments: object) -> None:
        """Do it unless something ended the ensemble's training before; what it raises is what ends it."""
        if one.failure is None:
            try:
                do(*arguments)  # type: ignore[operator]
            except Exception as error:
                if is_out_of_memory(error):
                    raise  # of them all
                one.failure = error  # told to the caller at the end of the epoch
