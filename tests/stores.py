"""A tracking store of its own for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow


@contextmanager
def tracking_store(folder: Path, experiment: str = "henaw", *, chosen: bool = True) -> Iterator[None]:
    """MLflow writes to a new store in ``folder``, into ``experiment`` if it is ``chosen``, until the block ends."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.create_experiment(experiment, artifact_location=str(folder / "artifacts"))
    if chosen:
        mlflow.set_experiment(experiment)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
