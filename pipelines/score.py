"""Stage score: a file of rows → a file of answers, by a registered model."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from henaw.config import load_config
from henaw.console import ProgressLine, run_stage
from henaw.errors import BadInput
from henaw.registry.versions import load_version
from henaw.serving.score import score_file


def main(
    profile: str = "default",
    overrides: str = "",
    model: str = "models:/henaw@champion",
    input: str = "",
    output: str = "",
    quantiles: str = "false",
    coverage: float = 0.9,
    keep: str = "",
) -> None:
    """Score file INPUT into file OUTPUT; nothing of either goes to MLflow."""
    load_config(profile, "", overrides)  # a wrong key is refused here as everywhere
    if not input or not output:
        raise BadInput("input, output: expected two paths (-P input=FILE -P output=FILE)")
    if quantiles.lower() not in ("true", "false"):
        raise BadInput(f"quantiles: expected true or false, found {quantiles!r}")
    rows = score_file(
        load_version(model),
        Path(input),
        Path(output),
        coverage=coverage,
        quantiles=quantiles.lower() == "true",
        keep=tuple(name.strip() for name in keep.split(",") if name.strip()),
        progress=ProgressLine(),
    )
    typer.echo(f"scored {rows:,} rows into {output}")


if __name__ == "__main__":
    sys.exit(run_stage(main))
