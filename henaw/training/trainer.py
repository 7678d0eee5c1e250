"""The training loop: K independent members, one batched program, the best epoch of each member kept."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from henaw.errors import BadInput, EnvironmentProblem
from henaw.model.losses import Loss
from henaw.model.network import EnsembleNetwork
from henaw.settings import Training
from henaw.training.batches import Disturbance, TrainingData, all_inputs, epoch_batches
from henaw.training.telemetry import Events, OutOfMemory

T = TypeVar("T")

EVALUATION_ROWS = 4096  # bounds the memory of a validation pass
_NORM_FLOOR = 1e-12  # keeps a member without gradient from dividing by zero


@dataclass
class Progress:
    """Where training stands, for messages."""

    phase: str = "set-up"
    epoch: int = 0
    step: int = 0


def choose_device(settings: Training) -> torch.device:
    """The device that ``training.device`` means on this machine.

    Raises:
        EnvironmentProblem: a GPU is asked for and there is none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem("training.device: cuda was asked for, but PyTorch finds no GPU here; use auto or cpu")
    use_gpu = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if use_gpu else "cpu")


def use_threads(settings: Training) -> None:
    """Give PyTorch ``training.threads`` threads, or all the cores that this process may use."""
    torch.set_num_threads(settings.threads or available_cores())


