"""The report of ``henaw compare-served``: tables for a terminal, or the same figures as JSON."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from henaw.errors import BadInput
from henaw.serving.compared_figures import (
    STATUSES,
    ArmFigures,
    ShadowFigures,
    SplitFigures,
    Spread,
    shadow_figures,
    split_figures,
)
from henaw.serving.ledger import FOLDER, Found, Subject, read_ledgers
from henaw.serving.tallies import Tally

_WITHHELD = "–"
_NOTES = (
    "–: rests on too little to be shown (no cell of fewer than five rows; no interval from fewer than five requests). "
    "Intervals hold 95 % and count requests, as rows of one request are not independent. Quantiles are to a tenth of a "
    "year within ten years of zero and to a year beyond, times to 5 %."
)
_SPLIT_NOTE = "Each request id belongs to one arm, so the arms were asked about different people."
_SHADOW_NOTE = (
    "The same rows, answered by both; only the champion's answers were sent. The challenger's time is that of a "
    "process that yields to all others."
)


def report(state: Path, since: str, *, as_json: bool) -> str:
    """Everything that was counted on this machine.

    Args:
        state: ``state.folder``.
        since: first day, as 2026-11-30; empty = all.
        as_json: for programs.

    Raises:
        BadInput: no such day, or nothing was counted.
    """
    if since:
        try:
            dt.date.fromisoformat(since)
        except ValueError:
            raise BadInput(f"since {since!r}: expected a day as 2026-11-30") from None
    found = read_ledgers(state, since)
    if not found.tallies or found.days is None:
        what = f" since {since}" if since else ""
        raise BadInput(
            f"{state / FOLDER}: nothing to compare{what}; expected what henaw serve --shadow or --split counts there"
            f"{_unreadable(found)}"
        )
    splits, shadows = _splits(found.tallies), _shadows(found.tallies)
    if as_json:
        document = {
            "days": found.days,
            "unreadable_files": found.unreadable,
            "splits": [
                {
                    "champion": pair[0],
                    "challenger": pair[1],
                    "arms": {"champion": asdict(figures.champion), "challenger": asdict(figures.challenger)},
                    "differences": figures.differences,
                }
                for pair, figures in splits
            ],
            "shadows": [{"champion": pair[0], "challenger": pair[1], **asdict(each)} for pair, each in shadows],
        }
        return json.dumps(_rounded(document), indent=2, allow_nan=False)
    days = " to ".join(dict.fromkeys(found.days))
    parts = [f"# Champion and challenger as served, {days} (UTC){_unreadable(found)}"]
    parts += [_split_page(names, figures) for names, figures in splits]
    parts += [_shadow_page(names, figures) for names, figures in shadows]
    return "\n\n".join([*parts, _NOTES])


def _unreadable(found: Found) -> str:
    return f"; {found.unreadable} file(s) could not be read" if found.unreadable else ""


def _splits(tallies: dict[Subject, Tally]) -> list[tuple[tuple[str, str], SplitFigures]]:
    pairs = sorted({(subject.champion, subject.challenger) for subject in tallies if subject.kind == "split"})
    return [
        (
            pair,
            split_figures(*(tallies.get(Subject("split", *pair, arm), Tally()) for arm in ("champion", "challenger"))),
        )
        for pair in pairs
    ]


def _shadows(tallies: dict[Subject, Tally]) -> list[tuple[tuple[str, str], ShadowFigures]]:
    return [
        ((subject.champion, subject.challenger), shadow_figures(tally))
        for subject, tally in sorted(tallies.items(), key=lambda item: (item[0].champion, item[0].challenger))
        if subject.kind == "shadow"
    ]


def _split_page(names: tuple[str, str], figures: SplitFigures) -> str:
    arms = (figures.champion, figures.challenger)
    apart = figures.differences
    requests = sum(arm.requests for arm in arms)
    rows = [
        ["requests", *(f"{arm.requests:,} ({_percent(arm.requests / max(1, requests))})" for arm in arms), ""],
        ["rows", *(f"{arm.rows:,}" for arm in arms), ""],
        *(
            [f"rows {status}", *(_of_rows(arm, status) for arm in arms), _points(apart.get(f"{status}_share"))]
            for status in STATUSES
        ),
        ["age gap, mean (years)", *(_mean(arm.gap) for arm in arms), _years(apart["gap_years"])],
        ["age gap, sd", *(_number(arm.gap.sd, ".2f") for arm in arms), ""],
        ["age gap, 5, 50, 95 %", *(_joined(arm.gap.quantiles.values(), "+.1f") for arm in arms), ""],
        ["time to answer, 50, 95, 99 % (ms)", *(_joined(arm.milliseconds.values(), ".2f") for arm in arms), ""],
        ["requests not answered (5xx)", *(f"{arm.unanswered:,}" for arm in arms), ""],
        ["failed, the champion answered", "", f"{figures.challenger.failed:,}", ""],
    ]
    bins = [[f"{key} years", *(_percent(arm.gap.shares[key]) for arm in arms)] for key in figures.champion.gap.shares]
    head = ["", f"champion {names[0]}", f"challenger {names[1]}"]
    return "\n\n".join(
        [
            f"## A/B: {names[0]} and {names[1]}",
            _table([*head, "challenger less champion"], rows),
            _table(["age gap", *head[1:]], bins),
            _SPLIT_NOTE,
        ]
    )


def _shadow_page(names: tuple[str, str], figures: ShadowFigures) -> str:
    apart = figures.difference
    facts = [
        ["requests compared", f"{figures.requests:,}"],
        ["rows", f"{figures.rows:,}"],
        ["requests at which the challenger failed", f"{figures.failed:,}"],
        ["difference of biological age, mean (years)", _mean(apart)],
        ["difference, sd", _number(apart.sd, ".2f")],
        ["difference, 5, 50, 95 %", _joined(apart.quantiles.values(), "+.1f")],
        ["mean absolute difference", _number(figures.distance, ".2f")],
        *(
            [f"time of the {who}, 50, 95, 99 % (ms)", _joined(found.values(), ".2f")]
            for who, found in figures.milliseconds.items()
        ),
    ]
    agreement = [
        [f"champion {one}", *(_count(figures.agreement[f"{one}/{other}"]) for other in STATUSES)] for one in STATUSES
    ]
    bins = [[f"{key} years", _percent(share)] for key, share in apart.shares.items()]
    return "\n\n".join(
        [
            f"## Shadow: {names[1]} beside {names[0]}",
            _table(["challenger less champion", ""], facts),
            _table(["difference", "rows"], bins),
            _table(["rows", *(f"challenger {status}" for status in STATUSES)], agreement),
            _SHADOW_NOTE,
        ]
    )


def _of_rows(arm: ArmFigures, status: str) -> str:
    count = arm.status[status]
    return _WITHHELD if count is None else f"{count:,} ({_percent(count / max(1, arm.rows))})"


def _mean(spread: Spread) -> str:
    if spread.mean is None:
        return _WITHHELD
    interval = "" if spread.interval is None else " [{:+.2f}, {:+.2f}]".format(*spread.interval)
    return f"{spread.mean:+.2f}{interval}"


def _years(estimate: tuple[float, float, float] | None) -> str:
    return _WITHHELD if estimate is None else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*estimate)


def _points(estimate: tuple[float, float, float] | None) -> str:
    if estimate is None:
        return _WITHHELD
    return "{:+.1f} [{:+.1f}, {:+.1f}] points".format(*(100 * value for value in estimate))


def _percent(share: float | None) -> str:
    return _WITHHELD if share is None else f"{100 * share:.1f} %"


def _count(count: int | None) -> str:
    return _WITHHELD if count is None else f"{count:,}"


def _number(value: float | None, form: str) -> str:
    return _WITHHELD if value is None else format(value, form)


def _joined(values: Iterable[float | None], form: str) -> str:
    return " / ".join(_number(value, form) for value in values)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns line up at a terminal."""
    lines = [columns, *rows]
    widths = [max(len(line[position]) for line in lines) for position in range(len(columns))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
