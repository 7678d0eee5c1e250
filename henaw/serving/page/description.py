"""What the page has to know of the version that answers, to build its form: markers, units, ranges, limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from henaw.data.panel import Biomarker, load_biomarkers
from henaw.data.units import Conversion, load_conversions
from henaw.model.answers import AGES, DEFAULT_COVERAGE, input_columns, output_columns
from henaw.model.clock import SEXES
from henaw.serving.lifecycle import Served
from henaw.settings import Serving

Units = Mapping[tuple[str, str], tuple[Conversion, ...]]
"""Other units by a marker's name and canonical unit: a model may be older than the catalog of units."""


def known_units(folder: Path) -> Units:
    """The conversions that ``folder`` (``mlproject/panels``) knows."""
    conversions = load_conversions(folder)
    return {(name, marker.unit): conversions.get(name, ()) for name, marker in load_biomarkers(folder).items()}


def describe_for_page(served: Served, units: Units, settings: Serving) -> bytes:
    """The document ``/page/model.json``: nothing in it but what the model and the settings say."""
    clock = served.clock
    panel, trained_on = clock.panel, clock.trained_on
    document = {
        "model": {"name": served.name, "version": served.number, "title": panel.title, "target": clock.target},
        "members": clock.shape.members,
        "inputs": input_columns(panel),
        "outputs": output_columns(clock.target),
        "markers": [
            _marker(marker, units, trained)
            for marker, trained in zip(
                panel.biomarkers,
                numbers_or_null(np.stack([trained_on.lowest, trained_on.highest], axis=1)),
                strict=True,
            )
        ],
        "ages": {"possible": AGES, "trained": trained_on.ages},
        "reference": {
            "edges": numbers_or_null(clock.reference.edges),
            **{sex: numbers_or_null(clock.reference.medians[code]) for code, sex in enumerate(SEXES)},
        },
        "max_missing": clock.max_missing,
        "coverage": DEFAULT_COVERAGE,
        "max_rows": settings.max_rows,
        "max_bytes": settings.max_bytes,
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def _marker(marker: Biomarker, units: Units, trained: list[float | None]) -> dict[str, Any]:
    others = units.get((marker.name, marker.unit), ())
    return {
        "name": marker.name,
        "title": marker.title,
        "organ": marker.organ,
        "plausible": marker.plausible,
        "trained": trained,
        # the canonical unit first
        "units": [{"unit": each.unit, "factor": each.factor, "zero": each.zero} for each in (_as_is(marker), *others)],
    }


def _as_is(marker: Biomarker) -> Conversion:
    return Conversion(marker.unit, 1.0)


def numbers_or_null(values: NDArray[np.float64]) -> Any:
    """``values`` as lists, with None where JSON has no number."""
    cells = values.astype(object)
    cells[~np.isfinite(values)] = None
    return cells.tolist()
