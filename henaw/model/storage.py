"""A clock on disk: written without pickle, loaded only if whole.

A folder with ``clock.json`` (panel, scaling, architecture, calibration, what it was trained on),
``weights.safetensors`` and, written last, ``manifest.json`` with a BLAKE2b digest of the other two.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from henaw import __version__
from henaw.data.files import digest_file
from henaw.data.panel import Panel
from henaw.errors import IntegrityError
from henaw.model.bins import BinsHead
from henaw.model.calibration import GRID, Calibration
from henaw.model.clock import Clock, TrainingRange
from henaw.model.ensemble import EnsembleShape
from henaw.model.features import FeatureScaling
from henaw.model.gap import GapRegression
from henaw.model.hazard import Gompertz
from henaw.model.heads import Head, Link, QuantileHead
from henaw.model.reference import ReferenceMedians

Array = NDArray[np.float64]

FORMAT = 4
LEAST_BIN_YEARS = 0.01  # finer ones would only fill the memory
CLOCK_FOLDER = "clock"  # its name among the artifacts of a run and of a registered model
FILES = ("clock.json", "weights.safetensors")  # manifest.json comes last and has their digests
HEADS: dict[str, type[QuantileHead] | type[BinsHead]] = {"quantiles": QuantileHead, "bins": BinsHead}


def save_clock(clock: Clock, folder: Path) -> None:
    """Write ``clock`` into ``folder``, which is created."""
    folder.mkdir(parents=True)
    weights = {name: np.ascontiguousarray(values, np.float32) for name, values in clock.weights.items()}
    save_file(weights, folder / "weights.safetensors")
    described = {"format": FORMAT, "henaw_version": __version__} | {
        field.name: _plain(getattr(clock, field.name)) for field in fields(clock) if field.name != "weights"
    }
    described["shape"] = describe_shape(clock.shape)
    text = json.dumps(described, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "clock.json").write_text(text, encoding="utf-8")
    manifest = {"format": FORMAT, "blake2b": {name: digest_file(folder / name) for name in FILES}}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _plain(value: Any) -> Any:
    """``value`` in the types of JSON; NaN becomes null in an array, where it means unknown, and nowhere else."""
    if isinstance(value, Panel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(part) for name, part in asdict(value).items()}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        cells = value.astype(object)
        cells[np.isnan(value)] = None
        return cells.tolist()
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def describe_shape(shape: EnsembleShape) -> dict[str, Any]:
    """The architecture in the types of JSON; ``head.kind`` is a name in ``HEADS``."""
    kind = next(name for name, form in HEADS.items() if isinstance(shape.head, form))
    plain: dict[str, Any] = _plain(shape)
    return {**plain, "head": {"kind": kind, **plain["head"]}}


def read_shape(described: dict[str, Any], source: str) -> EnsembleShape:
    """The architecture that ``describe_shape`` described.

    Raises:
        IntegrityError: the head is of a kind that this version does not know, or its fields are not those of its kind;
            the message begins with ``source`` and names them.
    """
    values = dict(described["head"])
    kind = values.pop("kind", None)
    if kind not in HEADS:
        raise IntegrityError(f"{source}: shape.head.kind {kind!r}, expected one of {', '.join(HEADS)}")
    form = HEADS[kind]
    expected = [field.name for field in fields(form)]
    if wrong := sorted(values.keys() ^ set(expected)):
        raise IntegrityError(
            f"{source}: shape.head: {', '.join(wrong)} missing or unknown; expected {', '.join(expected)} "
            f"in a head of kind {kind}"
        )
    if "knots" in values:
        values["knots"] = tuple(values["knots"])
    return EnsembleShape(**{**described, "hidden": tuple(described["hidden"]), "head": form(**values)})


def load_clock(folder: Path) -> Clock:
    """Read a clock that ``save_clock`` wrote.

    Raises:
        IntegrityError: a file is missing, differs from the manifest, has another format, or what it holds does not fit
            together or can be no clock's (a digest says that a file is whole, not who wrote it). Nothing is used of
            such a clock.
    """
    if missing := [name for name in (*FILES, "manifest.json") if not (folder / name).is_file()]:
        raise IntegrityError(f"{folder.name}: {', '.join(missing)} missing; the clock was not loaded")
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise IntegrityError(
                f"{folder.name}: clock format {manifest['format']!r}, expected {FORMAT}; load it with the version of "
                "HENAW that made it"
            )
        for name in FILES:
            if digest_file(folder / name) != manifest["blake2b"][name]:
                raise IntegrityError(f"{folder.name}/{name}: differs from its manifest; the clock was not loaded")
        described = json.loads((folder / "clock.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "weights.safetensors")
        clock = _built(described, {name: values.astype(np.float64) for name, values in weights.items()}, folder.name)
        _require_possible_head(clock.shape.head, folder.name)  # whose outputs are asked for next
        _require_fit(clock, folder.name)
        _require_possible(clock, folder.name)
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError, SafetensorError) as error:
        raise IntegrityError(f"{folder.name}: not a whole clock ({type(error).__name__}); it was not loaded") from None
    return clock


def _built(described: dict[str, Any], weights: dict[str, Array], source: str) -> Clock:
    hazard = described["hazard"]
    trained_on = described["trained_on"]
    return Clock(
        panel=Panel.model_validate(described["panel"]),
        scaling=FeatureScaling(**_arrays(described["scaling"])),
        shape=read_shape(described["shape"], source),
        weights=weights,
        calibration=Calibration(**_arrays(described["calibration"])),
        gap=GapRegression(**described["gap"]),
        hazard=None if hazard is None else Gompertz(**hazard),
        trained_on=TrainingRange(
            **_arrays({name: trained_on[name] for name in ("lowest", "highest")}), ages=tuple(trained_on["ages"])
        ),
        reference=ReferenceMedians(**_arrays(described["reference"])),
        max_missing=described["max_missing"],
    )


def _arrays(values: dict[str, Any]) -> dict[str, Array]:
    return {name: np.array(value, dtype=np.float64) for name, value in values.items()}


def _require_fit(clock: Clock, name: str) -> None:
    found = {key: values.shape for key, values in clock.weights.items()}
    expected = clock.shape.parameter_shapes()
    wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    features = len(clock.panel.names) + len(clock.panel.derived)
    inputs = 2 * features + 1 + (clock.hazard is not None)
    if {clock.scaling.center.shape, clock.scaling.scale.shape} != {(features,)} or clock.shape.inputs != inputs:
        wrong.append("scaling")
    markers = (len(clock.panel.names),)
    if (clock.trained_on.lowest.shape, clock.trained_on.highest.shape, len(clock.trained_on.ages)) != (
        markers,
        markers,
        2,
    ):
        wrong.append("trained_on")
    if clock.calibration.levels.shape != (len(clock.calibration.edges) + 1, len(GRID)):
        wrong.append("calibration")
    if clock.reference.medians.shape != (2, len(clock.reference.edges) + 1, len(clock.panel.names)):
        wrong.append("reference")
    if wrong:
        raise IntegrityError(
            f"{name}: {', '.join(wrong)}: shapes do not fit the architecture; the clock was not loaded"
        )


def _require_possible(clock: Clock, name: str) -> None:
    """Refuse numbers that no fitted clock has and that would make answers of NaN, or no answers at all."""
    scaling, levels, edges = clock.scaling, clock.calibration.levels, clock.calibration.edges
    hazard = () if clock.hazard is None else (clock.hazard.alpha, clock.hazard.beta)
    possible = {
        "weights": all(np.isfinite(values).all() for values in clock.weights.values()),
        "scaling": np.isfinite([scaling.center, scaling.scale]).all() and (scaling.scale > 0).all(),
        "calibration": (levels[:, 0] == 0).all() and (levels[:, -1] == 1).all() and _ascending(levels),
        "calibration.edges": _ascending(edges),
        "gap": _numbers(clock.gap.intercept, clock.gap.slope, clock.gap.sd) and clock.gap.sd > 0,
        "hazard": _numbers(*hazard) and (not hazard or hazard[1] > 0),
        "trained_on.ages": _numbers(*clock.trained_on.ages),
        "reference.edges": _ascending(clock.reference.edges),
        "max_missing": _numbers(clock.max_missing),
    }
    if wrong := [part for part, holds in possible.items() if not holds]:
        raise IntegrityError(f"{name}: {', '.join(wrong)}: values that no clock has; it was not loaded")


def _require_possible_head(head: Head, name: str) -> None:
    holds = False
    if isinstance(head, BinsHead):
        holds = _numbers(head.low, head.high, head.width) and head.low < head.high and head.width >= LEAST_BIN_YEARS
    elif isinstance(head, QuantileHead):
        holds = _numbers(head.scale, head.low, head.high) and (head.center is None or _numbers(head.center))
        holds = holds and head.link in get_args(Link) and all(a < b for a, b in pairwise((0.0, *head.knots, 1.0)))
    if not holds:
        raise IntegrityError(f"{name}: shape.head: values that no clock has; it was not loaded")


def _ascending(values: Array) -> bool:
    """Whether finite numbers never fall along the last axis."""
    return bool(np.isfinite(values).all() and (np.diff(values) >= 0).all())


def _numbers(*values: Any) -> bool:
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)
