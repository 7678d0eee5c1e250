"""The commands ``henaw models …``, ``henaw promote`` and ``henaw rollback``.

``henaw.cli`` takes them in; MLflow is imported when one of them runs, not when ``henaw --help`` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

models = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, help="Look at registered models: list, show, compare, diff."
)

Model = Annotated[str, typer.Argument(help="A version: models:/NAME@ALIAS or models:/NAME/NUMBER.")]


@models.command(name="list")
def list_() -> None:
    """All models and versions, with aliases and figures."""
    from henaw.registry.catalog import listed

    typer.echo(listed())


@models.command()
def show(model: Model) -> None:
    """Where a version comes from, and its model card."""
    from henaw.registry.catalog import shown

    typer.echo(shown(model))


@models.command()
def compare(first: Model, second: Model) -> None:
    """The figures of two versions side by side."""
    from henaw.registry.catalog import compared

    typer.echo(compared(first, second))


@models.command()
def diff(first: Model, second: Model) -> None:
    """What two versions were told differently: data, code, settings."""
    from henaw.registry.catalog import differences

    typer.echo(differences(first, second))


@models.command()
def delete(model: Model) -> None:
    """Delete a version; one that has an alias is not deleted."""
    from henaw.registry.aliases import delete_version
    from henaw.registry.versions import exact_version

    name, number = exact_version(model)
    delete_version(name, number)
    typer.echo(f"deleted {name} version {number}")


def promote(
    data: Annotated[str, typer.Option(help="The cohort whose held-out people judge.")] = "",
    profile: Annotated[str, typer.Option(help="Settings of the cohort: a file of mlproject/profiles.")] = "default",
    overrides: Annotated[str, typer.Option(help="Settings on top: 'panel=phenoage9'.")] = "",
    model: Annotated[str, typer.Option(help="The challenger; default models:/NAME@challenger.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge, and move nothing.")] = False,
) -> None:
    """Make a challenger champion if mlproject/gates.yaml lets it (exit 0), or say why not (exit 1)."""
    from henaw.config import load_config
    from henaw.console import ProgressLine
    from henaw.registry.promotion import promote as judge_and_move
    from henaw.registry.promotion import require_promoted

    with ProgressLine().stage("promote"):
        promotion = judge_and_move(load_config(profile, data, overrides), model, dry_run=dry_run)
    typer.echo(promotion.words())
    require_promoted(promotion)


def rollback(
    name: Annotated[str, typer.Argument(help="The registered model.")] = "henaw",
    profile: Annotated[str, typer.Option(help="Settings of the runs: a file of mlproject/profiles.")] = "default",
    overrides: Annotated[str, typer.Option(help="Settings on top: 'state.folder=/path/to/.henaw'.")] = "",
) -> None:
    """Make the previous champion the champion again, unless people it was trained with have withdrawn."""
    from henaw.config import load_config
    from henaw.registry.aliases import rollback as take_back

    now, was = take_back(name, Path(load_config(profile, "", overrides).state.folder))
    typer.echo(f"{name}: champion is version {now} again, was {was}")
