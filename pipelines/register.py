"""Stage register: a fitted clock → a version of the registered model."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import typer

from henaw.config import Config, load_config
from henaw.console import run_stage
from henaw.errors import BadInput
from henaw.evaluation.card import model_card
from henaw.evaluation.page import page
from henaw.model.storage import CLOCK_FOLDER, load_clock
from henaw.registry import tracking
from henaw.registry.lineage import lineage_of
from henaw.registry.versions import Version, register


@tracking.store_needed()
def run(config: Config, clock_folder: Path, tags: dict[str, str]) -> Version:
    """Register the clock saved in ``clock_folder`` from the active run, with where it comes from and its model card."""
    with tracking.store_needed():
        lineage = lineage_of(tags["henaw.training_run"], config)
    card = model_card(config.model_name, load_clock(clock_folder), lineage.tags, lineage.evaluation)
    pages = {"model_card.md": card, "model_card.html": page(f"Model card of {config.model_name}", card)}
    for name, text in pages.items():
        tracking.log_text(text, name)
    version = register(clock_folder, config.model_name, lineage.tags | tags, pages)
    tracking.set_tags({"henaw.model_version": str(version.number)})
    return version


def main(profile: str = "default", data: str = "", overrides: str = "", run_id: str = "") -> None:
    """Register the clock that training run RUN_ID logged."""
    config = load_config(profile, data, overrides)
    if not run_id:
        raise BadInput("run_id: expected the id of a training run (mlflow run . -e register -P run_id=…)")
    with tracking.parent_run(config, "register"), tempfile.TemporaryDirectory(prefix="henaw-") as temporary:
        folder = tracking.fetch_folder(run_id, CLOCK_FOLDER, Path(temporary))
        version = run(config, folder, {"henaw.training_run": run_id})
    typer.echo(f"registered {version.name} version {version.number} ({', '.join(version.aliases)})")


if __name__ == "__main__":
    sys.exit(run_stage(main))
