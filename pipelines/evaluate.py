"""Stage evaluate: a clock on people it has never seen, beside the clocks used instead → report and figures."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import typer

from henaw.config import Config, load_config
from henaw.console import ProgressLine, run_stage
from henaw.data.panel import Panel
from henaw.data.stored_splits import kept_split
from henaw.errors import BadInput
from henaw.evaluation import gallery
from henaw.evaluation.evaluate import evaluate
from henaw.evaluation.report import Report
from henaw.evaluation.report_text import markdown
from henaw.model.clock import Clock
from henaw.registry import tracking
from henaw.registry.versions import load_version
from henaw.validation.clean import clean, judge


def run(config: Config, clock: Clock, train: pd.DataFrame, test: pd.DataFrame) -> Report:
    """Evaluate ``clock`` on ``test``, beside references fitted to ``train``; all of it goes to the active run."""
    coverages = config.evaluation.coverages
    evaluated = evaluate(clock, train, test, coverages, config.evaluation.draws, config.seed)
    report = evaluated.report
    tracking.log_metrics(report.metrics)
    tracking.log_json(report.to_dict(), "evaluation.json")
    tracking.log_text(markdown(report), "evaluation.md")
    for name, figure in gallery.figures(evaluated, coverages):
        tracking.log_figure(figure, name)
    return report


def main(profile: str = "default", data: str = "", overrides: str = "", model: str = "models:/henaw@champion") -> None:
    """Evaluate a registered model on the held-out people of a cohort."""
    config = load_config(profile, data, overrides)
    with tracking.parent_run(config, "evaluate"):
        clock = load_version(model)
        tracking.set_tags({"henaw.model": model})
        with ProgressLine().stage("evaluate"):
            panel = _same_panel(config, clock.panel)
            table, _ = clean(judge(config, panel), config, panel)
            parts = kept_split(table, config)
            train = table.iloc[np.union1d(parts.train, parts.calibration)]
            report = run(config, clock, train, table.iloc[parts.test])
    typer.echo(report.summary())


def _same_panel(config: Config, panel: Panel) -> Panel:
    if panel.name != config.panel:
        raise BadInput(f"panel: the model reads {panel.name}, the settings name {config.panel}; set panel={panel.name}")
    return panel


if __name__ == "__main__":
    sys.exit(run_stage(main))
