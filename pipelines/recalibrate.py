"""Stage recalibrate: a registered mortality clock and a cohort → the next version, with refitted absolute risk."""

from __future__ import annotations

import sys

import typer

from henaw.config import load_config
from henaw.console import ProgressLine, run_stage
from henaw.registry.recalibrate import closing_words, recalibrate_version


def main(
    profile: str = "default", data: str = "", overrides: str = "", model: str = "models:/henaw-mortality@champion"
) -> None:
    """Refit shift and slope of the log hazard of MODEL to a cohort, and register the result."""
    config = load_config(profile, data, overrides)
    with ProgressLine().stage("recalibrate"):
        found, version = recalibrate_version(config, model)
    typer.echo(closing_words(found, version))


if __name__ == "__main__":
    sys.exit(run_stage(main))
