"""The batches of a training, epoch by epoch, from the first or any other on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from henaw.settings import Training
from henaw.training.batches import Disturbance, LogicalBatch, TrainingData, epoch_batches, ordered
from henaw.training.microbatch import Halving, Place
from henaw.training.state import Progress
from henaw.training.telemetry import Events


class Epochs:
    """Batches of ``people``, who need not be all of whom ``ages`` (n,) are: an order is one of everybody.

    Attributes:
        steps: batches of an epoch.
    """

    def __init__(
        self, people: TrainingData, ages: Tensor, members: int, settings: Training, seed: int, events: Events
    ) -> None:
        """Draw them for ``members``; ``settings`` without ``auto``."""
        self._people, self._size, self._seed = people, settings.people_in_batch, seed
        self._order = ordered(ages, members, self._size, settings.age_groups, seed)
        self._at_once, self._members = Halving(members, events), members
        self._disturbance = Disturbance(settings.mask_rate, settings.input_noise)
        self.steps = math.ceil(len(ages) / self._size)

    def left(self, progress: Progress, release: Callable[[], object]) -> Iterator[LogicalBatch]:
        """What is left of the epoch that ``progress`` is in; ``release`` gives memory back where an order needs it.

        Raises:
            MemoryExhausted: the order of a single member is too much.
        """
        place = Place("order", progress.epoch, progress.step)
        order = self._at_once.do(self._members, partial(self._order, progress.epoch), release, place)
        drawn_for = order, self._size, self._disturbance, self._seed
        return epoch_batches(self._people, *drawn_for, progress.epoch, progress.batch)
