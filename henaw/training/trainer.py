"""The training loop: K independent members, one batched program, the best epoch of each member kept.

Each step is a transaction: it happens whole or not at all, whatever memory or numbers do, and a run that was stopped
goes on bitwise as if it never had been (docs/training.md).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from henaw.model.losses import Loss
from henaw.model.network import EnsembleNetwork
from henaw.settings import Training
from henaw.training.batches import LogicalBatch, TrainingData, stream
from henaw.training.checkpoints import Checkpoints
from henaw.training.clipping import StepFigures, step_figures
from henaw.training.device import keep_freed_memory, own_random_numbers
from henaw.training.epochs import Epochs
from henaw.training.evaluation import evaluate_members
from henaw.training.failures import Diverged
from henaw.training.gradients import Gradients
from henaw.training.history import History, Row, from_plain
from henaw.training.interruption import Interruption, signals_deferred
from henaw.training.microbatch import Halving, Place, set_up
from henaw.training.share import ALONE, Share
from henaw.training.speed import resolved
from henaw.training.state import TrainingState, fingerprint
from henaw.training.telemetry import Events
from henaw.training.transaction import Transaction
from henaw.training.work import step_work

REMEDY = "lower training.learning_rate"


def train(
    network: EnsembleNetwork,
    loss: Loss,
    people: TrainingData,
    validation: TrainingData,
    settings: Training,
    seed: int,
    events: Events,
    checkpoints: Checkpoints | None = None,
    share: Share = ALONE,
) -> list[Row]:
    """Fit ``network`` in place and leave every member at its best epoch.

    Args:
        network: the ensemble, on the device of the data.
        loss: of a member's outputs, for each person.
        people: training people.
        validation: people whose loss chooses each member's epoch; not trained on.
        settings: optimizer, schedule, masking, early stopping.
        seed: of batch order, masks and dropout.
        events: listener.
        checkpoints: where the run is saved, and goes on from if it was before; None = it is not.
        share: what this process does of it.

    Returns:
        The history, a row an epoch, of which the last ``history.IN_MEMORY``: ``epoch``, ``train_loss``,
        ``validation_loss``, ``learning_rate``, ``gradient_norm`` (before clipping, also for each layer),
        ``clipped_fraction``, ``skipped_steps``, ``micro_batch``; means over members and steps.

    Raises:
        MemoryExhausted: memory ran out with a single person at a time; the events are emitted first.
        Diverged: ``settings.max_skipped`` steps in a row, or a validation loss, were not finite.
        IntegrityError: the run's checkpoints are broken, or of other settings or people.
        EnvironmentProblem: a checkpoint cannot be written.
    """
    keep_freed_memory()
    settings = resolved(settings, len(people), people.targets.device)
    make = partial(_Run, network, loss, people, validation, settings, seed, events, checkpoints, share)
    run = set_up(make, events)
    alone = checkpoints.held() if checkpoints else nullcontext()
    try:
        with alone, own_random_numbers(people.targets.device), signals_deferred() as stop:
            run.begin()
            run.loop(share.agreed(stop))
    finally:
        events.on_train_end()
    run.state.restore_best()
    return list(run.history.recent)


@dataclass
class _Run:
    network: EnsembleNetwork
    loss: Loss
    people: TrainingData
    validation: TrainingData
    settings: Training
    seed: int
    events: Events
    checkpoints: Checkpoints | None
    share: Share

    def __post_init__(self) -> None:
        ages, members = self.share.ages(self.people), self.share.members(self.network.shape.members)
        self.epochs = Epochs(self.people, ages, members, self.settings, self.seed, self.events)
        self.state = TrainingState(self.network, self.settings, self.settings.epochs * self.epochs.steps, self.share)
        self.gradients = Gradients(self.network, self.loss, self.settings)
        self.transaction = Transaction(self.network, self.state.optimizer)
        self.work = step_work(self.gradients, self.state.parameters, self.settings, self.share, self.transaction)
        self.history = self.checkpoints.history() if self.checkpoints else History(None)
        described = (self.network, self.settings, self.seed, self.people, self.validation)
        self.fingerprint = fingerprint(*described) if self.checkpoints else {}

    def begin(self) -> None:
        """Start, or go on from the newest checkpoint."""
        saved = self.checkpoints and self.checkpoints.newest(self.state.contents(), self.fingerprint)
        if saved:
            self.state.assign(saved)
        progress = self.state.progress
        self.micro_batch = Halving(progress.micro_batch, self.events)
        self.evaluation = Halving(progress.evaluation_rows, self.events)
        self.events.on_train_begin(self.settings.epochs, self.epochs.steps)
        if self.history.keep_first(progress.epoch) < progress.epoch:  # killed before the last epoch was told of
            self.tell(progress.epoch - 1, from_plain(progress.last_row))
        if not saved:
            self.save()

    def loop(self, stop: Interruption) -> None:
        """Epoch by epoch until the last, until no member gets better, or until a signal."""
        while not self.state.over:
            if self.epoch(stop):
                self.end_epoch()
            if stop:
                self.save()
                self.events.on_stopped(self.state.progress.epoch, self.state.progress.batch)
                break

    def epoch(self, stop: Interruption) -> bool:
        """What is left of an epoch, unless a signal comes; whether it is done."""
        self.network.train()
        for batch in self.share.batches(self.epochs.left(self.state.progress, self.work.release)):
            self.step(batch)
            if stop:
                return False
        return True

    def step(self, batch: LogicalBatch) -> None:
        """One transaction: a batch in pieces that fit into memory, clipped once, and one step of the optimizer."""
        progress = self.state.progress
        self.events.on_batch_begin(progress.epoch, progress.batch)
        rate, place = self.state.set_learning_rate(), Place("training", progress.epoch, progress.step)
        figures = self.micro_batch.do(len(batch), partial(self.attempt, batch), self.work.undo, place)
        progress.micro_batch = self.micro_batch.rows
        if figures.finite:
            progress.add(figures)
            self.events.on_step_committed(place.step, figures.metrics | {"learning_rate": rate, "samples": len(batch)})
            return
        progress.skip()
        self.events.on_step_skipped(progress.epoch, progress.batch - 1, progress.skipped_in_a_row)
        if progress.skipped_in_a_row >= self.settings.max_skipped:
            raise Diverged(f"loss or gradient not finite in {self.settings.max_skipped} steps in a row, {REMEDY}")

    def attempt(self, batch: LogicalBatch, rows: int) -> StepFigures:
        """The work of a step with ``rows`` of each member at a time; ``work.undo`` undoes it."""
        progress = self.state.progress
        self.state.optimizer.zero_grad(set_to_none=True)
        if self.network.dropout > 0:
            torch.manual_seed(stream(self.seed, "dropout", progress.epoch, progress.batch))
        found, limit = self.share.of_everyone(self.work(batch, rows)), self.settings.clip_norm
        figures = step_figures(self.state.names, found, limit, self.gradients.parts)  # the only wait for the device
        self.events.on_grad_computed(progress.step, figures.metrics | figures.by_layer)
        if figures.finite:
            self.transaction.step()
        return figures

    def end_epoch(self) -> None:
        """Validate, keep what got better, save, tell."""
        progress = self.state.progress
        epoch, place = progress.epoch, Place("validation", progress.epoch, progress.step)
        work = partial(evaluate_members, self.network, self.loss, self.validation)
        found = self.evaluation.do(len(self.validation), work, self.work.release, place)
        validation_loss = self.share.validated(found, len(self.validation))
        progress.evaluation_rows = self.evaluation.rows
        if not bool(torch.isfinite(validation_loss).all()):
            raise Diverged(f"the validation loss is not finite in epoch {epoch}, {REMEDY}")
        self.state.keep_best(validation_loss)
        row = progress.end_epoch(float(validation_loss.mean()))
        if self.state.over or progress.epoch % self.settings.checkpoint_every == 0:
            self.save()
        self.tell(epoch, row)

    def tell(self, epoch: int, row: Row) -> None:
        """An epoch is over: to the listeners, then, as what was told of, to the history."""
        self.events.on_epoch_end(epoch, row)
        self.history.append(row)

    def save(self) -> None:
        """Save all that the run is, where it is saved at all."""
        if self.checkpoints:
            self.history.flush()
            progress = self.state.progress
            self.checkpoints.save(progress.epoch, progress.batch, self.state.contents(), self.fingerprint)
