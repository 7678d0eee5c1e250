"""Checkpoints of a training that several processes share: whole ones, as if one process had written them.

Rank 0 reads and writes; the others hand it their members and are handed them. A run may thus go on with any number of
processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from henaw.settings import Training
from henaw.training.checkpoint import Contents, Fingerprint
from henaw.training.checkpoints import Checkpoints
from henaw.training.history import History
from henaw.training.ranks import Ranks

_SMALLEST = ("micro_batch", "evaluation_rows")  # what fitted into the memory of each process fits into all
Parts = list[slice]


def _of_members(name: str, values: Tensor) -> bool:
    """Whether each process has its own members of it; the lowest losses are of all members in every process."""
    return name != "best_loss" and values.dim() > 0


def _each(contents: Contents, change: Callable[[str, Tensor], Tensor]) -> dict[str, dict[str, Tensor]]:
    return {
        file: {name: change(name, values) for name, values in tensors.items()}
        for file, tensors in contents.tensors.items()
    }


class GatheringCheckpoints(Checkpoints):
    """For rank 0: what is on the disk is of the whole ensemble."""

    def __init__(
        self, kept: Checkpoints, settings: Training, ranks: Ranks, parts: Parts, fingerprint: Fingerprint
    ) -> None:
        """Keep where ``kept`` does what belongs to ``fingerprint``; ``parts`` are each rank's members."""
        super().__init__(kept.folder, settings)
        self._lock = kept._lock
        self._ranks, self._parts, self._fingerprint = ranks, parts, fingerprint

    def save(self, epoch: int, batch: int, contents: Contents, fingerprint: Fingerprint) -> None:
        """Gather, and save as ``Checkpoints.save``."""
        tensors = _each(contents, self._gathered)
        sizes = torch.stack(self._ranks.numbers(_sizes(contents))).amin(dim=0).tolist()
        state = contents.state | dict(zip(_SMALLEST, sizes, strict=True))
        super().save(epoch, batch, Contents(tensors, state), self._fingerprint)

    def newest(self, expected: Contents, fingerprint: Fingerprint) -> Contents | None:
        """Read as ``Checkpoints.newest``, and hand each process its part."""
        members = self._parts[-1].stop

        def whole(name: str, values: Tensor) -> Tensor:
            return values.new_empty(members, *values.shape[1:]) if _of_members(name, values) else values

        found = super().newest(Contents(_each(expected, whole), expected.state), self._fingerprint)
        self._ranks.tell({"state": found and found.state})
        if found is None:
            return None
        mine, *others = self._parts
        for rank, part in enumerate(others, 1):
            for file, tensors in expected.tensors.items():  # in the order in which they are waited for
                for name in tensors:
                    values = found.tensors[file][name]
                    self._ranks.send(values[part] if _of_members(name, values) else values, rank)
        return Contents(_each(found, lambda name, it: it[mine] if _of_members(name, it) else it), found.state)

    def _gathered(self, name: str, values: Tensor) -> Tensor:
        if not _of_members(name, values) or self._parts[0] == self._parts[-1]:  # everyone has them all
            return values
        found = [values.cpu()]
        for rank, part in enumerate(self._parts[1:], 1):
            form = torch.empty(part.stop - part.start, *values.shape[1:], dtype=values.dtype)
            found.append(self._ranks.receive(form, rank))
        return torch.cat(found)


class DistantCheckpoints(Checkpoints):
    """For the other ranks: rank 0 keeps them."""

    def __init__(self, settings: Training, ranks: Ranks, parts: Parts) -> None:
        """Hand rank 0 what it gathers."""
        self._ranks, self._parts = ranks, parts

    def history(self) -> History:
        """In memory alone."""
        return History(None)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Rank 0 holds the folder."""
        yield

    def save(self, epoch: int, batch: int, contents: Contents, fingerprint: Fingerprint) -> None:
        """Hand over this process's members."""
        if self._parts[0] != self._parts[-1]:
            for tensors in contents.tensors.values():
                for name, values in tensors.items():
                    if _of_members(name, values):
                        self._ranks.send(values.cpu(), 0)
        self._ranks.numbers(_sizes(contents))

    def newest(self, expected: Contents, fingerprint: Fingerprint) -> Contents | None:
        """What rank 0 hands over."""
        state = self._ranks.listen()["state"]
        if state is None:
            return None
        return Contents(_each(expected, lambda _, values: self._ranks.receive(values.cpu(), 0)), state)


def _sizes(contents: Contents) -> Tensor:
    return torch.tensor([contents.state[name] for name in _SMALLEST])
