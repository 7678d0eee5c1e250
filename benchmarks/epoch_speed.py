"""How long an epoch takes: `train()` with all that it promises, beside what people would write or install instead."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from bars import Bar, Section, table
from made_up_people import network, people
from rival_processes import LoopInProcesses
from training_rivals import (
    BY_ITSELF,
    MANNERS,
    ONE_LOSS,
    Chosen,
    MemberLoop,
    TabMEnsemble,
    bare_products,
    plain_crps,
    product_operations,
    seconds_of,
)

from henaw.config import Config, load_config
from henaw.model.losses import crps_loss
from henaw.training.batches import TrainingData, ordered
from henaw.training.telemetry import Events
from henaw.training.trainer import train

HIDDEN = (64, 64)
CPU = torch.device("cpu")
VALIDATED = 128  # people of a validation pass, which the others do not have
LOOP, TABM = "loop, {}", "TabM"
SAME_WORK, PROCESSES = ", with masks, noise and clipping", ", in {} processes"
OUR_LOSS = ", with HENAW's loss function"
HEADLINE = (LOOP.format(BY_ITSELF), LOOP.format(ONE_LOSS), TABM)  # all are in the table, these among the bars
LOOP_BARS, TABM_BARS = {128: 4.2, 512: 2.2}, {128: 1.2, 512: 1.0}

Epoch = Callable[[], object]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        people: of the small epoch.
        many: of the large one.
        rounds: in which everyone has an epoch.
        threads: cores that may be used.
        shared: the machine is shared: CPU seconds of this process, on one thread, tell more than the clock.
    """

    people: int = 25_000
    many: int = 502_000
    rounds: int = 4
    threads: int = 2
    shared: bool = False

    @property
    def clock(self) -> Callable[[], float]:
        """What tells the seconds."""
        return time.process_time if self.shared else time.perf_counter


class EpochTime(Events):
    """Seconds from the end of the epoch before to that of the last one: nothing stands outside."""

    seconds = 0.0

    def __init__(self, clock: Callable[[], float]) -> None:
        """Read ``clock``."""
        self.clock = clock

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Everything is set up."""
        self.began = self.clock()

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """The epoch is over, with its validation."""
        self.seconds, self.began = self.clock() - self.began, self.clock()


def our_epoch(config: Config, data: TrainingData, clock: Callable[[], float]) -> float:
    """Seconds of the second epoch of a training: order, batches, steps as transactions, events, validation."""
    made, epoch = network(config, CPU, HIDDEN), EpochTime(clock)
    loss, validation = crps_loss(made.shape.head, CPU), people(VALIDATED, 1, CPU)
    train(made, loss, data, validation, config.training, 0, epoch)
    return epoch.seconds


def settings(batch_size: int, *more: str) -> Config:
    """The default settings, for two epochs of these batches: the first warms up, as the others' first does."""
    return load_config(overrides=" ".join(["training.epochs=2", f"training.batch_size={batch_size}", *more]))


