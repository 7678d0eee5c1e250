"""How long training takes to reach a validation CRPS: HENAW, the loop over members, scikit-learn and NGBoost."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from bars import Bar, Section, Watch, stopwatch, table
from boosted import ngboost_gaussian
from epoch_speed import HIDDEN, Size
from mlp_regressors import fit_regressors
from nhanes_training import CPU, Course, Task, split_a
from training_rivals import BY_ITSELF, ONE_LOSS, Chosen, MemberLoop, plain_crps

from henaw.config import load_config
from henaw.training.batches import ordered
from henaw.training.trainer import train

Clock = Callable[[], float]
MEMBERS = 16
TARGET = 7.43  # years, on the validation people; trainings ten times as long end at 7.37 to 7.39
BAR = 4.0
PLAIN = "training.mask_rate=0 training.input_noise=0"


@dataclass(frozen=True)
class Recipe:
    """Batch size, peak of the learning rate, and the epochs over which it has its cycle."""

    batch_size: int
    learning_rate: float
    epochs: int

    def __str__(self) -> str:
        return f"batch {self.batch_size:,}, rate {self.learning_rate}, {self.epochs} epochs"

    @property
    def overrides(self) -> str:
        """As settings."""
        return (
            f"training.batch_size={self.batch_size} training.learning_rate={self.learning_rate} "
            f"training.epochs={self.epochs} training.patience={self.epochs}"
        )


# Those that were first to reach the target, of batches of 128 to 1,024, rates of .005 to .04 and 3 to 12 epochs.
RECIPES = (
    Recipe(128, 0.015, 3),
    Recipe(256, 0.04, 3),
    Recipe(512, 0.04, 4),
    Recipe(512, 0.04, 6),
    Recipe(1024, 0.04, 5),
)


@dataclass(frozen=True)
class Reached:
    """A training: seconds until the target (None: not reached), seconds in all, and the CRPS at its end."""

    target: float | None
    whole: float
    crps: float


def our_training(task: Task, recipe: Recipe, clock: Clock, overrides: str = "", target: float = TARGET) -> Reached:
    """Train with `train()`; the validation at the end of each epoch, by which it keeps its best one, is part of it."""
    config = load_config(overrides=f"{recipe.overrides} {overrides}")
    network, inputs = task.network(config, HIDDEN), task.validation.inputs(slice(None))

    @torch.no_grad()
    def crps() -> float:
        network.eval()
        return task.crps(network(inputs.expand(network.shape.members, -1, -1)))

    course = Course(crps, clock)
    train(network, task.loss, task.people, task.validation, config.training, config.seed, course)
    return _reached(course, target)


def loop_training(task: Task, recipe: Recipe, clock: Clock, manner: str) -> Reached:
    """Train with the loop over members, undisturbed; it validates nothing within its time."""
    config = load_config(overrides=recipe.overrides)
    network, inputs = task.network(config, HIDDEN), task.validation.inputs(slice(None))
    steps = recipe.epochs * -(-len(task.people) // recipe.batch_size)
    chosen = Chosen(recipe.batch_size, steps, recipe.learning_rate, config.training.weight_decay)
    loop = MemberLoop(network, plain_crps(task.head, CPU), task.people, chosen, manner)
    orders = ordered(task.people.targets[:, 0], network.shape.members, recipe.batch_size, "proportional", 0)
    drawn = [orders(epoch) for epoch in range(recipe.epochs)]
    course = Course(lambda: task.crps(loop.outputs(inputs)), clock)
    course.on_train_begin(recipe.epochs, steps)
    for epoch, order in enumerate(drawn):
        loop.epoch(order)
        course.on_epoch_end(epoch, {})
    return _reached(course, TARGET)


def _reached(course: Course, target: float) -> Reached:
    pairs = zip(course.seconds, course.crps, strict=True)
    first = next((seconds for seconds, crps in pairs if crps <= target), None)
    return Reached(first, course.seconds[-1], course.crps[-1])


def freely_chosen(task: Task, repeats: int, size: Size) -> tuple[Section, Recipe]:
    """Each side at its best: everyone goes through every recipe, in turns; the fastest medians are compared."""
    sides: dict[str, Callable[[Recipe], Reached]] = {
        "HENAW": lambda recipe: our_training(task, recipe, size.clock),
        "HENAW, without masks and noise": lambda recipe: our_training(task, recipe, size.clock, PLAIN),
        f"loop, {BY_ITSELF}": lambda recipe: loop_training(task, recipe, size.clock, BY_ITSELF),
        f"loop, {ONE_LOSS}": lambda recipe: loop_training(task, recipe, size.clock, ONE_LOSS),
    }
    found: dict[tuple[str, Recipe], list[Reached]] = {}
    torch.set_num_threads(size.threads)
    for _ in range(repeats):
        for recipe in RECIPES:
            for name, run in sides.items():
                found.setdefault((name, recipe), []).append(run(recipe))
    times = {
        key: statistics.median([run.target for run in runs if run.target is not None])
        for key, runs in found.items()
        if all(run.target is not None for run in runs)
    }
    section, best, rows = Section(), {}, []
    for name in sides:
        reached = {recipe: seconds for (side, recipe), seconds in times.items() if side == name}
        if not reached:
            rows.append([name, "none reached it", "", "", ""])
            continue
        recipe = best[name] = min(reached, key=lambda each: reached[each])
        others = "; ".join(f"{one.batch_size:,}: {seconds:.2f}" for one, seconds in reached.items() if one != recipe)
        crps = statistics.median(run.crps for run in found[name, recipe])
        rows.append([name, str(recipe), f"{reached[recipe]:.2f}", f"{crps:.3f}", others])
    section.add(f"### Batch and learning rate chosen freely: seconds until a validation CRPS of {TARGET} years")
    section.add(table(["", "its best", "s", "CRPS at the end", "batch: s of the other recipes that reached it"], rows))
    ours = min((name for name in best if name.startswith("HENAW")), key=lambda name: times[name, best[name]])
    for name in (name for name in best if name.startswith("loop")):
        pairs = zip(found[name, best[name]], found[ours, best[ours]], strict=True)
        ratio = statistics.median(_quotient(one.target, other.target) for one, other in pairs)
        what = f"to the same CRPS, batch and rate free: {name}"
        section.bars.append(Bar(what, f"{ratio:.2f} × as fast", f"≥ {BAR} ×", ratio >= BAR))
    return section, best.get("HENAW", RECIPES[2])


def _quotient(theirs: float | None, ours: float | None) -> float:
    assert theirs is not None
    assert ours is not None
    return theirs / ours


def whole_trainings(task: Task, recipe: Recipe, repeats: int, size: Size) -> Section:
    """A whole training of HENAW against scikit-learn's networks and NGBoost: seconds and CRPS."""
    ours, mlp, ngboost, spreads = [], [], [], {}
    torch.set_num_threads(size.threads)
    train_sample, validation = task.sample, task.validation_sample
    for number in range(repeats):
        ours.append(our_training(task, recipe, size.clock))
        with stopwatch() as watch:
            models = fit_regressors(train_sample, validation, HIDDEN, MEMBERS, size.threads, seed=number * MEMBERS)
        spreads = {name: task.crps_of(model(validation.x)) for name, model in models.items()}
        mlp.append((watch, min(spreads.values())))
        with stopwatch() as watch:
            model = ngboost_gaussian(train_sample, validation, number)
        ngboost.append((watch, task.crps_of(model(validation.x))))
    section = Section()
    crps = statistics.median(each.crps for each in ours)
    seconds = statistics.median(each.whole for each in ours)
    rows = [["HENAW, 16 members", f"{seconds:.2f}", "", f"{crps:.3f}", ""]]
    rivals = {"16 `MLPRegressor`s": mlp, "NGBoost": ngboost}
    for name, runs in rivals.items():
        theirs = statistics.median(score for _, score in runs)
        ratio = statistics.median(_spent(watch, size) / mine.whole for (watch, _), mine in zip(runs, ours, strict=True))
        same = statistics.median(
            _spent(watch, size) / _seconds_to(task, recipe, size.clock, score) for watch, score in runs
        )
        wall = statistics.median(_spent(watch, size) for watch, _ in runs)
        rows.append([name, f"{wall:.2f}", f"{ratio:.1f} ×", f"{theirs:.3f}", f"{same:.1f} ×"])
        figure = f"{same:.1f} × as fast to their CRPS, {ratio:.1f} × in all; CRPS {crps:.3f} against {theirs:.3f}"
        met = same > 1 and ratio > 1 and crps < theirs
        section.bars.append(Bar(f"whole training: {name}", figure, "faster, CRPS lower", met))
    section.add(f"### Whole trainings on split A ({recipe})")
    columns = ["", "s", "HENAW's whole training is", "validation CRPS", "HENAW to that CRPS is"]
    section.add(table(columns, rows))
    return section


def _spent(watch: Watch, size: Size) -> float:
    return watch.cpu if size.shared else watch.wall


def _seconds_to(task: Task, recipe: Recipe, clock: Clock, crps: float) -> float:
    reached = our_training(task, recipe, clock, target=crps)
    return reached.whole if reached.target is None else reached.target


def crps_sections(data: Path, repeats: int, size: Size) -> list[Section]:
    """Both parts."""
    task = split_a(data)
    free, recipe = freely_chosen(task, repeats, size)
    return [free, whole_trainings(task, recipe, repeats, size)]
