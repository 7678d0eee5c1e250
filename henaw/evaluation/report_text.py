"""The long form of a report, in Markdown: every figure with its interval, the references, subgroups, tenths of risk."""

from __future__ import annotations

import pandas as pd

from henaw.evaluation.bootstrap import Estimate
from henaw.evaluation.figures import figure, verdict
from henaw.evaluation.report import Reference, Report, difference_cells, estimate_cells, table_row
from henaw.evaluation.suppression import how_many

_KINDS = {"age": "age clock", "mortality": "mortality clock"}
_SUBGROUP_FIGURES = {
    "age": ("mae_years", "mean_error_years", "crps_years", "nll_nats"),
    "mortality": ("mean_gap_years", "aleatoric_sd_years", "epistemic_sd_years"),
}
_NOTES = {
    "age": "The interval, the quantiles and the median come from one distribution, calibrated on people whom the "
    "network was not fitted to. Coverage by true age differs from coverage by predicted age, because what is predicted "
    "regresses towards the mean.",
    "mortality": "Biological age is never observed: its interval is the model's own and cannot be checked. What can be "
    "is the order of deaths and the risk.",
}


def markdown(report: Report) -> str:
    """``report`` whole."""
    title = f"# Evaluation of the {_KINDS[report.target]}"
    people = how_many(report.people).capitalize()
    parts = [title, f"{people} held-out people, whom neither the clock nor a reference was fitted to."]
    if report.figures:
        intervals = (
            f"Intervals hold 95 %: bootstrap by person, {report.draws:,} resampled cohorts, without survey weights."
        )
        parts += [f"{intervals} {_NOTES[report.target]}", "## Everyone", _everyone(report.figures)]
        parts += ["## Beside other clocks", _REFERENCES, *map(_reference, report.references.values())]
        parts += _subgroups(report)
        parts += [_tenths(years, table) for years, table in report.risk_calibration.items()]
    return "\n\n".join([*parts, *(line for line in report.withheld_words() if line)]) + "\n"


_REFERENCES = (
    "On the same people. References that are fitted were fitted to the training people of the same cohort. A "
    "difference is this clock's figure less the reference's, paired; where its interval holds 0 the two are a tie and "
    "called so. "
    "A clock that is told chronological age is not compared in predicting it."
)


def _everyone(figures: dict[str, Estimate]) -> str:
    rows = [table_row(figure(name).title, estimate_cells(name, estimate)) for name, estimate in figures.items()]
    return "\n".join([table_row("", ["", "95 % interval"]), table_row("---", ["---:", "---:"]), *rows])


def _reference(reference: Reference) -> str:
    title = reference.title[0].upper() + reference.title[1:]
    head = ["its own", "95 % interval", "this clock's less its", "95 % interval", ""]
    rows = []
    for name, estimate in reference.figures.items():
        cells = ["", "", ""]
        if name in reference.differences:
            difference = reference.differences[name]
            cells = [*difference_cells(name, difference), verdict(name, difference)]
        rows.append(table_row(figure(name).title, [*estimate_cells(name, estimate), *cells]))
    table = [table_row("", head), table_row("---", ["---:"] * 4 + ["---"]), *rows]
    return "\n".join([f"### {title}", "", f"{reference.people:,} people", "", *table])


def _subgroups(report: Report) -> list[str]:
    table = report.subgroups.table
    parts = ["## Subgroups"]
    for partition, rows in table.groupby("partition", sort=False):
        wide = {name: _by_group(rows, name) for name in dict.fromkeys(rows["figure"])}
        scores = [name for name in _SUBGROUP_FIGURES[report.target] if name in wide]
        parts.append(f"### By {partition}")
        tables = [scores, *([name for name in wide if name.startswith(kind)] for kind in ("coverage_", "width_"))]
        parts += [_wide(rows, names, wide) for names in tables if names]
    return parts if len(parts) > 1 else []


def _by_group(rows: pd.DataFrame, name: str) -> dict[str, Estimate]:
    chosen = rows[rows["figure"] == name]
    ends = zip(chosen["value"], chosen["lower"], chosen["upper"], strict=True)
    return {str(group): Estimate(*numbers) for group, numbers in zip(chosen["group"], ends, strict=True)}


def _wide(rows: pd.DataFrame, names: list[str], wide: dict[str, dict[str, Estimate]]) -> str:
    sizes = dict(zip(rows["group"].astype(str), rows["n"], strict=True))
    lines = [
        table_row("", ["people", *(figure(name).title for name in names)]),
        table_row("---", ["---:"] * (len(names) + 1)),
    ]
    for group, size in sizes.items():
        cells = [f"{size:,}"]
        for name in names:
            value, interval = estimate_cells(name, wide[name][group])
            cells.append(f"{value} ({interval})" if interval else value)
        lines.append(table_row(group, cells))
    return "\n".join(lines)


def _tenths(years: int, table: pd.DataFrame) -> str:
    lines = [
        f"## Risk of death within {years} years, by tenth of predicted risk",
        "",
        "Observed risk is Kaplan–Meier's; – where it would rest on fewer than five deaths.",
        "",
        table_row("tenth", ["people", "expected", "observed", "95 % interval", "observed / expected", "95 % interval"]),
        table_row("---:", ["---:"] * 6),
    ]
    share, ratio = figure("coverage_90"), figure(f"observed_expected_{years}y")
    for row in table.to_dict("records"):
        cells = [f"{row['n']:,}", share.shown(row["expected"]), share.shown(row["observed"])]
        cells.append(_span(share.shown(row["observed_lower"]), share.shown(row["observed_upper"])))
        cells.append(ratio.shown(row["ratio"]))
        cells.append(_span(ratio.shown(row["ratio_lower"]), ratio.shown(row["ratio_upper"])))
        lines.append(table_row(str(row["group"]), cells))
    return "\n".join(lines)


def _span(lower: str, upper: str) -> str:
    return "" if lower == "–" else f"{lower} to {upper}"
