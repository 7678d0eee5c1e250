"""Write the biomarkers' lines of the suites from ``mlproject/panels/biomarkers.yaml``.

Run ``python -m henaw.validation.biomarkers`` after a change there; ``git diff expectations`` is what gets reviewed. It
replaces the lines with ``in_panel`` in their ``meta.henaw`` and keeps all others, in their order, before them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from henaw.config import asset_folder
from henaw.data.files import write_atomically
from henaw.data.panel import Biomarker, load_biomarkers
from henaw.validation.definitions import SUITES


def expectations_for(suite: str, marker: Biomarker) -> list[dict[str, Any]]:
    """What ``suite`` (``schema`` or ``biomarker_ranges``) expects of ``marker``, in Great Expectations' JSON form."""
    if suite == "biomarker_ranges":
        low, high = (int(end) if end.is_integer() else end for end in marker.plausible)
        return [
            _expectation(
                "expect_column_values_to_be_between",
                {"column": marker.name, "min_value": low, "max_value": high},
                {"on_failure": "set_aside", "rule": "plausible", "in_panel": True, "unit": marker.unit},
            )
        ]
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


def regenerated(suite: str, text: str, markers: Iterable[Biomarker]) -> str:
    """The file of ``suite`` with the biomarkers' lines in ``text`` replaced, one expectation a line."""
    document = json.loads(text)
    kept = [entry for entry in document.pop("expectations") if not entry["meta"]["henaw"].get("in_panel")]
    written = [entry for marker in markers for entry in expectations_for(suite, marker)]
    head = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}," for key, value in document.items()]
    lines = [f"    {json.dumps(entry, ensure_ascii=False)}" for entry in kept + written]
    return "\n".join(["{", *head, '  "expectations": [', ",\n".join(lines), "  ]", "}", ""])


def main() -> None:
    """Regenerate every suite in place."""
    markers = load_biomarkers(asset_folder("mlproject") / "panels").values()
    for suite in SUITES:
        path = asset_folder("expectations") / f"{suite}.json"
        text = regenerated(suite, path.read_text(encoding="utf-8"), markers)

        def write(temporary: Path, text: str = text) -> None:
            temporary.write_text(text, encoding="utf-8")

        write_atomically(path, write, mode=0o644)


def _expectation(kind: str, kwargs: dict[str, Any], action: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "meta": {"henaw": action}}


if __name__ == "__main__":
    main()