def epoch_section(size: Size, batch_size: int) -> Section:
    """Every contestant's epoch at ``batch_size``, in rounds, and the ratios to ours."""
    config, data = settings(batch_size), people(size.people, 0, CPU)
    plain = settings(batch_size, "training.mask_rate=0", "training.input_noise=0")
    made = network(config, CPU, HIDDEN)
    order = ordered(data.targets[:, 0], made.shape.members, batch_size, "proportional", 0)(0)
    steps = -(-size.people // batch_size)
    training = config.training
    chosen = Chosen(batch_size, 1_000 * steps, training.learning_rate, training.weight_decay)
    disturbed = Chosen(batch_size, 1_000 * steps, training.learning_rate, training.weight_decay, training)
    loss, ours_too = plain_crps(made.shape.head, CPU), crps_loss(made.shape.head, CPU)
    rivals: dict[str, Epoch] = {}
    for manner in MANNERS:
        rivals[LOOP.format(manner)] = _bound(MemberLoop(made, loss, data, chosen, manner), order)
    for manner in (BY_ITSELF, ONE_LOSS):
        with_all = MemberLoop(made, loss, data, disturbed, manner)
        rivals[LOOP.format(manner) + SAME_WORK] = _bound(with_all, order)
    rivals[LOOP.format(ONE_LOSS) + OUR_LOSS] = _bound(MemberLoop(made, ours_too, data, chosen, ONE_LOSS), order)
    rivals[TABM] = _bound(TabMEnsemble(made, loss, data, chosen), order[0])
    rivals[TABM + OUR_LOSS] = _bound(TabMEnsemble(made, ours_too, data, chosen), order[0])
    in_processes = None if size.shared else LoopInProcesses(size.people, HIDDEN, chosen, order, size.threads)
    if in_processes is not None:
        rivals[LOOP.format(ONE_LOSS) + PROCESSES.format(size.threads)] = in_processes.epoch
    widths = (made.shape.inputs, *HIDDEN, made.shape.head.outputs)
    step = bare_products(widths, made.shape.members, batch_size)
    ours: list[list[float]] = []
    theirs: dict[str, list[float]] = {name: [] for name in rivals}
    products: list[float] = []
    try:
        threads = {name: _best_threads(run, size.threads) for name, run in rivals.items()}
        for _ in range(size.rounds):
            torch.set_num_threads(size.threads)
            ours.append([our_epoch(each, data, size.clock) for each in (config, plain)])
            products.append(steps * seconds_of(step, size.clock))
            for name, run in rivals.items():
                torch.set_num_threads(threads[name])
                theirs[name].append(_seconds(run, size.clock))
    finally:
        if in_processes is not None:
            in_processes.close()
        torch.set_num_threads(size.threads)
    rate = steps * product_operations(widths, made.shape.members, batch_size) / statistics.median(products)
    return _judged(batch_size, size, ours, theirs, threads, products, rate)


def _judged(
    batch_size: int,
    size: Size,
    ours: list[list[float]],
    theirs: dict[str, list[float]],
    threads: dict[str, int],
    products: list[float],
    rate: float,
) -> Section:
    section = Section()
    full, plain = (list(column) for column in zip(*ours, strict=True))
    fraction = statistics.median(product / mine for product, mine in zip(products, full, strict=True))
    rows = [
        ["HENAW, `train()`", str(size.threads), f"{statistics.median(full):.3f}", "", "", "", f"{fraction:.0%}"],
        ["HENAW, without masks and noise", str(size.threads), f"{statistics.median(plain):.3f}", "", "", "", ""],
    ]
    for name, seconds in theirs.items():
        ratio, bare = (_ratio(seconds, mine) for mine in (full, plain))
        bar = (TABM_BARS if name.startswith(TABM) else LOOP_BARS)[batch_size]
        reached = statistics.median(product / each for product, each in zip(products, seconds, strict=True))
        figures = [f"{statistics.median(seconds):.3f}", f"{ratio:.2f} ×", f"{bare:.2f} ×"]
        verdict = f"{'met' if ratio >= bar else '**missed**'} (≥ {bar})"
        used = str(threads[name]) if "processes" not in name else f"{size.threads} × 1"
        rows.append([name, used, *figures, verdict, f"{reached:.0%}"])
        if name in HEADLINE:
            what = f"epoch, batch {batch_size}: {name}"
            section.bars.append(Bar(what, f"{ratio:.2f} × as fast", f"≥ {bar} ×", ratio >= bar))
    section.add(f"### One epoch of {size.people:,} people, batches of {batch_size}")
    columns = [
        "",
        "threads",
        "CPU s an epoch" if size.shared else "s an epoch",
        "HENAW is",
        "without masks and noise",
        "bar",
        "of the matrix rate",
    ]
    section.add(table(columns, rows))
    section.add(
        f"The bare batched products of these shapes take {statistics.median(products):.3f} s an epoch "
        f"({rate / 1e9:.0f} GFLOP/s on {size.threads} cores)."
    )
    return section


def growth_section(size: Size, batch_size: int = 512, rounds: int = 3) -> Section:
    """Cost per person of an epoch of many people against one of few."""
    config = settings(batch_size)
    few, many = (people(count, 0, CPU) for count in (size.people, size.many))
    torch.set_num_threads(size.threads)
    our_epoch(config, few, size.clock)
    found = []
    for _ in range(rounds):
        small = statistics.median(our_epoch(config, few, size.clock) for _ in range(3)) / size.people
        found.append((our_epoch(config, many, size.clock) / size.many, small))
    ratio = statistics.median(large / small for large, small in found)
    large, small = (1e6 * statistics.median(column) for column in zip(*found, strict=True))
    section = Section()
    what = f"epoch, {size.many:,} people against {size.people:,}, batch {batch_size}"
    figure = f"{ratio:.2f} × the cost of a person ({large:.1f} and {small:.1f} µs)"
    section.bars.append(Bar(what, figure, "≤ 1.00 ×", round(ratio, 2) <= 1.0))
    return section


def _bound(rival: MemberLoop | TabMEnsemble, order: torch.Tensor) -> Epoch:
    return lambda: rival.epoch(order)


def _seconds(run: Epoch, clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    run()
    return clock() - began


def _best_threads(run: Epoch, most: int) -> int:
    """The number of threads with which an epoch is fastest: of small operations, more only wait for each other."""
    found = {}
    for threads in {1, most}:
        torch.set_num_threads(threads)
        _seconds(run)
        found[threads] = _seconds(run)
    return min(found, key=lambda each: found[each])


def _ratio(theirs: list[float], ours: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(theirs, ours, strict=True))
