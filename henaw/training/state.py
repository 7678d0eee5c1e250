"""Everything a training run is made of besides its people: what a checkpoint holds and a resumed run starts from."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from henaw.data.files import digest_values
from henaw.model.network import EnsembleNetwork
from henaw.settings import Training
from henaw.training.batches import PARTS, TrainingData
from henaw.training.checkpoint import Contents
from henaw.training.clipping import StepFigures
from henaw.training.history import PlainRow, Row, plain
from henaw.training.schedule import one_cycle
from henaw.training.share import ALONE, Share

EVALUATION_ROWS = 4096  # bounds the memory of a validation pass
ARITHMETIC = 2  # to be raised with each change after which an old run would go on with other last digits, or figures
FREE_SETTINGS = {
    "device",
    "threads",
    "processes",
    "split",
    "checkpoint_every",
    "checkpoints_kept",
}  # may differ in a run that goes on


@dataclass
class Progress:
    """How far training is, in plain JSON.

    Attributes:
        epoch: the one in hand, from 0.
        batch: of that epoch, the next.
        step: committed steps over all epochs.
        learning_rate: of the latest step.
        stale_epochs: epochs since a member got better.
        skipped: steps skipped in the epoch.
        skipped_in_a_row: steps skipped since the last that was committed.
        micro_batch: rows of each member that fit into memory at once in training.
        evaluation_rows: the same in validation.
        sums: of what the epoch's history row averages, over its committed steps.
        last_row: history row of the epoch before, empty in the first.
    """

    micro_batch: int
    evaluation_rows: int = EVALUATION_ROWS
    epoch: int = 0
    batch: int = 0
    step: int = 0
    learning_rate: float = 0.0
    stale_epochs: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    last_row: PlainRow = field(default_factory=dict)

    def add(self, figures: StepFigures) -> None:
        """Count a committed step, the next batch being at hand."""
        members = len(figures.norms)
        for name, value in {
            "steps": 1.0,
            "train_loss": sum(figures.losses) / members,
            **{f"train_loss_{part}": loss for part, loss in figures.parts.items()},
            "gradient_norm": sum(figures.norms) / members,
            "gradient_norm_clipped": sum(min(norm, figures.limit) for norm in figures.norms) / members,
            "clipped_fraction": figures.clipped_fraction,
            **figures.by_layer,
        }.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.step, self.batch, self.skipped_in_a_row = self.step + 1, self.batch + 1, 0

    def skip(self) -> None:
        """Count a batch without a step."""
        self.batch, self.skipped, self.skipped_in_a_row = self.batch + 1, self.skipped + 1, self.skipped_in_a_row + 1

    def end_epoch(self, validation_loss: float) -> Row:
        """The epoch's history row; the next epoch begins."""
        sums = dict(self.sums)
        steps = sums.pop("steps", 0.0)
        means = {name: value / steps for name, value in sums.items()}
        nothing = dict.fromkeys(("train_loss", "gradient_norm", "clipped_fraction"), math.nan)
        row = {
            "epoch": float(self.epoch),
            "validation_loss": validation_loss,
            "learning_rate": self.learning_rate,
            **nothing,
            **means,
            "skipped_steps": float(self.skipped),
            "micro_batch": float(self.micro_batch),
        }
        self.epoch, self.batch, self.skipped, self.sums = self.epoch + 1, 0, 0, {}
        self.last_row = plain(row)
        return row


class TrainingState:
    """The network, its optimizer, the best epoch of each member, and how far training is."""

    def __init__(self, network: EnsembleNetwork, settings: Training, steps: int, share: Share = ALONE) -> None:
        """The state before the first of ``steps`` steps; ``network`` has the members that are this process's share."""
        self._own, self._epochs, self._patience = share.own, settings.epochs, settings.patience
        self._peak, self._steps = settings.learning_rate, max(2, steps)
        self.names, self.parameters = (list(part) for part in zip(*network.named_parameters(), strict=True))
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        for parameter in self.parameters:  # AdamW would make its state in its first step; a checkpoint needs it before
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        members = share.members(network.shape.members)
        self.best = [parameter.detach().clone() for parameter in self.parameters]
        self.best_loss = self.parameters[0].new_full((members,), math.inf, requires_grad=False)
        self.progress = Progress(micro_batch=settings.people_in_batch)

    @property
    def over(self) -> bool:
        """Whether no epoch is left, or no member has got better for so long."""
        return self.progress.epoch >= self._epochs or self.progress.stale_epochs >= self._patience

    def set_learning_rate(self) -> float:
        """The learning rate of the next step, which the optimizer has after this."""
        rate = one_cycle(self.progress.step, self._steps, self._peak)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.progress.learning_rate = rate
        return rate

    @torch.no_grad()
    def keep_best(self, loss: Tensor) -> None:
        """Keep the parameters of the members whose validation ``loss`` (K,) is their lowest so far.

        The losses are of the whole ensemble, so that every process knows whether anybody got better.
        """
        better = loss < self.best_loss
        self.progress.stale_epochs = 0 if bool(better.any()) else self.progress.stale_epochs + 1
        self.best_loss = torch.where(better, loss, self.best_loss)
        better = better[self._own]
        for kept, parameter in zip(self.best, self.parameters, strict=True):
            kept[better] = parameter[better]

    @torch.no_grad()
    def restore_best(self) -> None:
        """Leave every member at its best epoch, and nothing of what training took besides."""
        for kept, parameter in zip(self.best, self.parameters, strict=True):
            parameter.data, parameter.grad = kept, None

    def contents(self) -> Contents:
        """What a checkpoint holds: the live tensors, not copies."""
        model: dict[str, Tensor] = {"best_loss": self.best_loss}
        optimizer: dict[str, Tensor] = {}
        for name, parameter, kept in zip(self.names, self.parameters, self.best, strict=True):
            model |= {name: parameter.detach(), f"best.{name}": kept}
            optimizer |= {f"{name}.{part}": values for part, values in self.optimizer.state[parameter].items()}
        return Contents({"model": model, "optimizer": optimizer}, asdict(self.progress))

    @torch.no_grad()
    def assign(self, contents: Contents) -> None:
        """Become what ``contents``, of the same form, says."""
        live = self.contents().tensors
        for file, tensors in contents.tensors.items():
            for name, values in tensors.items():
                live[file][name].copy_(values)
        self.progress = Progress(**contents.state)


def fingerprint(
    network: EnsembleNetwork, settings: Training, seed: int, people: TrainingData, validation: TrainingData
) -> dict[str, Any]:
    """What must be the same for a run to go on bitwise as if it had never been stopped, in dotted fields.

    ``settings`` are those without ``auto``; whether a GPU's steps are recorded changes nothing of the result.
    """
    same = {"compiled": "never"} if settings.compiled == "graphs" else {}
    described = {
        "network": asdict(network.shape) | {"dropout": network.dropout},
        "training": settings.model_dump(exclude=FREE_SETTINGS) | same,
        "seed": seed,
        "arithmetic": ARITHMETIC,
        "data": {"people": _digest(people), "validation": _digest(validation)},
    }
    return dict(_dotted(json.loads(json.dumps(described))))


def _dotted(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        pairs += _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return pairs


def _digest(data: TrainingData) -> str:
    """BLAKE2b of all that the tensors hold."""
    parts = {
        name: hashlib.blake2b(getattr(data, name).cpu().contiguous().numpy(), digest_size=32).hexdigest()
        for name in PARTS
    }
    return digest_values(parts)
