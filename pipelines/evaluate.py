"""Stage evaluate: a clock on people it has never seen → report and figures."""

from __future__ import annotations

import sys

import pandas as pd
import typer

from henaw.config import Config, load_config
from henaw.console import ProgressLine, run_stage
from henaw.data.panel import Panel
from henaw.data.splits import split
from henaw.errors import BadInput
from henaw.evaluation import plots
from henaw.evaluation.report import Report, evaluate
from henaw.model.clock import Clock
from henaw.registry import tracking
from henaw.registry.versions import load_version
from henaw.training.fit import people_arrays
from henaw.validation.clean import clean, judge


def run(config: Config, clock: Clock, table: pd.DataFrame) -> Report:
    """Evaluate ``clock`` on ``table``; metrics, report and figures go to the active run."""
    biomarkers, sex, age = people_arrays(table, clock.panel)
    distribution = clock.predict(biomarkers, sex, age)
    report = evaluate(distribution, age, table["sex"], config.evaluation.coverages)
    tracking.log_metrics(report.metrics)
    tracking.log_json(report.to_dict(), "evaluation.json")
    tracking.log_text(report.markdown(), "evaluation.md")
    tracking.log_figure(plots.predicted_against_true(age, distribution.median), "predicted_against_true")
    tracking.log_figure(plots.calibration(distribution.cdf(age)), "calibration")
    tracking.log_figure(plots.age_gap_by_age(age, distribution.median), "residuals_by_age")
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
            report = run(config, clock, table.iloc[split(table, config.split, config.seed).test])
    typer.echo(report.markdown())


def _same_panel(config: Config, panel: Panel) -> Panel:
    if panel.name != config.panel:
        raise BadInput(f"panel: the model reads {panel.name}, the settings name {config.panel}; set panel={panel.name}")
    return panel


if __name__ == "__main__":
    sys.exit(run_stage(main))
