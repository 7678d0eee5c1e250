"""A decision on a promotion, as a person reads it."""

from __future__ import annotations

from henaw.evaluation.figures import figure
from henaw.evaluation.pairing import Group
from henaw.evaluation.report import difference_cells, estimate_cells, table_row
from henaw.registry.gates import Decision

_GROUP_FIGURES = ("crps_years", "mae_years", "coverage_90", "concordance", "brier")


def verdict_line(decision: Decision, name: str, challenger: int, champion: int | None) -> str:
    """The decision in one line."""
    against = f"against champion version {champion}" if champion is not None else "with no champion to compare it with"
    said = "passes every gate" if decision.promoted else f"is refused by {len(decision.failing)} gates"
    if len(decision.failing) == 1:
        said = "is refused by 1 gate"
    return f"{name} version {challenger} {said}, {against}."


def reasons(decision: Decision) -> str:
    """The gates that are not passed, a line each."""
    return "\n".join(f"  {finding.gate}: {finding.words}" for finding in decision.failing)


def decision_markdown(decision: Decision, name: str, challenger: int, champion: int | None) -> str:
    """The decision whole: gates, figures, groups."""
    parts = [
        f"# Promotion of {name} version {challenger}: {'yes' if decision.promoted else 'no'}",
        verdict_line(decision, name, challenger, champion),
        "## Gates",
        "\n".join(
            [
                table_row("gate", ["", "why"]),
                table_row("---", ["---", "---"]),
                *(
                    table_row(each.gate, ["passed" if each.passed else "**not passed**", each.words.replace("|", "/")])
                    for each in decision.findings
                ),
            ]
        ),
    ]
    if decision.comparison is not None:
        parts += [
            "## Figures",
            "Both clocks on the same held-out people. A difference is the challenger's figure less the champion's, "
            "paired; intervals hold 95 % (bootstrap by person).",
        ]
        parts += [_figures(group) for group in decision.comparison.groups]
    return "\n\n".join(parts) + "\n"


def _figures(group: Group) -> str:
    whole = group.partition == group.name
    title = "### Everyone" if whole else f"### By {group.partition}: {group.name}"
    head = ["champion", "95 % interval", "challenger", "95 % interval", "difference", "95 % interval"]
    lines = [title, "", f"{group.people:,} people", "", table_row("", head), table_row("---", ["---:"] * len(head))]
    for name, ours in group.challenger.items():
        if not whole and name not in _GROUP_FIGURES:
            continue
        theirs = estimate_cells(name, group.champion[name]) if name in group.champion else ["", ""]
        less = difference_cells(name, group.difference[name]) if name in group.difference else ["", ""]
        lines.append(table_row(figure(name).title, [*theirs, *estimate_cells(name, ours), *less]))
    return "\n".join(lines)
