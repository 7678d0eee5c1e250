"""The command ``henaw``: what a user does outside ``mlflow run``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from henaw import __version__
from henaw.console import ProgressLine, run_app, settle_environment
from henaw.registry import commands

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Biological age with an honest uncertainty. Training and its stages run through `mlflow run . -e STAGE`.",
)


@app.command()
def score(
    model: Annotated[str, typer.Option(help="A registered model: models:/NAME@ALIAS or models:/NAME/VERSION.")],
    input: Annotated[Path, typer.Option(help="Rows to score: CSV, CSV.gz or Parquet with the panel's columns.")],
    output: Annotated[Path, typer.Option(help="Where the answers go: CSV, CSV.gz or Parquet, by its ending.")],
    coverage: Annotated[float, typer.Option(help="Of the interval, between 0 and 1.")] = 0.9,
    quantiles: Annotated[
        bool, typer.Option("--quantiles", help="Add q01 … q99 of the predictive distribution.")
    ] = False,
    keep: Annotated[
        list[str] | None, typer.Option(help="Copy this input column beside the answers; may be repeated.")
    ] = None,
) -> None:
    """Answer every row of a file, in its order and in bounded memory."""
    from henaw.registry.versions import load_version
    from henaw.serving.score import score_file

    rows = score_file(
        load_version(model),
        input,
        output,
        coverage=coverage,
        quantiles=quantiles,
        keep=tuple(keep or ()),
        progress=ProgressLine(),
    )
    typer.echo(f"scored {rows:,} rows into {output}")


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="A registered model: models:/NAME@ALIAS or models:/NAME/VERSION.")],
    host: Annotated[str, typer.Option(help="Address to listen on; one that others reach needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5001,
    profile: Annotated[str, typer.Option(help="Settings: a file of mlproject/profiles.")] = "default",
    overrides: Annotated[
        str, typer.Option(help="Settings on top: 'serving.workers=2 serving.audit=audit.jsonl'.")
    ] = "",
    page: Annotated[bool, typer.Option("--page", help="Serve a page for people at /, too (serving.page).")] = False,
    shadow: Annotated[
        list[str] | None,
        typer.Option(help="A version that scores a share of the requests as well: challenger, models:/NAME/VERSION."),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="A version that answers a share of the requests: challenger=0.1.")
    ] = None,
) -> None:
    """Answer requests as `mlflow models serve` does, behind a guard: keys, rates, limits, strict checks."""
    from henaw.config import load_config
    from henaw.serving.plan import as_overrides
    from henaw.serving.server import serve as serve_model

    wanted = f"{overrides} serving.page=true" if page else overrides
    compared = as_overrides(shadow or [], split or [])
    serve_model(load_config(profile, "", f"{wanted} {compared}"), model, host, port)


@app.command("compare-served")
def compare_served(
    profile: Annotated[str, typer.Option(help="Settings of the server: a file of mlproject/profiles.")] = "default",
    overrides: Annotated[str, typer.Option(help="Settings on top: 'state.folder=/path/to/.henaw'.")] = "",
    since: Annotated[str, typer.Option(help="Only days from this one on, as 2026-11-30 (UTC).")] = "",
    json: Annotated[bool, typer.Option("--json", help="Figures for programs instead of tables.")] = False,
) -> None:
    """Compare champion and challenger by what `henaw serve --shadow` and `--split` counted on this machine."""
    from henaw.config import load_config
    from henaw.serving.compared_report import report

    typer.echo(report(Path(load_config(profile, "", overrides).state.folder), since, as_json=json))


@app.command()
def recalibrate(
    model: Annotated[str, typer.Option(help="A mortality clock: models:/NAME@ALIAS or models:/NAME/VERSION.")],
    data: Annotated[str, typer.Option(help="The target cohort, with died and followup_months.")],
    profile: Annotated[str, typer.Option(help="Settings of the cohort: a file of mlproject/profiles.")] = "default",
    overrides: Annotated[str, typer.Option(help="Settings on top: 'split.test_fraction=0.7 panel=phenoage9'.")] = "",
) -> None:
    """Fit a mortality clock's absolute risk to a cohort, and register the result as its next version."""
    from henaw.config import load_config
    from henaw.registry.recalibrate import closing_words, recalibrate_version

    with ProgressLine().stage("recalibrate"):
        found, version = recalibrate_version(load_config(profile, data, overrides), model)
    typer.echo(closing_words(found, version))


app.add_typer(commands.models, name="models")
app.command()(commands.promote)
app.command()(commands.rollback)

fetch = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Bring public data to this machine.")
app.add_typer(fetch, name="fetch")


