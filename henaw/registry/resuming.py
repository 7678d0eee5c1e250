"""A training run that was stopped goes on in the same MLflow run, and its stages in the same child runs."""

from __future__ import annotations

import os

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from henaw.errors import BadInput

STAGE_TAG = "henaw.stage"
RESUMES_TAG = "henaw.resumes"  # on the run that `mlflow run` opened only to go on with another: which one
RESUMED_TAG = "henaw.resumed"  # on the one that goes on


def settings_to_resume(run_id: str) -> str:
    """The settings (YAML) of a run that was stopped.

    Raises:
        BadInput: no such run, it is complete, or it is none of a train stage.
    """
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException:
        raise BadInput(f"resume: run {run_id!r}: no such run in this tracking store") from None
    if run.info.status == "FINISHED":
        other = run.data.tags.get(RESUMES_TAG)
        raise BadInput(f"resume: run {run_id} " + (f"only went on with run {other}" if other else "is complete"))
    try:
        return str(mlflow.artifacts.load_text(f"runs:/{run_id}/config.yaml"))
    except (MlflowException, OSError):
        raise BadInput(f"resume: run {run_id} has no artifact config.yaml; expected one of the train stage") from None


def go_on_in(run_id: str) -> None:
    """Make run ``run_id`` the one to be written to, and close the one that ``mlflow run`` opened in its place."""
    client = MlflowClient()
    opened = os.environ.pop("MLFLOW_RUN_ID", run_id)
    if opened != run_id:
        client.set_tag(opened, RESUMES_TAG, run_id)
        client.set_terminated(opened)
    client.set_tag(run_id, RESUMED_TAG, "true")
    mlflow.set_experiment(experiment_id=client.get_run(run_id).info.experiment_id)


def stopped_children(run_id: str) -> dict[str, str]:
    """The child runs that run ``run_id`` had before it was stopped: the newest of each stage."""
    client = MlflowClient()
    wanted = f"tags.`mlflow.parentRunId` = '{run_id}'"
    found = client.search_runs([client.get_run(run_id).info.experiment_id], wanted, order_by=["start_time ASC"])
    return {run.data.tags[STAGE_TAG]: str(run.info.run_id) for run in found if STAGE_TAG in run.data.tags}
