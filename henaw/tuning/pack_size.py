"""How many trials at once pay on this device: never more than what is faster than one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from henaw.config import Config
from henaw.data.panel import Panel
from henaw.training.device import choose_device
from henaw.training.failures import MemoryExhausted, is_out_of_memory
from henaw.training.fit import fit_clock, fit_pack
from henaw.training.speed import settled
from henaw.training.telemetry import Events
from henaw.tuning.objective import StudyPeople

logger = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16, 32)
_BATCHES, _EPOCHS = 8, 3  # of the measurement; the first epoch is not counted
_LEAST_GAIN = 1.05  # over the next smaller size

Measure = Callable[[int], float]
"""From a number of trials at once to the seconds that an epoch takes for each of them."""


def pack_size(config: Config, panel: Panel, people: StudyPeople) -> int:
    """How many trials this worker carries out at once: ``study.pack``, or what is fastest here.

    On a CPU that is one: its cores are busy with a single ensemble, and packs without dropout have been .6 to 1.0 times
    as fast (docs/benchmarks.md). On a GPU a few steps of the settings as they are tell. The memory of a trial cannot be
    told from that of its pack, so where it is a constraint it is one, too.
    """
    study = config.study
    if study.memory_mib is not None:
        return 1
    if study.pack != "auto":
        return study.pack
    if choose_device(config.training).type == "cpu":
        return 1
    return fastest(lambda size: seconds_an_epoch(config, panel, people, size))


def fastest(measure: Measure, sizes: Iterable[int] = SIZES) -> int:
    """The largest of ``sizes`` (ascending) up to which each is faster than the one before; 1 where none is."""
    best, seconds = 1, float("inf")
    for size in sizes:
        try:
            now = measure(size)
        except (RuntimeError, MemoryExhausted) as error:
            if not (isinstance(error, MemoryExhausted) or is_out_of_memory(error)):
                raise
            break
        logger.info("%d trials at once: %.3f s an epoch for each", size, now)
        if now * _LEAST_GAIN > seconds:
            break
        best, seconds = size, now
    return best


def seconds_an_epoch(config: Config, panel: Panel, people: StudyPeople, size: int) -> float:
    """Seconds that each of ``size`` clocks takes for an epoch of a few batches, trained at once with these settings."""
    short = {"epochs": _EPOCHS, "patience": _EPOCHS}
    training = settled(config, len(people.train)).training.model_copy(update=short)
    quick = config.model_copy(update={"training": training})
    some = people.train.head(_BATCHES * training.people_in_batch)
    few = people.calibration.head(training.people_in_batch)
    clock = _Clock()
    if size == 1:  # which is recorded on a GPU, as a pack is not
        fit_clock(some, few, panel, quick, clock)
    else:
        for _, fitted in fit_pack(some, few, panel, [quick] * size, [Events()] * (size - 1) + [clock]):
            if isinstance(fitted, Exception):
                raise fitted
    return (clock.times[-1] - clock.times[0]) / (len(clock.times) - 1) / size


class _Clock(Events):
    """Notes when each epoch ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self.times.append(time.perf_counter())
