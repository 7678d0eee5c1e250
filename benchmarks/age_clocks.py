"""The age clock on the standard splits, beside what people would fit instead: the first table of figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from bars import Bar, Section, compared, shown, stopwatch, table
from boosted import AGE_MODELS, LEVELS, gaussian_quantiles
from fitting import PROFILES, Fitted, Plan, age_sample, ages, features, fit, over_seeds, predict
from judging import CRPS, HIT, MAE, MEDIAN, WIDTH, Judged, single
from missing_markers import missing_markers
from numpy.typing import NDArray
from standard_splits import StandardSplit, standard_split

from henaw.evaluation.bootstrap import Bootstrapped, among, bootstrap, mean_of
from henaw.evaluation.reference_clocks import fit_ridge
from henaw.evaluation.subgroups import age_bands

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]

OURS = "HENAW"
BEATEN = ("LightGBM quantile", "LightGBM", "CatBoost", "NGBoost")  # in CRPS, each by a paired interval


@dataclass(frozen=True)
class Bars:
    """Largest MAE and CRPS, and those of the moonshot."""

    mae: float
    crps: float
    moonshot_mae: float
    moonshot_crps: float


BARS = {"A": Bars(10.12, 7.15, 9.95, 7.05), "extended": Bars(8.37, 5.95, 8.1, 5.75)}


def age_section(plan: Plan, name: str) -> Section:
    """Fit and judge everything on split ``name``: A or extended."""
    people = standard_split(plan.data, name)
    age, participants = ages(people.test), people.test["participant"]
    judged, medians, clocks = {OURS: Judged()}, [], []
    for seed in plan.seeds:
        fitted = fit(plan, PROFILES[name], people, seed)
        quantiles = predict(fitted.clock, people.test).quantiles(LEVELS)
        judged[OURS].add(quantiles, age, fitted.cost)
        medians.append(quantiles[:, MEDIAN])
        clocks.append(fitted)
    _references(plan, people, clocks, judged)
    section = Section()
    found = bootstrap({clock: each.statistic for clock, each in judged.items()}, participants, draws=plan.draws)
    section.add(
        f"### Split {name}: {people.panel.name}, {len(people.train):,} people to train on and calibrate, "
        f"{len(people.test):,} to test on, {len(plan.seeds)} seeds"
    )
    section.add(_comparison(judged, found))
    section.bars += _accuracy_bars(name, found)
    if name == "A":
        _coverage(section, plan, people, judged[OURS], medians, found[OURS])
        missing_markers(section, plan, people, clocks)
    return section


def _references(plan: Plan, people: StandardSplit, clocks: list[Fitted], judged: dict[str, Judged]) -> None:
    """Fit the others to the same people, the boosted ones with the same people to stop by, and judge them."""
    age = ages(people.test)
    with stopwatch() as cost:
        ridge = fit_ridge(people.train, people.panel)
    judged["ridge"] = Judged()
    judged["ridge"].add(gaussian_quantiles(ridge.age(people.test), np.full(len(age), ridge.residual_sd)), age, cost)
    test = features(people.test, people.panel)
    for name, fit_model in AGE_MODELS.items() if plan.boosted else ():
        judged[name] = Judged()
        for seed, fitted in zip(plan.seeds, clocks, strict=True):
            train, calibration = (age_sample(each, people.panel) for each in (fitted.train, fitted.calibration))
            with stopwatch() as cost:
                model = fit_model(train, calibration, seed)
            judged[name].add(model(test), age, cost)


def _comparison(judged: dict[str, Judged], found: dict[str, Bootstrapped]) -> str:
    rows = []
    for name, each in judged.items():
        mae, crps, hit = (single(found[name], column) for column in (MAE, CRPS, HIT))
        against = ["", ""]
        if name != OURS:
            against = [compared(single(found[OURS] - found[name], column), 3, "lower") for column in (MAE, CRPS)]
        seeds = f"{each.each_seed(MAE, 2)}; {each.each_seed(CRPS, 3)}"
        rows.append(
            [
                name,
                shown(mae.estimate(), 3),
                against[0],
                shown(crps.estimate(), 3),
                against[1],
                f"{float(hit.value):.3f}",
                f"{float(found[name].value[WIDTH]):.1f}",
                seeds,
                f"{each.cost.cpu / len(each.seeds):.0f}",
            ]
        )
    columns = [
        "clock",
        "MAE, years",
        "ours − it",
        "CRPS, years",
        "ours − it",
        "90 % coverage",
        "width",
        "each seed: MAE",
    ]
    return table([*columns[:-1], "MAE; CRPS by seed", "CPU s to fit"], rows)


def _accuracy_bars(name: str, found: dict[str, Bootstrapped]) -> list[Bar]:
    bars, ours = BARS[name], found[OURS]
    mae, crps = (single(ours, column).estimate() for column in (MAE, CRPS))
    result = [
        Bar(
            f"{name}: MAE",
            shown(mae, 3),
            f"≤ {bars.mae}",
            mae.value <= bars.mae,
            f"≤ {bars.moonshot_mae}",
            mae.value <= bars.moonshot_mae,
        ),
        Bar(
            f"{name}: CRPS",
            shown(crps, 3),
            f"≤ {bars.crps}",
            crps.value <= bars.crps,
            f"≤ {bars.moonshot_crps}",
            crps.value <= bars.moonshot_crps,
        ),
    ]
    others = [other for other in BEATEN if other in found]
    if name == "A" and others:
        ends = {other: single(ours - found[other], CRPS).estimate().upper for other in others}
        worst = max(ends, key=lambda other: ends[other])
        what = f"{name}: CRPS, paired with {', '.join(others)}"
        figure = f"largest upper end {ends[worst]:.3f} ({worst})"
        result.append(Bar(what, figure, "interval below each", ends[worst] < 0))
    return result


def _coverage(
    section: Section, plan: Plan, people: StandardSplit, ours: Judged, medians: list[Array], whole: Bootstrapped
) -> None:
    """Coverage and width of the 90 % interval by predicted age, true age and sex."""
    age = ages(people.test)
    by_true, by_sex = age_bands(age), {sex: (people.test["sex"] == sex).to_numpy() for sex in ("female", "male")}
    groups: dict[str, list[Rows]] = {}
    for band in by_true:  # the same bands of predicted age, in which other people are in another seed
        groups[f"predicted age {band}"] = [age_bands(median)[band] for median in medians]
    groups |= {f"true age {band}": [rows] * len(medians) for band, rows in by_true.items()}
    groups |= {sex: [rows] * len(medians) for sex, rows in by_sex.items()}
    statistics = {
        name: over_seeds([among(rows, mean_of(each[rows])) for rows, each in zip(masks, ours.seeds, strict=True)])
        for name, masks in groups.items()
    }
    found = bootstrap(statistics, people.test["participant"], draws=plan.draws)
    rows = [["everybody", f"{len(age):,}", shown(single(whole, HIT).estimate(), 3), f"{whole.value[WIDTH]:.1f}"]]
    for name, masks in groups.items():
        number = np.mean([mask.sum() for mask in masks])
        hit = single(found[name], HIT).estimate()
        rows.append([name, f"{number:,.0f}", shown(hit, 3), f"{float(found[name].value[WIDTH]):.1f}"])
    section.add(
        "Coverage of the 90 % interval (means over seeds; bands of predicted age hold other people in each seed):"
    )
    section.add(table(["people", "n", "coverage", "mean width, years"], rows))
    value = {name: float(each.value[HIT]) for name, each in found.items()}
    covered = float(whole.value[HIT])
    groups_judged = [name for name in groups if not name.startswith("true age")]
    section.bars.append(Bar("A: 90 % interval, everybody", f"{covered:.3f}", ".89–.92", 0.89 <= covered <= 0.92))
    section.bars.append(
        Bar(
            "A: 90 % interval, each band of predicted age and sex",
            _range(value, groups_judged),
            ".88–.93",
            all(0.88 <= value[name] <= 0.93 for name in groups_judged),
            f"true-age bands ≥ .85 ({_range(value, [f'true age {band}' for band in by_true])})",
            all(value[f"true age {band}"] >= 0.85 for band in by_true),
        )
    )


def _range(value: dict[str, float], names: list[str]) -> str:
    low, high = min(names, key=lambda name: value[name]), max(names, key=lambda name: value[name])
    return f"{value[low]:.3f} ({low}) to {value[high]:.3f} ({high})"