def available_cores() -> int:
    """CPU cores that this process may use; where the system cannot tell (macOS), all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train(
    network: EnsembleNetwork,
    loss: Loss,
    people: TrainingData,
    validation: TrainingData,
    settings: Training,
    seed: int,
    events: Events,
) -> list[dict[str, float]]:
    """Fit ``network`` in place and leave every member at its best epoch.

    Args:
        network: the ensemble, on the device of the data.
        loss: of a member's outputs, for each person.
        people: training people.
        validation: people whose loss chooses each member's epoch; not trained on.
        settings: optimizer, schedule, masking, early stopping.
        seed: of batch order and masks.
        events: listener.

    Returns:
        One row an epoch: ``epoch``, ``train_loss``, ``validation_loss``, ``learning_rate``, ``gradient_norm``,
        ``clipped_fraction``; losses in the loss's unit, means over members.

    Raises:
        EnvironmentProblem: memory ran out; the event is emitted first.
        BadInput: the loss is not finite any more: the learning rate is too high.
    """
    progress = Progress()

    def work() -> list[dict[str, float]]:
        with _seeded_dropout(people.targets.device, seed):
            return _loop(network, loss, people, validation, settings, seed, events, progress)

    try:
        return guard_memory(work, events, progress, settings.batch_size)
    finally:
        events.on_train_end()


def guard_memory(work: Callable[[], T], events: Events, progress: Progress, batch_size: int) -> T:
    """Do ``work``; running out of memory in it becomes an event and one clear error.

    Raises:
        EnvironmentProblem: memory ran out; the event is emitted first.
    """
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # outside the except block: the traceback, and with it the failed step's tensors, are gone
    allocated = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    event = OutOfMemory(progress.phase, progress.epoch, progress.step, batch_size, allocated)
    events.on_out_of_memory(event)
    raise EnvironmentProblem(
        f"out of memory in {event.phase}, epoch {event.epoch}, step {event.step} with batches of {event.batch_size}: "
        "lower training.batch_size, network.members or network.hidden"
    )


@contextmanager
def _seeded_dropout(device: torch.device, seed: int) -> Iterator[None]:
    """Dropout draws from PyTorch's global generators: seed them for the block, and leave them as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _loop(
    network: EnsembleNetwork,
    loss: Loss,
    people: TrainingData,
    validation: TrainingData,
    settings: Training,
    seed: int,
    events: Events,
    progress: Progress,
) -> list[dict[str, float]]:
    members, steps_per_epoch = network.shape.members, math.ceil(len(people) / settings.batch_size)
    generator = torch.Generator().manual_seed(seed)
    disturbance = Disturbance(settings.mask_rate, settings.input_noise)
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=max(2, settings.epochs * steps_per_epoch), cycle_momentum=False
    )
    best = _BestEpochs(network)
    history: list[dict[str, float]] = []
    events.on_train_begin(settings.epochs, steps_per_epoch)
    for epoch in range(settings.epochs):
        network.train()
        losses, norms, clipped = [], [], []
        progress.phase, progress.epoch = "training", epoch
        for batch in epoch_batches(people, members, settings.batch_size, disturbance, generator):
            optimizer.zero_grad(set_to_none=True)
            member_loss = (batch.weights * loss(network(batch.inputs), batch.targets)).mean(dim=1)
            member_loss.sum().backward()  # members share nothing: the sum's gradient is each member's own
            norm = clip_members(parameters, settings.clip_norm)
            learning_rate = float(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
            losses.append(member_loss.detach())
            norms.append(norm)
            clipped.append((norm > settings.clip_norm).float())
            events.on_step_committed(
                progress.step,
                {
                    "gradient_norm": float(norm.square().sum().sqrt()),
                    "gradient_norm_largest_member": float(norm.max()),
                    "learning_rate": learning_rate,
                },
            )
            progress.step += 1
        progress.phase = "validation"
        validation_loss = evaluate_members(network, loss, validation)
        if not bool(torch.isfinite(validation_loss).all()):
            raise BadInput(f"the validation loss is not finite in epoch {epoch}: lower training.learning_rate")
        best.update(network, validation_loss)
        row = {
            "epoch": float(epoch),
            "train_loss": float(torch.stack(losses).mean()),
            "validation_loss": float(validation_loss.mean()),
            "learning_rate": learning_rate,
            "gradient_norm": float(torch.stack(norms).mean()),
            "clipped_fraction": float(torch.stack(clipped).mean()),
        }
        history.append(row)
        events.on_epoch_end(epoch, row)
        if best.stale_epochs >= settings.patience:
            break
    best.restore(network)
    return history


def clip_members(parameters: list[torch.nn.Parameter], limit: float) -> Tensor:
    """Scale each member's gradient to norm ``limit`` at most; returns the norms before, shape (K,).

    By member and not over all of them, so that a member trains the same in whatever company.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients]).sum(dim=0).sqrt()
    factor = (limit / norm.clamp(min=_NORM_FLOOR)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))
    return norm


@torch.no_grad()
def evaluate_members(network: EnsembleNetwork, loss: Loss, data: TrainingData) -> Tensor:
    """Weighted mean loss of each member on ``data`` with nothing hidden, shape (K,)."""
    network.eval()
    total = torch.zeros(network.shape.members, device=data.targets.device)
    parts = (part.split(EVALUATION_ROWS) for part in (all_inputs(data), data.targets, data.weights))
    for inputs, targets, weights in zip(*parts, strict=True):
        total += (weights * loss(network(inputs.expand(network.shape.members, -1, -1)), targets)).sum(dim=1)
    return total / len(data)


class _BestEpochs:
    """The parameters of every member at its own lowest validation loss."""

    def __init__(self, network: EnsembleNetwork) -> None:
        self.loss = torch.full((network.shape.members,), math.inf, device=next(network.parameters()).device)
        self.parameters = [parameter.detach().clone() for parameter in network.parameters()]
        self.stale_epochs = 0

    def update(self, network: EnsembleNetwork, loss: Tensor) -> None:
        better = loss < self.loss
        self.stale_epochs = 0 if bool(better.any()) else self.stale_epochs + 1
        self.loss = torch.where(better, loss, self.loss)
        for kept, parameter in zip(self.parameters, network.parameters(), strict=True):
            kept[better] = parameter.detach()[better]

    @torch.no_grad()
    def restore(self, network: EnsembleNetwork) -> None:
        for kept, parameter in zip(self.parameters, network.parameters(), strict=True):
            parameter.copy_(kept)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out (reliability promise 1); everything else is somebody else's error."""
    text = str(error).lower()
    told = ("out of memory", "can't allocate memory", "status_alloc_failed", "allocation_failed")  # CPU, cuBLAS, cuDNN
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in told)
    )
