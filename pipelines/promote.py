"""Stage promote: a challenger takes the champion's place if the gates say so (exit 0), or does not (exit 1)."""

from __future__ import annotations

import sys

import typer

from henaw.config import load_config
from henaw.console import ProgressLine, run_stage
from henaw.errors import BadInput
from henaw.registry.promotion import promote, require_promoted


def main(
    profile: str = "default", data: str = "", overrides: str = "", model: str = "", dry_run: str = "false"
) -> None:
    """Judge MODEL (default: the challenger) on the held-out people of a cohort, and move the alias champion."""
    config = load_config(profile, data, overrides)
    if dry_run.lower() not in ("true", "false"):
        raise BadInput(f"dry_run: expected true or false, found {dry_run!r}")
    with ProgressLine().stage("promote"):
        promotion = promote(config, model, dry_run=dry_run.lower() == "true")
    typer.echo(promotion.words())
    require_promoted(promotion)


if __name__ == "__main__":
    sys.exit(run_stage(main))
