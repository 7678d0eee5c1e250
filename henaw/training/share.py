"""What one process does of a training: all of it, unless it is one of several (``together``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from henaw.model.losses import AGE
from henaw.training.batches import LogicalBatch, TrainingData
from henaw.training.interruption import Interruption


class Share:
    """All of it. Several processes override what they have to settle with each other.

    Attributes:
        own: which of the ensemble's members are this process's.
        sums_gradients: whether a batch's gradients are summed over processes before they are clipped.
    """

    own: slice = slice(None)
    sums_gradients = False

    def members(self, here: int) -> int:
        """Members of the whole ensemble, of which ``here`` are this process's."""
        return here

    def ages(self, people: TrainingData) -> Tensor:
        """Ages of all who are trained on, (n,); ``people`` are this process's."""
        return people.targets[:, AGE]

    def batches(self, batches: Iterator[LogicalBatch]) -> Iterable[LogicalBatch]:
        """What this process does of each batch."""
        return batches

    def summed(self, losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Losses (parts, K) of a batch from those of this process's people; so for the gradients of ``parameters``."""
        return losses

    def of_everyone(self, found: Tensor) -> Tensor:
        """Figures (any, K) of all members from those of this process's."""
        return found

    def validated(self, losses: Tensor, people: int) -> Tensor:
        """Validation losses of all members on all people, (K,), from this process's members on its ``people``."""
        return losses

    def agreed(self, stop: Interruption) -> Interruption:
        """Whether training is to stop, in the same place in every process; ``stop`` is this one's signal."""
        return stop


ALONE = Share()
