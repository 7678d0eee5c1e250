"""Three of nine markers missing: what a clock that knows of it gains over one that is given means."""

from __future__ import annotations

import numpy as np
from bars import Bar, Section, Watch, compared, shown, table
from boosted import LEVELS, lightgbm_point
from fitting import PROFILES, Fitted, Plan, age_sample, ages, features, fit, predict
from judging import CRPS, HIT, MAE, Judged, single
from numpy.typing import NDArray
from standard_splits import StandardSplit

from henaw.data.panel import Biomarker, Panel
from henaw.evaluation.bootstrap import bootstrap
from henaw.training.fit import people_arrays

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]

MISSING = 3
HIDDEN, IMPUTED = "markers hidden", "mean imputed"
UNMASKED, BOOSTED = "mean imputed, trained without masking", "LightGBM, mean imputed"


def missing_markers(section: Section, plan: Plan, people: StandardSplit, clocks: list[Fitted]) -> None:
    """Three of nine markers hidden from every test person, against the training people's means in their place."""
    age, panel = ages(people.test), people.panel
    names = (HIDDEN, IMPUTED, UNMASKED, *([BOOSTED] if plan.boosted else []))
    judged = {name: Judged() for name in names}
    for seed, fitted in zip(plan.seeds, clocks, strict=True):
        biomarkers = people_arrays(people.test, panel)[0]
        hidden = _hidden(biomarkers.shape, seed)
        filled = np.where(hidden, _means(panel, people_arrays(fitted.train, panel)[0]), biomarkers)
        plain = fit(plan, PROFILES["A"], people, seed, "training.mask_rate=0")
        for name, clock, values in (
            (HIDDEN, fitted.clock, np.where(hidden, np.nan, biomarkers)),
            (IMPUTED, fitted.clock, filled),
            (UNMASKED, plain.clock, filled),
        ):
            judged[name].add(predict(clock, people.test, values).quantiles(LEVELS), age, Watch())
        if plan.boosted:
            train, calibration = (age_sample(each, panel) for each in (fitted.train, fitted.calibration))
            model = lightgbm_point(train, calibration, seed)
            judged[BOOSTED].add(model(features(people.test, panel, filled)), age, Watch())
    statistics = {name: each.statistic for name, each in judged.items()}
    found = bootstrap(statistics, people.test["participant"], draws=plan.draws)
    rows = []
    for name in judged:
        mae, crps, hit = (shown(single(found[name], column).estimate(), 3) for column in (MAE, CRPS, HIT))
        difference = single(found[HIDDEN] - found[name], MAE)
        rows.append([name, mae, "" if name == HIDDEN else compared(difference, 3, "lower"), crps, hit])
    section.add(
        f"{MISSING} of {len(panel.names)} markers missing at random, the same ones for all; means are of the training "
        "people, on the scale of the features:"
    )
    section.add(table(["", "MAE", "hidden − it", "CRPS", "90 % coverage"], rows))
    gains = {name: float(found[name].value[MAE] - found[HIDDEN].value[MAE]) for name in judged if name != HIDDEN}
    covered = float(found[HIDDEN].value[HIT])
    figure = f"{min(gains.values()):.2f} lower ({min(gains, key=lambda name: gains[name])}), coverage {covered:.3f}"
    met = min(gains.values()) >= 0.3 and 0.88 <= covered <= 0.95
    section.bars.append(Bar(f"A: {MISSING} markers missing", figure, "MAE ≥ 0.3 lower, coverage .88–.95", met))


def _hidden(shape: tuple[int, ...], seed: int) -> Rows:
    """Which markers (n, m) a person misses: ``MISSING`` of them, each set as likely as any other."""
    random = np.random.default_rng(seed)
    return np.asarray(random.random(shape).argsort(axis=1).argsort(axis=1) < MISSING)


def _means(panel: Panel, biomarkers: Array) -> Array:
    """Mean of each marker (m,) on the scale on which it is a feature, in its own unit."""
    return np.array([_mean(each, column) for each, column in zip(panel.biomarkers, biomarkers.T, strict=True)])


def _mean(marker: Biomarker, values: Array) -> float:
    if marker.transform == "log":
        return float(np.exp(np.log(values).mean()))
    return float(np.expm1(np.log1p(values).mean()) if marker.transform == "log1p" else values.mean())
