"""A clock on people whom it has never seen, beside the clocks that they would use instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from henaw.data.disclosure import SMALLEST_CELL
from henaw.errors import BadInput
from henaw.evaluation.age_scores import age_scores, misplaced_of, mixture_scores, spread_scores
from henaw.evaluation.bootstrap import Bootstrapped, Estimate, Statistic, bootstrap, people_in, root_mean_square_of
from henaw.evaluation.mixture import mixture_survival
from henaw.evaluation.prediction import People, Prediction
from henaw.evaluation.references import reference_predictions
from henaw.evaluation.report import MIXTURE, Reference, Report
from henaw.evaluation.subgroups import SubgroupFigures, figures_by_subgroup, standard_partitions
from henaw.evaluation.suppression import publishable
from henaw.evaluation.survival import risk_calibration
from henaw.model.clock import RISK_YEARS, Clock
from henaw.model.distribution import EnsembleDistribution
from henaw.training.fit import people_arrays

Array = NDArray[np.float64]

AGE_FIGURES = ("mae_years", "r")  # errors in predicting chronological age: nothing to compare where it is told
OURS = "ours"


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The report, and what its plots are drawn from: values of people, which go nowhere else.

    Attributes:
        report: what may be published.
        clock: that was evaluated.
        people: the truth.
        distribution: predicted biological age.
        biomarkers, sex: as the clock was told them, (n, m) and (n,).
    """

    report: Report
    clock: Clock
    people: People
    distribution: EnsembleDistribution
    biomarkers: Array
    sex: Array


def evaluate(
    clock: Clock, train: pd.DataFrame, test: pd.DataFrame, coverages: Sequence[float], draws: int, seed: int
) -> Evaluated:
    """Score ``clock`` on the people of ``test``, and the references, fitted to ``train``, on the same people.

    Args:
        clock: of either target.
        train: clean participant table that the clock was made from.
        test: other participants.
        coverages: of the central intervals to report, each between 0 and 1.
        draws: resampled cohorts of the bootstrap by person.
        seed: of them.

    Raises:
        BadInput: nobody to evaluate, or an age that is missing.
    """
    _check(test)
    # the products are small: where cores are shared, threads of BLAS wait for each other longer than they work
    with threadpool_limits(limits=1, user_api="blas"):
        return _evaluated(clock, train, test, coverages, draws, seed)


def _evaluated(
    clock: Clock, train: pd.DataFrame, test: pd.DataFrame, coverages: Sequence[float], draws: int, seed: int
) -> Evaluated:
    biomarkers, sex, age = people_arrays(test, clock.panel)
    distribution = clock.predict(biomarkers, sex, age)
    people, participants = People.of(test), test["participant"].to_numpy(dtype=object)
    number = people_in(participants, np.ones(len(test), dtype=np.bool_))
    ours = own_prediction(clock, distribution, people, coverages)
    figures: dict[str, Estimate] = {}
    references: dict[str, Reference] = {}
    deciles: dict[int, pd.DataFrame] = {}
    subgroups = SubgroupFigures(pd.DataFrame(columns=["partition", "group"]), ("all",))
    if number >= SMALLEST_CELL:
        others = reference_predictions(train, test, clock.panel, clock.target, people.brier_grid())
        others[MIXTURE] = _mixture(clock, distribution, people, coverages)
        figures, references = _compare(ours, others, people, participants, draws, seed, distribution, clock)
        figures = {"n": _exact(number)} | figures
        dead = people_in(participants, people.followed & (people.died > 0))
        if {"dead", "not"} == publishable({"dead": dead, "not": number - dead}) or dead == number:
            figures["deaths"] = _exact(float(people.died[people.followed].sum()))
        partitions = standard_partitions(age, distribution.median, test["sex"], np.isnan(biomarkers).sum(axis=1))
        partitions = {name: groups for name, groups in partitions.items() if len(groups) > 1}
        subgroups = figures_by_subgroup(ours.scores, partitions, participants, draws=draws, seed=seed)
        seen = people.followed
        for horizon, risk in ours.risks.items():
            if people.reaches(horizon):
                deciles[horizon] = risk_calibration(
                    risk[seen], people.years[seen], people.died[seen], horizon, participants[seen],
                    draws=draws, seed=seed,
                )  # fmt: skip
    report = Report(clock.target, number, draws, figures, subgroups, references, deciles)
    return Evaluated(report, clock, people, distribution, biomarkers, sex)


