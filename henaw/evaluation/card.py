"""The model card: what a version is for and what not, whom it comes from, how good it is for whom, how to call it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from henaw.evaluation.figures import figure
from henaw.evaluation.report import MIXTURE, table_row
from henaw.model.answers import input_columns, output_columns
from henaw.model.clock import RISK_YEARS, Clock

_KINDS = {
    "age": "An age clock: it predicts chronological age from blood biomarkers and sex, and does not read age.",
    "mortality": "A mortality clock: it predicts the biological age at which the population's hazard of death is the "
    "person's, from blood biomarkers, sex and age.",
}
_USE = """## What it is for

Research on groups of people: comparing cohorts, and following a group over time. Its answers come with intervals and
with reasons to abstain; neither may be left out.

**It is not a medical device.** It is not meant for diagnosis, for treatment, or for any decision about a single person,
in insurance or employment least of all."""
_LIMITS = {
    "age": [
        "It was trained to tell age, not health: clocks trained on age alone rank survival worse than age itself.",
        "Predictions regress towards the mean age: the young are predicted too old and the old too young. The adjusted "
        "gap has that removed on average, not for each person.",
        "Coverage holds by predicted age; by true age it is lower at the ends.",
    ],
    "mortality": [
        "Biological age is never observed: its interval is the model's own, and cannot be checked. The order of deaths "
        "and the risk can.",
        "Absolute risk drifts between eras and countries: recalibrate to the target population (henaw recalibrate).",
    ],
}
_COMMON_LIMITS = [
    "Survey weights are not used: figures are of the people studied, not of a nation.",
    "Other laboratories' assays may differ: check the units, and compare distributions before the first use.",
    "Sex is read as female or male; whoever has none stated is not answered.",
]
_SUBGROUPS = {
    "age": ("mae_years", "mean_error_years", "crps_years", "coverage_90"),
    "mortality": ("mean_gap_years", "epistemic_sd_years", "width_90_years"),
}
_COMPARED = ("mae_years", "crps_years", "concordance", "brier")
_PARTITIONS = {"sex": "By sex", "true age": "By age"}


def model_card(name: str, clock: Clock, facts: Mapping[str, str], evaluation: Mapping[str, Any] | None) -> str:
    """The card in Markdown.

    Args:
        name: of the registered model.
        clock: that is registered.
        facts: the version's tags; whatever they say of people is a count that may be published.
        evaluation: ``Report.to_dict()``, in which small cells are suppressed already; None where there was none.
    """
    members, hidden = clock.shape.members, " × ".join(map(str, clock.shape.hidden))
    low, high = clock.trained_on.ages
    parts = [
        f"# {name}",
        _KINDS[clock.target],
        f"{members} member{'s' * (members > 1)} of {hidden} hidden units, averaged as their Wasserstein-2 barycenter; "
        f"panel {clock.panel.name} ({clock.panel.title}); trained on ages {low} to {high}.",
        _USE,
        "## Where it comes from",
        _facts(facts),
    ]
    if evaluation is not None and evaluation["figures"]:
        people, draws = evaluation["people"], evaluation["draws"]
        parts += [
            "## How good it is",
            f"On {people:,} held-out people; intervals hold 95 % (bootstrap by person, {draws:,} resampled cohorts).",
            _figures(evaluation["figures"]),
            *_subgroups(clock.target, evaluation),
            *_calibration(evaluation),
            *_references(evaluation),
        ]
    else:
        parts += ["## How good it is", "It was not evaluated when it was registered."]
    limits = [*_LIMITS[clock.target], *_COMMON_LIMITS]
    parts += ["## Limits", "\n".join(f"* {line}" for line in limits), "## How to call it", _call(name, clock)]
    return "\n\n".join(parts) + "\n"


def _facts(facts: Mapping[str, str]) -> str:
    lines = [table_row("", [""]), table_row("---", ["---"])]
    named = {key.removeprefix("henaw."): text for key, text in sorted(facts.items()) if "henaw.figure." not in key}
    return "\n".join([*lines, *(table_row(key.replace("_", " "), [text]) for key, text in named.items())])


def _figures(figures: Mapping[str, Mapping[str, float | None]]) -> str:
    lines = [table_row("", ["", "95 % interval"]), table_row("---", ["---:", "---:"])]
    return "\n".join([*lines, *(table_row(figure(name).title, _cells(name, found)) for name, found in figures.items())])


def _cells(name: str, found: Mapping[str, float | None]) -> list[str]:
    known = figure(name)
    value, lower, upper = (math.nan if found[key] is None else found[key] or 0.0 for key in ("value", "lower", "upper"))
    return [known.shown(value), "" if math.isnan(lower) else f"{known.shown(lower)} to {known.shown(upper)}"]


def _subgroups(target: str, evaluation: Mapping[str, Any]) -> list[str]:
    parts = []
    for partition, title in _PARTITIONS.items():
        rows = [row for row in evaluation["subgroups"] if row["partition"] == partition]
        names = [name for name in _SUBGROUPS[target] if any(row["figure"] == name for row in rows)]
        groups = dict.fromkeys(row["group"] for row in rows)
        if not rows or not names:
            continue
        lines = [table_row("", ["people", *(figure(name).title for name in names)])]
        lines.append(table_row("---", ["---:"] * (len(names) + 1)))
        for group in groups:
            of_group = {row["figure"]: row for row in rows if row["group"] == group}
            cells = [f"{of_group[names[0]]['n']:,}"]
            for name in names:
                value, interval = _cells(name, of_group[name])
                cells.append(f"{value} ({interval})" if interval else value)
            lines.append(table_row(str(group), cells))
        parts += [f"### {title}", "\n".join(lines)]
    if evaluation["withheld"]:
        parts.append(f"Withheld, so that nothing rests on fewer than five people: {', '.join(evaluation['withheld'])}.")
    return parts


def _calibration(evaluation: Mapping[str, Any]) -> list[str]:
    found = {name: value for name, value in evaluation["figures"].items() if name.startswith("observed_expected_")}
    coverages = {name: value for name, value in evaluation["figures"].items() if name.startswith("coverage_")}
    if found:
        return ["### Calibration of risk", "Observed over expected deaths; 1 where risk is right.", _figures(found)]
    return ["### Calibration of intervals", _figures(coverages)] if coverages else []


def _references(evaluation: Mapping[str, Any]) -> list[str]:
    lines = []
    for short, reference in evaluation["references"].items():
        for name, found in reference["differences"].items():
            if name in _COMPARED and short != MIXTURE:
                value, interval = (
                    figure(name).difference(found["value"] if found["value"] is not None else math.nan),
                    _cells(name, found)[1],
                )
                lines.append(table_row(reference["title"], [figure(name).title, value, interval, found["verdict"]]))
    if not lines:
        return []
    head = [table_row("", ["", "this clock's less its", "95 % interval", ""]), table_row("---", ["---"] * 4)]
    return ["### Beside other clocks, on the same people", "\n".join([*head, *lines])]


def _call(name: str, clock: Clock) -> str:
    columns = list(input_columns(clock.panel))
    row = {column: ("female" if column == "sex" else 50.0 if column == "age_years" else None) for column in columns}
    units = "\n".join(
        table_row(
            f"`{marker.name}`", [marker.title, marker.unit, f"{marker.plausible[0]:g} to {marker.plausible[1]:g}"]
        )
        for marker in clock.panel.biomarkers
    )
    answered = output_columns(clock.target)[0]
    risks = f" and the risk of death within {' and '.join(map(str, RISK_YEARS))} years" if clock.hazard else ""
    return "\n".join(
        [
            f"`henaw score --model models:/{name}@champion --input rows.csv --output ages.csv`, or over HTTP:",
            "",
            "```",
            "POST /invocations",
            json.dumps({"dataframe_records": [row]}),
            "```",
            "",
            f"`null` where a biomarker is missing; with more than {clock.max_missing} missing, a value beyond belief, "
            f"or no sex, the answer is `abstain` with its reasons. Answers hold `{answered}`, its "
            f"interval{risks}, `status` and `flags`.",
            "",
            table_row("column", ["", "unit", "plausible"]),
            table_row("---", ["---", "---", "---"]),
            units,
        ]
    )
