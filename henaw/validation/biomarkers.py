"""Write the biomarkers' lines of the suites from ``biomarkers.yaml`` and ``reference.yaml`` in ``mlproject/panels``.

Run ``python -m henaw.validation.biomarkers`` after a change there; ``git diff expectations`` is what gets reviewed. It
replaces the lines with ``in_panel`` in their ``meta.henaw`` and keeps all others, in their order, before them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from henaw.config import asset_folder
from henaw.data.files import write_atomically
from henaw.data.panel import Biomarker, load_biomarkers
from henaw.validation.definitions import SUITES
from henaw.validation.reference import Reference, load_reference

LEAST_KNOWN = 0.7  # a biomarker that fewer rows have is worth a word


def expectations_for(suite: str, marker: Biomarker, reference: Reference | None) -> list[dict[str, Any]]:
    """What ``suite`` expects of ``marker``, in Great Expectations' JSON form: of its median only with a reference."""
    if suite == "biomarker_ranges":
        low, high = map(_plain, marker.plausible)
        return [
            _expectation(
                "expect_column_values_to_be_between",
                {"column": marker.name, "min_value": low, "max_value": high},
                {"on_failure": "set_aside", "rule": "plausible", "in_panel": True, "unit": marker.unit},
            )
        ]
    if suite == "cohort":
        return _of_the_whole_column(marker, reference)
    return [
        _expectation(
            "expect_column_to_exist",
            {"column": marker.name},
            {"on_failure": "block", "rule": "present", "in_panel": True},
        ),
        _expectation(
            "expect_column_values_to_be_of_type",
            {"column": marker.name, "type_": "float64"},
            {"on_failure": "block", "rule": "numeric", "in_panel": True},
        ),
    ]


def regenerated(suite: str, text: str, markers: Iterable[Biomarker], references: Mapping[str, Reference]) -> str:
    """The file of ``suite`` with the biomarkers' lines in ``text`` replaced, one expectation a line."""
    document = json.loads(text)
    kept = [entry for entry in document.pop("expectations") if not entry["meta"]["henaw"].get("in_panel")]
    written = [entry for marker in markers for entry in expectations_for(suite, marker, references.get(marker.name))]
    head = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}," for key, value in document.items()]
    lines = [f"    {json.dumps(entry, ensure_ascii=False)}" for entry in kept + written]
    return "\n".join(["{", *head, '  "expectations": [', ",\n".join(lines), "  ]", "}", ""])


def main() -> None:
    """Regenerate every suite in place."""
    panels = asset_folder("mlproject") / "panels"
    markers, references = load_biomarkers(panels).values(), load_reference(panels)
    for suite in SUITES:
        path = asset_folder("expectations") / f"{suite}.json"
        text = regenerated(suite, path.read_text(encoding="utf-8"), markers, references)

        def write(temporary: Path, text: str = text) -> None:
            temporary.write_text(text, encoding="utf-8")

        write_atomically(path, write, mode=0o644)


def _of_the_whole_column(marker: Biomarker, reference: Reference | None) -> list[dict[str, Any]]:
    lines = [
        _expectation(
            "expect_column_proportion_of_non_null_values_to_be_between",
            {"column": marker.name, "min_value": LEAST_KNOWN},
            {"on_failure": "warn", "rule": "mostly_known", "in_panel": True},
        ),
        _expectation(
            "expect_column_unique_value_count_to_be_between",
            {"column": marker.name, "min_value": 2},
            {"on_failure": "warn", "rule": "varies", "in_panel": True},
        ),
    ]
    if reference is not None:
        low, high = map(_plain, reference.usual_median)
        lines.append(
            _expectation(
                "expect_column_median_to_be_between",
                {"column": marker.name, "min_value": low, "max_value": high},
                {"on_failure": "warn", "rule": "usual_median", "in_panel": True, "unit": marker.unit},
            )
        )
    return lines


def _plain(number: float) -> int | float:
    return int(number) if number.is_integer() else number


def _expectation(kind: str, kwargs: dict[str, Any], action: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "meta": {"henaw": action}}


if __name__ == "__main__":
    main()