def own_prediction(
    clock: Clock, distribution: EnsembleDistribution, people: People, coverages: Sequence[float]
) -> Prediction:
    """What ``clock`` says of ``people``, in the form in which clocks are compared."""
    median, title = distribution.median, "this clock"
    if clock.hazard is None:
        scores = age_scores(distribution, people.age, coverages)
        return Prediction(title, scores, age=median, rank=median, mean=distribution.mean, reads_age=False)
    hazard, grid = clock.hazard, people.brier_grid()
    scores = {"mean_gap_years": median - people.age} | spread_scores(distribution, coverages)
    survival = hazard.survival(distribution, np.array([*grid, *RISK_YEARS], dtype=np.float64))
    risks = {years: 1 - survival[:, len(grid) + position] for position, years in enumerate(RISK_YEARS)}
    return Prediction(title, scores, rank=median, survival=survival[:, : len(grid)], risks=risks)


def _mixture(
    clock: Clock, distribution: EnsembleDistribution, people: People, coverages: Sequence[float]
) -> Prediction:
    title = "the mixture of its members"
    scores, median = mixture_scores(distribution, people.age, coverages)
    if clock.hazard is None:
        return Prediction(title, scores, age=median, rank=median, reads_age=False)
    grid = people.brier_grid()
    survival = mixture_survival(distribution, clock.hazard, np.array([*grid, *RISK_YEARS], dtype=np.float64))
    risks = {years: 1 - survival[:, len(grid) + position] for position, years in enumerate(RISK_YEARS)}
    widths = {name: values for name, values in scores.items() if name.startswith("width_")}
    return Prediction(title, widths, rank=median, survival=survival[:, : len(grid)], risks=risks)


def _compare(
    ours: Prediction,
    others: dict[str, Prediction],
    people: People,
    participants: NDArray[np.object_],
    draws: int,
    seed: int,
    distribution: EnsembleDistribution,
    clock: Clock,
) -> tuple[dict[str, Estimate], dict[str, Reference]]:
    """All figures from one bootstrap, so that every difference is paired."""
    everyone = np.ones(len(people.age), dtype=np.bool_)
    statistics = {(OURS, name): statistic for name, statistic in ours.statistics(people, everyone).items()}
    if clock.hazard is None:
        statistics[OURS, "rmse_years"] = root_mean_square_of(distribution.median - people.age)
        statistics[OURS, "pit_misplaced"] = misplaced_of(distribution.cdf(people.age))
    own = [name for _, name in statistics]
    sizes = {}
    for short, other in others.items():
        rows = other.answered()
        parts = {"answered": people_in(participants, rows), "not": people_in(participants, ~rows)}
        if publishable(parts) != {name for name, size in parts.items() if size} or not parts["answered"]:
            continue  # those whom it leaves out would be too few
        sizes[short] = parts["answered"]
        theirs = other.statistics(people, rows)
        statistics |= {(short, name): statistic for name, statistic in theirs.items()}
        if not rows.all():  # ours on the same people
            same = ours.statistics(people, rows)
            statistics |= {(f"{OURS}|{short}", name): same[name] for name in theirs if name in same}
    found = _bootstrapped(statistics, participants, draws, seed)
    references = {}
    for short, size in sizes.items():
        figures = {name: each.estimate() for (whose, name), each in found.items() if whose == short}
        beside = f"{OURS}|{short}" if any(whose == f"{OURS}|{short}" for whose, _ in found) else OURS
        differences = {
            name: (found[beside, name] - found[short, name]).estimate()
            for name in figures
            if (beside, name) in found and not (others[short].reads_age and name in AGE_FIGURES)
        }
        references[short] = Reference(others[short].title, size, figures, differences)
    return {name: found[OURS, name].estimate() for name in own}, references


def _bootstrapped(
    statistics: dict[tuple[str, str], Statistic], participants: NDArray[np.object_], draws: int, seed: int
) -> dict[tuple[str, str], Bootstrapped]:
    by_name = {f"{whose}/{name}": statistic for (whose, name), statistic in statistics.items()}
    found = bootstrap(by_name, participants, draws=draws, seed=seed)
    return {key: found["/".join(key)] for key in statistics}


def _exact(number: float) -> Estimate:
    return Estimate(float(number), np.nan, np.nan)


def _check(test: pd.DataFrame) -> None:
    if test.empty:
        raise BadInput("evaluation: no people to evaluate; expected at least one held-out row")
    unknown = int((~np.isfinite(test["age_years"].to_numpy(np.float64))).sum())
    if unknown:
        raise BadInput(f"evaluation: age_years: {unknown:,} of {len(test):,} values missing or not finite")
