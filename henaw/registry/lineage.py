"""Where a version comes from: the runs that trained it, and what they were told and found."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from henaw.config import Config, asset_folder
from henaw.data.files import digest_file, digest_values
from henaw.data.removal import withdrawn_runs
from henaw.errors import EnvironmentProblem
from henaw.evaluation.figures import figure
from henaw.registry.stores import require_tracking, store_to_be_made
from henaw.registry.versions import ABSENT, registered_models

logger = logging.getLogger(__name__)

RECALIBRATED_TAG = "henaw.recalibrated_from"  # on a version: the number of the one that it was made from
WITHDRAWN_TAG = "henaw.withdrawn"  # on a version: trained with people who have withdrawn since


def training_runs(name: str, number: int) -> tuple[str, ...]:
    """The runs whose people are in a version: that trained it, and that recalibrated it, also on the way to it."""
    client, found = MlflowClient(), list[str]()
    before: str | None = str(number)
    while before is not None:
        try:
            version = client.get_model_version(name, before)
        except MlflowException as error:
            if before == str(number) or error.error_code not in ABSENT:
                raise
            logger.warning("%s version %s was deleted; whom it was trained with is not known any more", name, before)
            break
        found += [run for run in (version.tags.get("henaw.training_run"), version.run_id) if run]
        before = version.tags.get(RECALIBRATED_TAG)
    return tuple(dict.fromkeys(found))


def is_withdrawn(state: Path, name: str, number: int) -> bool:
    """Whether a version is marked, or folder ``state`` knows that somebody it was trained with has withdrawn.

    Raises:
        IntegrityError: a record in ``state`` is damaged.
        EnvironmentProblem: it cannot be read.
    """
    tagged = WITHDRAWN_TAG in MlflowClient().get_model_version(name, str(number)).tags
    return tagged or bool(set(training_runs(name, number)) & set(withdrawn_runs(state)))


def tag_withdrawn(runs: Iterable[str]) -> list[tuple[str, int]]:
    """Mark every registered version whose training was one of ``runs``; returns the versions that are marked."""
    client, gone = MlflowClient(), set(runs)
    marked = []
    for model in registered_models():
        for version in client.search_model_versions(f"name='{model.name}'"):
            if gone & set(training_runs(model.name, int(version.version))):
                client.set_model_version_tag(model.name, str(version.version), WITHDRAWN_TAG, "true")
                marked.append((model.name, int(version.version)))
    return sorted(marked)


def mark_withdrawn(runs: Iterable[str]) -> str:
    """``tag_withdrawn`` in words; a store that is not there, or does not answer, is one of the answers."""
    again = "registered versions are not marked: run henaw withdraw again where MLFLOW_TRACKING_URI names their store"
    if store_to_be_made() is not None:
        return f"There is no model store here; {again}."
    try:
        require_tracking()
    except EnvironmentProblem as error:
        return f"{error}; {again}."
    marked = ", ".join(f"{name} version {number}" for name, number in tag_withdrawn(runs))
    return f"Marked, and refused by the gates from now on: {marked}." if marked else "No registered version is of them."


@dataclass(frozen=True)
class Lineage:
    """What a training run was told and found, as the store has it.

    Attributes:
        tags: for the version: data digest, verdict, config, code, lock, study, population, figures with intervals.
        evaluation: the report's JSON, None where the run was not evaluated.
    """

    tags: dict[str, str]
    evaluation: dict[str, Any] | None


def lineage_of(run_id: str, config: Config) -> Lineage:
    """Read what training run ``run_id`` and its children logged; what is missing there is left out here."""
    client = MlflowClient()
    parent = client.get_run(run_id)
    child = f"tags.`mlflow.parentRunId` = '{run_id}'"
    children = client.search_runs([parent.info.experiment_id], child, order_by=["start_time ASC"])
    stages = {run.data.tags.get("henaw.stage", ""): run for run in children}
    tags = {"henaw.training_run": run_id, "henaw.config_digest": digest_values(config.model_dump(mode="json"))}
    tags["henaw.lock_digest"] = digest_file(asset_folder("mlproject") / "env" / "requirements.lock")
    tags["henaw.profile"] = f"panel {config.panel}, target {config.target}, seed {config.seed}"
    if config.study.found_by:
        tags["henaw.study"] = config.study.found_by
    for name, text in {"henaw.version": "henaw.version", "mlflow.source.git.commit": "henaw.code_commit"}.items():
        if name in parent.data.tags:
            tags[text] = parent.data.tags[name]
    if (validated := stages.get("validate")) is not None:
        wanted = ("henaw.source", "henaw.source_digest", "henaw.verdict")
        tags |= {name: validated.data.tags[name] for name in wanted if name in validated.data.tags}
    if (trained := stages.get("train")) is not None:
        people = trained.data.params
        sides = ", ".join(f"{people[key]} {words}" for key, words in _SIDES.items() if key in people)
        low, high = config.cohort.ages
        tags["henaw.population"] = f"{sides}; aged {low} to {high}; source {tags.get('henaw.source', 'unknown')}"
    evaluation = _evaluation(stages["evaluate"].info.run_id) if "evaluate" in stages else None
    if evaluation is not None:
        tags |= {f"henaw.figure.{name}": _shown(name, found) for name, found in evaluation["figures"].items()}
        tags["henaw.reference_clocks"] = ", ".join(evaluation["references"])
    return Lineage(tags, evaluation)


_SIDES = {"people_train": "people trained", "people_calibration": "calibrated", "people_test": "were held out"}


def _evaluation(run_id: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/evaluation.json")))
    except (MlflowException, OSError, ValueError):
        return None


def _shown(name: str, found: dict[str, float | None]) -> str:
    known = figure(name)
    value, lower, upper = (math.nan if found[key] is None else float(found[key] or 0.0) for key in _ENDS)
    return known.shown(value) + ("" if math.isnan(lower) else f" ({known.shown(lower)} to {known.shown(upper)})")


_ENDS = ("value", "lower", "upper")