@fetch.command()
def nhanes(
    cycles: Annotated[str, typer.Option(help="Survey cycles, separated by commas: 2007-2008,2009-2010.")],
    folder: Annotated[Path, typer.Option(help="Where the files go; the folder to name as data afterwards.")] = Path(
        "nhanes"
    ),
    mirror: Annotated[
        str | None, typer.Option("--from", help="Address of a mirror that has the publisher's paths.")
    ] = None,
) -> None:
    """Download NHANES (CDC, public domain; for statistics only, never to identify anyone) and check what is there."""
    from henaw.config import asset_folder
    from henaw.data.nhanes_fetch import fetch_nhanes
    from henaw.data.nhanes_variables import load_nhanes_map

    progress = ProgressLine()
    named = [cycle.strip() for cycle in cycles.split(",") if cycle.strip()]
    with progress.stage("fetch"):
        known = load_nhanes_map(asset_folder("mlproject"))
        done = fetch_nhanes(named, folder, known, base=mirror, progress=progress)
    typer.echo(f"{folder}: {done.brought} files fetched, {done.present} were there already and are unchanged")


@app.command()
def withdraw(
    ids: Annotated[Path, typer.Option(help="Ids, one a line without a header (w12345_20260101.csv); or a folder.")],
    profile: Annotated[str, typer.Option(help="Settings of the runs: a file of mlproject/profiles.")] = "default",
    overrides: Annotated[str, typer.Option(help="Settings on top: 'state.folder=/path/to/.henaw'.")] = "",
) -> None:
    """Remove people from what is kept on this machine, never use them again, and name the runs trained with them."""
    from henaw.config import load_config
    from henaw.data.removal import withdraw as remove

    removal = remove(Path(load_config(profile, "", overrides).state.folder), ids)
    typer.echo(removal.summary())
    if removal.runs:
        from henaw.registry.lineage import mark_withdrawn

        typer.echo(mark_withdrawn(removal.runs))


@app.command()
def doctor() -> None:
    """Check whether this machine is fit for HENAW, and say what to do where it is not."""
    from henaw import doctor as examination

    findings = examination.examine(Path.cwd())
    typer.echo("\n".join(examination.table(findings)))
    examination.require_fit(findings)


@app.command()
def version() -> None:
    """Print HENAW's version."""
    typer.echo(__version__)


keys_app = typer.Typer(help="Keys for `henaw serve`; they lie, as hashes, in state.folder.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
OVERRIDES = Annotated[str, typer.Option(help="Settings on top, such as 'state.folder=PATH'.")]


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Whose it is, for you to know it by.")],
    scope: Annotated[list[str] | None, typer.Option(help="score (default) or metrics; may be repeated.")] = None,
    days: Annotated[int | None, typer.Option(help="How long it is valid; without, until it is revoked.")] = None,
    overrides: OVERRIDES = "",
) -> None:
    """Make a key and print it, this once."""
    import datetime as dt

    from henaw.config import load_config
    from henaw.serving import keys

    folder = Path(load_config("default", "", overrides).state.folder)
    _, text = keys.create_key(folder, name, scope or ["score"], days, dt.datetime.now(dt.UTC))
    typer.echo(text)


@keys_app.command("list")
def list_keys(overrides: OVERRIDES = "") -> None:
    """Show id, scopes, times and name of every key."""
    from henaw.config import load_config
    from henaw.serving import keys

    for key in keys.read_keys(Path(load_config("default", "", overrides).state.folder)):
        until = f"until {key.expires}" if key.expires else "without end"
        typer.echo(f"{key.id}  {','.join(key.scopes):14}  from {key.created} {until}  {key.name}")


@keys_app.command("revoke")
def revoke_key(
    id: Annotated[str, typer.Argument(help="As `henaw keys list` shows it.")], overrides: OVERRIDES = ""
) -> None:
    """Forget a key; running servers refuse it within a second."""
    from henaw.config import load_config
    from henaw.serving import keys

    keys.revoke_key(Path(load_config("default", "", overrides).state.folder), id)


runs_app = typer.Typer(help="What training runs have logged.", no_args_is_help=True)
app.add_typer(runs_app, name="runs")


@runs_app.command("replay")
def replay_runs(
    profile: Annotated[str, typer.Option(help="Settings of the runs: a file of mlproject/profiles.")] = "default",
    overrides: OVERRIDES = "",
) -> None:
    """Write to the tracking store what was logged while it was away."""
    from henaw.config import load_config
    from henaw.registry.replay import replay_all

    for line in replay_all(Path(load_config(profile, "", overrides).state.folder)):
        typer.echo(line)


def main() -> None:
    """Entry point of the command ``henaw``."""
    settle_environment()
    sys.exit(run_app(app, sys.argv[1:] or ["--help"]))


if __name__ == "__main__":
    main()
