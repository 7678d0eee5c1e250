"""The main job: validate → cache → train → evaluate → register, each a child run of one parent run."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import typer
import yaml

from henaw.config import Config, asset_folder, load_config, parse_overrides, validate_config
from henaw.console import ProgressLine, run_stage
from henaw.data.cohort import PARTICIPANT
from henaw.data.panel import load_panel
from henaw.data.trainings import record_training
from henaw.errors import BadInput
from henaw.evaluation.report import Report
from henaw.model.storage import CLOCK_FOLDER, save_clock
from henaw.registry import tracking
from henaw.registry.resuming import settings_to_resume
from henaw.registry.stores import require_tracking
from henaw.registry.versions import Version
from henaw.training.checkpoints import Checkpoints
from henaw.training.ranks import helping
from henaw.training.speed import as_begun
from henaw.training.state import FREE_SETTINGS
from henaw.training.together import assist
from pipelines import cache, evaluate, fit, register, validate


def run(config: Config, resume: str = "") -> tuple[Report, Version]:
    """Walk a cohort through all stages, with one parent run and a child run a stage; ``resume``: which run goes on."""
    panel = load_panel(config.panel, asset_folder("mlproject") / "panels")
    progress = ProgressLine()
    with ExitStack() as alone:
        checkpoints = Checkpoints(checkpoint_folder(config, resume), config.training)
        if resume:  # before anything is written to a run in which another process may be at work
            alone.enter_context(checkpoints.held())
        run_id = alone.enter_context(tracking.parent_run(config, "train", resume))
        if not resume:
            checkpoints = Checkpoints(checkpoint_folder(config, run_id), config.training)
        with ExitStack() as building:  # an equal run in another process waits until this cohort is kept
            with tracking.child_run("validate"), progress.stage("validate"):
                found = building.enter_context(cache.looked_up(config, panel))
                kept = found.cohort
                cohort = validate.run(config, panel) if kept is None else validate.run_kept(kept)
            with tracking.child_run("cache"), progress.stage("cache"):
                table = cache.run(config, panel, found, cohort)
        with tracking.child_run("train"), progress.stage("train"):
            fitted = fit.run(config, panel, table, progress, checkpoints)
            alone.enter_context(checkpoints.held())  # nobody else goes on with what is only to be evaluated
            record_training(Path(config.state.folder), run_id, fitted.train[PARTICIPANT])
        with tracking.child_run("evaluate"), progress.stage("evaluate"):
            report = evaluate.run(config, fitted.clock, fitted.train, fitted.test)
        tracking.log_metrics(report.main)  # on the parent too: that is the row people compare
        with (
            tracking.child_run("register"),
            progress.stage("register"),
            tempfile.TemporaryDirectory(prefix="henaw-") as temporary,
        ):
            folder = Path(temporary) / CLOCK_FOLDER
            save_clock(fitted.clock, folder)
            tracking.log_folder(folder, CLOCK_FOLDER)
            version = register.run(config, folder, {"henaw.training_run": run_id})
        checkpoints.remove()
    return report, version


def checkpoint_folder(config: Config, run_id: str) -> Path:
    """Where the checkpoints of run ``run_id`` are."""
    return Path(config.state.folder) / "checkpoints" / run_id


def config_to_resume(run_id: str, profile: str, data: str, overrides: str) -> Config:
    """The settings of run ``run_id``, which goes on with those that it began with.

    The data may have moved, and ``overrides`` may change what the result does not depend on (``FREE_SETTINGS``).

    Raises:
        BadInput: other settings are asked for, or there is no such run or nothing saved of it.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", run_id):
        raise BadInput(f"resume: expected the id of a run, found {run_id!r}")
    if profile != "default":
        raise BadInput("resume: a run goes on with its own settings; leave profile away")
    changes = dict(parse_overrides(overrides))
    free = {f"training.{name}" for name in FREE_SETTINGS}
    if others := sorted(changes.keys() - free):
        raise BadInput(
            f"resume: a run goes on with its own settings, {', '.join(others)} too; expected changes of "
            f"{', '.join(sorted(free))} alone"
        )
    require_tracking()
    values = yaml.safe_load(settings_to_resume(run_id))
    if data:
        values["source"]["data"] = data
    values["training"] |= {name.removeprefix("training."): value for name, value in changes.items()}
    config = validate_config(values)
    folder = checkpoint_folder(config, run_id)
    if not folder.is_dir():
        raise BadInput(f"resume: nothing is saved of run {run_id} in {config.state.folder}; was it trained elsewhere?")
    training = as_begun(config.training, Checkpoints(folder, config.training).fingerprint())
    return config.model_copy(update={"training": training})


def closing_words(report: Report, version: Version) -> str:
    """What a person reads at the end: the figures, the version, and how to look at both."""
    commands = ["mlflow ui", f"mlflow models serve -m {version.uri} --env-manager local --port 5001"]
    folder = Path(sys.prefix)
    if folder != Path(sys.base_prefix) and os.environ.get("VIRTUAL_ENV") != str(folder):
        shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        commands.insert(0, f"source {shlex.quote(str(shown / 'bin' / 'activate'))}")
    return "\n".join(
        [
            "",
            report.summary(),
            f"Registered {version.name} version {version.number} ({', '.join(version.aliases)}).",
            "Look at it, and serve it:",
            *(f"  {command}" for command in commands),
        ]
    )


def main(profile: str = "default", data: str = "", overrides: str = "", resume: str = "") -> None:
    """Train, evaluate and register a clock; ``resume`` names a run that was stopped, to go on with it.

    Of several processes that ``torchrun`` starts, the first does all this, and the others help it to train.
    """
    if helping():
        assist()
        return
    if resume:
        config = config_to_resume(resume, profile, data, overrides)
    else:
        config = load_config(profile, data, overrides)
    report, version = run(config, resume)
    typer.echo(closing_words(report, version))


if __name__ == "__main__":
    sys.exit(run_stage(main))
