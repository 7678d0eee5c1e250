"""Stage validate: source → verdict of the suites → clean cohort."""

from __future__ import annotations

import sys
from typing import Any

import typer

from henaw.config import Config, asset_folder, load_config
from henaw.console import ProgressLine, run_stage
from henaw.data.cache import CachedCohort
from henaw.data.disclosure import publishable
from henaw.data.panel import Panel, load_panel
from henaw.registry import tracking
from henaw.validation.clean import clean, judge
from henaw.validation.page import verdict_page
from henaw.validation.verdict import verdict_metrics


def run(config: Config, panel: Panel) -> CachedCohort:
    """Read and judge the source; the verdict goes to the active run before it may end the run."""
    judged = judge(config, panel)
    facts: dict[str, Any] = {
        "source": {"kind": judged.cohort.kind, "digest": judged.cohort.digest},
        "verdict": judged.verdict.to_dict(),
        "report": judged.verdict.markdown(),
    }
    log(facts)
    table, counts = clean(judged, config, panel)
    facts["cohort"] = publishable(counts)
    tracking.log_json(facts["cohort"], "cohort.json")
    return CachedCohort(table, facts)


def run_kept(kept: CachedCohort) -> CachedCohort:
    """What the cache kept of an earlier, equal validation goes to the active run."""
    log(kept.facts)
    tracking.log_json(kept.facts["cohort"], "cohort.json")
    return kept


def log(facts: dict[str, Any]) -> None:
    """Write the verdict, fresh or kept in the cache, to the active run: page, text, JSON, and its counts as metrics."""
    tracking.log_json(facts["verdict"], "verdict.json")
    tracking.log_text(facts["report"], "verdict.md")
    tracking.log_text(verdict_page(facts["verdict"], facts["source"]["kind"]), "validation.html")
    tracking.log_metrics(verdict_metrics(facts["verdict"]))
    tracking.set_tags({"henaw.source": facts["source"]["kind"], "henaw.source_digest": facts["source"]["digest"]})
    tracking.set_tags({"henaw.verdict": "passed" if facts["verdict"]["passed"] else "refused"})


def main(profile: str = "default", data: str = "", overrides: str = "") -> None:
    """Read a cohort, judge it by the suites in expectations/, and log the verdict."""
    config = load_config(profile, data, overrides)
    panel = load_panel(config.panel, asset_folder("mlproject") / "panels")
    with tracking.parent_run(config, "validate"), ProgressLine().stage("validate"):
        validated = run(config, panel)
    typer.echo(validated.facts["report"])


if __name__ == "__main__":
    sys.exit(run_stage(main))
