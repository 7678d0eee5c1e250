"""The answer about one person, with all that a person wants to see of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from henaw.model.answers import QUANTILE_COLUMNS, answer_arrays
from henaw.model.attribution import attribute
from henaw.model.clock import Clock
from henaw.serving.fast import to_json
from henaw.serving.page.description import numbers_or_null
from henaw.serving.refusals import Detail, Refusal
from henaw.serving.schema import Rows


@dataclass(frozen=True)
class Explanation:
    """The reply, and the status and flags in it."""

    body: bytes
    status: str
    flags: str


def require_one(rows: Rows) -> None:
    """Refuse anything but a single row.

    Raises:
        Refusal: ``SCHEMA_MISMATCH``.
    """
    if len(rows) != 1:
        raise Refusal("SCHEMA_MISMATCH", "expected exactly one row", [Detail(None, None, "one_row")])


def explain(clock: Clock, rows: Rows) -> Explanation:
    """Answer one row, as ``/invocations`` does, with what that answer is made of.

    The reply has ``answer`` (the row that ``/invocations`` would answer), ``quantiles`` (``q01`` … ``q99``, years),
    ``members`` (the median of each member, years) and ``attribution`` (shares in years and the medians that stood in,
    in canonical units, see ``henaw.model.attribution``); all but the first are null where the row abstains.
    """
    answers = answer_arrays(clock, rows.biomarkers, rows.sex, rows.age, rows.coverage, quantiles=True)
    row: dict[str, Any] = json.loads(to_json(answers))["predictions"][0]
    quantiles = [row.pop(name) for name in QUANTILE_COLUMNS]
    reply: dict[str, Any] = {"answer": row, "quantiles": None, "members": None, "attribution": None}
    if not answers.abstains[0]:
        distribution = clock.predict(rows.biomarkers, rows.sex, rows.age)
        reply |= {
            "quantiles": quantiles,
            "members": distribution.member_medians()[:, 0].tolist(),
            "attribution": _attribution(clock, rows),
        }
    return Explanation(json.dumps(reply, allow_nan=False).encode(), answers.status[0], answers.flags[0])


def _attribution(clock: Clock, rows: Rows) -> dict[str, Any]:
    shares = attribute(clock, rows.biomarkers, rows.sex, rows.age)
    medians = numbers_or_null(clock.reference.of(rows.sex, rows.age)[0])
    return {
        "by_marker": dict(zip(clock.panel.names, shares.by_marker[0].tolist(), strict=True)),
        "by_organ": dict(zip(shares.organs, shares.by_organ[0].tolist(), strict=True)),
        "medians": dict(zip(clock.panel.names, medians, strict=True)),
        "total": float(shares.total[0]),
        "interaction": float(shares.interaction[0]),
    }
