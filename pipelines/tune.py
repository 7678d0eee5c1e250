"""Stage tune: search settings on the training side of a cohort → best.yaml, a profile of what was found."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from henaw.config import Config, asset_folder, load_config
from henaw.console import ProgressLine, run_stage
from henaw.data.cache import cache_folder, cache_key, load
from henaw.data.files import private_folder, write_atomically
from henaw.data.panel import load_panel
from henaw.registry.stores import require_tracking
from henaw.registry.trial_runs import study_run
from henaw.training.speed import settled
from henaw.training.telemetry import Events
from henaw.tuning import plots
from henaw.tuning.gain import measure_gain
from henaw.tuning.naming import study_name
from henaw.tuning.objective import objective_name, study_people
from henaw.tuning.pack_size import pack_size
from henaw.tuning.space import apply, load_space, values_of
from henaw.tuning.storage import open_storage
from henaw.tuning.study import best_trial, choose_pruner, open_study, run_study
from henaw.tuning.summary import profile, summarize, told, trials_table
from henaw.tuning.trials import ClockTrials
from henaw.validation.clean import clean, judge


class _Shown(Events):
    """Shows a trial's epochs on the progress line."""

    def __init__(self, progress: ProgressLine) -> None:
        self._progress, self._epochs = progress, 1

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self._epochs = epochs

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self._progress.update((epoch + 1) / self._epochs, f"epoch {epoch + 1}/{self._epochs}")


def run(config: Config, extends: str = "default") -> str:
    """Search; the result goes to the study's run and to a local file. Returns what a person reads at the end."""
    require_tracking()
    panel = load_panel(config.panel, asset_folder("mlproject") / "panels")
    space, objective = load_space(config), objective_name(config)
    name = study_name(config, panel, space, objective)
    folder = private_folder(private_folder(Path(config.state.folder)) / "studies")
    kept = load(cache_folder(config), cache_key(config, panel))
    table = clean(judge(config, panel), config, panel)[0] if kept is None else kept.table
    people = study_people(table, config)
    storage = open_storage(config.study.storage, folder, name, config.study.heartbeat_seconds)
    study = open_study(storage, name, choose_pruner(config.study.pruner, config.training.epochs))
    progress = ProgressLine()
    shown = _Shown(progress)
    with study_run(config, study, storage.alone()) as runs, progress.stage("tune"):
        carried_out = ClockTrials(space, config, panel, people, runs, shown, pack_size(config, panel, people))
        run_study(
            study,
            storage,
            carried_out.work,
            trials=config.study.trials,
            seed=config.seed,
            first=space.parameters_of(config) or space.parameters_of(settled(config, len(people.train))),
            events=runs,
            pack=carried_out,
        )
        trials = study.get_trials(deepcopy=False)
        runs.catch_up(trials)
        best, summary = best_trial(study), summarize(trials)
        found = profile(space, best, name, objective, extends, told(config, load_config(extends)))
        path = folder / f"{name}.best.yaml"
        write_atomically(path, lambda temporary: temporary.write_text(found))
        lines = [summary.words(), f"Best: trial {best.number}, {objective} {best.value:.4f} (training side)."]
        metrics = summary.metrics | {"best_objective": float(best.value or 0.0)}
        if config.study.compare:
            gain = measure_gain(config, apply(config, values_of(space, best.params)), panel, table, shown)
            lines.append(gain.words())
            metrics |= gain.metrics
        texts = {"best.yaml": found, "trials.md": "\n".join([*lines, "", trials_table(trials)])}
        written = runs.log(texts, metrics, dict(plots.figures(study, space, objective)))
    away = f"run {runs.parent} is not whole, as the tracking store was away; the same command writes the rest later"
    inside = f"and as best.yaml in run {runs.parent}"
    return "\n".join([*lines, "", found, f"Kept as {path}, {inside}." if written else f"Kept as {path}; {away}."])


def main(profile: str = "default", data: str = "", overrides: str = "") -> None:
    """Search settings with Optuna; the same command goes on with the same study, or joins it."""
    typer.echo(run(load_config(profile, data, overrides), profile))


if __name__ == "__main__":
    sys.exit(run_stage(main))
