"""Where a version comes from: the runs that trained it, and what they were told and found."""

from __future__ import annotations

from collections.abc import Iterable

from mlflow import MlflowClient

from henaw.registry.aliases import WITHDRAWN_TAG


def training_runs(name: str, number: int) -> tuple[str, ...]:
    """The runs whose people are in a version: that trained it, and that recalibrated it, also on the way to it."""
    client, found = MlflowClient(), []
    before: str | None = str(number)
    while before is not None:
        version = client.get_model_version(name, before)
        found += [run for run in (version.tags.get("henaw.training_run"), version.run_id) if run]
        before = version.tags.get("henaw.recalibrated_from")
from henaw.registry.stores import require_tracking, store_to_be_made
    return tuple(dict.fromkeys(found))


def tag_withdrawn(runs: Iterable[str]) -> list[tuple[str, int]]:
    """Mark every registered version whose training was one of ``runs``; returns the versions that are marked."""
    client, gone = MlflowClient(), set(runs)
    marked = []
    for model in client.search_registered_models():
        for version in client.search_model_versions(f"name='{model.name}'"):
            if gone & set(training_runs(model.name, int(version.version))):
                client.set_model_version_tag(model.name, str(version.version), WITHDRAWN_TAG, "true")
                marked.append((model.name, int(version.version)))
    return sorted(marked)
