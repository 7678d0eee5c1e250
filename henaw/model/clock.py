"""The fitted clock: everything needed to predict, saved without pickle and loaded only if whole.

On disk a clock is a folder: ``clock.json`` (panel, scaling, architecture, what it was trained on),
``weights.safetensors`` and, written last, ``manifest.json`` with a BLAKE2b digest of the other two.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from henaw import __version__
from henaw.data.files import digest_file
from henaw.data.panel import Panel
from henaw.errors import IntegrityError
from henaw.model.distribution import GaussianEnsemble
from henaw.model.ensemble import EnsembleShape, forward, network_inputs
from henaw.model.features import FeatureScaling, raw_features
from henaw.model.gap import GapRegression

Array = NDArray[np.float64]

FORMAT = 1
CLOCK_FOLDER = "clock"  # its name among the artifacts of a run and of a registered model
SEXES = ("female", "male")  # coded 0 and 1
LEAST_PUBLISHED = 5  # people that a figure stored with the clock is made of
FILES = ("clock.json", "weights.safetensors")  # manifest.json comes last and has their digests


@dataclass(frozen=True)
class TrainingRange:
    """What the training people spanned: outside it an answer is an extrapolation.

    Attributes:
        lowest, highest: ends of every biomarker's range, shape (m,), NaN where unknown; see ``range_ends``.
        ages: ends of the age range in whole years.
    """

    lowest: Array
    highest: Array
    ages: tuple[int, int]


def range_ends(values: Array) -> tuple[float, float]:
    """Ends of the range of ``values`` (n,): means of the 0.1 % lowest and highest, of at least five people each.

    A mean over five people is nobody's value, so that the ends may be published with the model. NaN is ignored; with
    fewer than five values the range is unknown: NaN, which no value lies outside of.
    """
    seen = np.sort(values[np.isfinite(values)])
    if seen.size < LEAST_PUBLISHED:
        return np.nan, np.nan
    count = max(LEAST_PUBLISHED, seen.size // 1000)
    return float(seen[:count].mean()), float(seen[-count:].mean())


@dataclass(frozen=True)
class Clock:
    """A fitted age clock.

    Attributes:
        panel: the biomarkers it reads, in order.
        scaling: of the features, shapes (p,).
        shape: architecture of the ensemble.
        weights: parameters as ``shape.parameter_shapes()``, float64.
        gap: the regression that the adjusted gap has removed.
        trained_on: ranges of the training people.
        max_missing: most biomarkers that may be missing for an answer.
    """

    panel: Panel
    scaling: FeatureScaling
    shape: EnsembleShape
    weights: dict[str, Array]
    gap: GapRegression
    trained_on: TrainingRange
    max_missing: int

    def predict(self, biomarkers: Array, sex: Array) -> GaussianEnsemble:
        """Predict biological age.

        Args:
            biomarkers: canonical units, shape (n, m) in the panel's order, NaN = missing.
            sex: shape (n,), 0 = female, 1 = male; NaN is read as half-way (the answer then is not to be used).

        Returns:
            A distribution a person; finite whatever the values.
        """
        scaled, present = self.scaling.apply(raw_features(self.panel, biomarkers))
        inputs = network_inputs(scaled, present, np.where(np.isfinite(sex), sex, 0.5))
        return GaussianEnsemble(*forward(self.shape, self.weights, inputs))

    def save(self, folder: Path) -> None:
        """Write the clock into ``folder``, which is created."""
        folder.mkdir(parents=True)
        save_file(
            {name: values.astype(np.float32) for name, values in self.weights.items()}, folder / "weights.safetensors"
        )
        (folder / "clock.json").write_text(
            json.dumps(self._description(), indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8"
        )
        files = {name: digest_file(folder / name) for name in FILES}
        (folder / "manifest.json").write_text(
            json.dumps({"format": FORMAT, "blake2b": files}, indent=1), encoding="utf-8"
        )

    def _description(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "henaw_version": __version__,
            "panel": self.panel.model_dump(mode="json"),
            "scaling": {"center": self.scaling.center.tolist(), "scale": self.scaling.scale.tolist()},
            "shape": asdict(self.shape),
            "gap": asdict(self.gap),
            "trained_on": {
                "lowest": _none_for_nan(self.trained_on.lowest),
                "highest": _none_for_nan(self.trained_on.highest),
                "ages": list(self.trained_on.ages),
            },
            "max_missing": self.max_missing,
        }


def _none_for_nan(values: Array) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def load_clock(folder: Path) -> Clock:
    """Read a clock that ``Clock.save`` wrote.

    Raises:
        IntegrityError: a file is missing, differs from the manifest, has another format, or its weights do not fit the
            architecture. Nothing is used of such a clock.
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
        shape = EnsembleShape(**{**described["shape"], "hidden": tuple(described["shape"]["hidden"])})
        trained_on = described["trained_on"]
        clock = Clock(
            panel=Panel.model_validate(described["panel"]),
            scaling=FeatureScaling(*(np.array(described["scaling"][key]) for key in ("center", "scale"))),
            shape=shape,
            weights={name: values.astype(np.float64) for name, values in weights.items()},
            gap=GapRegression(**described["gap"]),
            trained_on=TrainingRange(
                lowest=np.array(trained_on["lowest"], dtype=np.float64),
                highest=np.array(trained_on["highest"], dtype=np.float64),
                ages=tuple(trained_on["ages"]),
            ),
            max_missing=described["max_missing"],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise IntegrityError(f"{folder.name}: not a whole clock ({type(error).__name__}); it was not loaded") from None
    _require_fit(clock, folder.name)
    return clock


def _require_fit(clock: Clock, name: str) -> None:
    found = {key: values.shape for key, values in clock.weights.items()}
    expected = clock.shape.parameter_shapes()
    wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    features = len(clock.panel.names) + len(clock.panel.derived)
    if clock.scaling.center.shape != (features,) or clock.shape.inputs != 2 * features + 1:
        wrong.append("scaling")
    if wrong:
        raise IntegrityError(
            f"{name}: {', '.join(wrong)}: shapes do not fit the architecture; the clock was not loaded"
        )
