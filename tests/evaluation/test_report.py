"""The report: its figures, what it withholds, and what it refuses."""

import json
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import scoringrules
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from henaw.errors import BadInput
from henaw.evaluation.metrics import crps_gaussian
from henaw.evaluation.report import SMALLEST_CELL, evaluate, publishable

COVERAGES = [0.5, 0.8, 0.9, 0.95]


@dataclass(frozen=True)
class Normal:
    """Gaussian predictions."""

    mean: np.ndarray
    aleatoric_sd: np.ndarray
    epistemic_sd: np.ndarray

    @property
    def median(self):
        return self.mean

    def quantiles(self, levels):
        return self.mean[:, None] + self.aleatoric_sd[:, None] * norm.ppf(levels)

    def interval(self, coverage):
        return tuple(self.quantiles(np.array([(1 - coverage) / 2, (1 + coverage) / 2])).T)

    def cdf(self, values):
        return norm.cdf(values, self.mean, self.aleatoric_sd)


class Exponential(Normal):
    """Predictions as skewed as can be: an exponential distribution of the given mean."""

    @property
    def median(self):
        return self.mean * np.log(2)

    def quantiles(self, levels):
        return -self.mean[:, None] * np.log1p(-np.asarray(levels))


def cohort(people, seed=0, kind=Normal):
    random = np.random.default_rng(seed)
    age = random.uniform(20, 80, people)
    mean = age + random.normal(0, 9, people)
    sd = random.uniform(6, 12, people)
    return kind(mean, sd, random.uniform(0.5, 2, people)), age, random.choice(["female", "male"], people)


def subset(predictions, rows):
    return Normal(predictions.mean[rows], predictions.aleatoric_sd[rows], predictions.epistemic_sd[rows])


def test_figures_of_everyone():
    predictions, age, sex = cohort(2_000)
    metrics = evaluate(predictions, age, sex, COVERAGES).metrics
    error = predictions.mean - age
    assert metrics["n"] == 2_000
    assert metrics["mae_years"] == pytest.approx(np.abs(error).mean())
    assert metrics["rmse_years"] == pytest.approx(np.sqrt((error**2).mean()))
    assert metrics["mean_error_years"] == pytest.approx(error.mean())
    assert metrics["r"] == pytest.approx(np.corrcoef(predictions.mean, age)[0, 1])
    exact = scoringrules.crps_normal(age, predictions.mean, predictions.aleatoric_sd).mean()
    assert metrics["crps_gaussian_years"] == pytest.approx(exact)
    assert metrics["crps_years"] == pytest.approx(exact, rel=1e-4)
    assert metrics["aleatoric_sd_years"] == pytest.approx(predictions.aleatoric_sd.mean())
    assert metrics["epistemic_sd_years"] == pytest.approx(predictions.epistemic_sd.mean())
    for coverage in COVERAGES:
        reach = predictions.aleatoric_sd * norm.ppf((1 + coverage) / 2)
        assert metrics[f"coverage_{100 * coverage:g}"] == np.mean(np.abs(error) <= reach)
        assert metrics[f"width_{100 * coverage:g}_years"] == pytest.approx(2 * reach.mean())


def test_crps_is_that_of_the_distribution_whatever_its_shape():
    predictions, age, sex = cohort(500, kind=Exponential)
    metrics = evaluate(predictions, age, sex, [0.9]).metrics
    exact = scoringrules.crps_exponential(age, 1 / predictions.mean).mean()
    assert metrics["crps_years"] == pytest.approx(exact, rel=1e-3)
    moments = crps_gaussian(predictions.mean, predictions.aleatoric_sd, age).mean()
    assert metrics["crps_gaussian_years"] == pytest.approx(moments)
    assert abs(exact - moments) > 1
    assert metrics["mae_years"] == pytest.approx(np.abs(predictions.median - age).mean())


def test_figures_of_a_sex_are_those_of_its_people_alone():
    predictions, age, sex = cohort(300)
    both = evaluate(predictions, age, sex, COVERAGES)
    for group in ("female", "male"):
        rows = sex == group
        alone = evaluate(subset(predictions, rows), age[rows], sex[rows], COVERAGES)
        assert both.groups[group] == pytest.approx(alone.groups["all"])
        assert both.metrics[f"mae_years_{group}"] == both.groups[group]["mae_years"]
        assert both.metrics[f"n_{group}"] == rows.sum()


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, ""])
def test_people_whose_sex_is_missing_are_a_group_of_their_own(missing):
    predictions, age, sex = cohort(60)
    sexes = pd.Series(sex, dtype=object)
    sexes[:10] = missing
    report = evaluate(predictions, age, sexes, [0.9])
    assert report.groups["sex_not_stated"]["n"] == 10
    assert sum(report.groups[group]["n"] for group in ("female", "male")) == 50


def test_a_string_column_of_pandas_is_understood():
    predictions, age, sex = cohort(60)
    column = pd.Series(sex, dtype="str")
    column[:10] = np.nan
    assert evaluate(predictions, age, column, [0.9]).groups["sex_not_stated"]["n"] == 10


@pytest.mark.parametrize("men", [1, SMALLEST_CELL - 1])
def test_a_small_group_cannot_be_worked_out_from_the_others(men):
    predictions, age, _ = cohort(100)
    sex = np.array(["male"] * men + ["female"] * (100 - men))
    report = evaluate(predictions, age, sex, COVERAGES)
    assert set(report.groups) == {"all"}
    assert report.withheld == ("female", "male")
    assert not any(name.endswith("male") for name in report.metrics)
    assert "Withheld" in report.markdown()


def test_five_are_enough():
    predictions, age, _ = cohort(12)
    report = evaluate(predictions, age, np.array(["male"] * 5 + ["female"] * 7), COVERAGES)
    assert set(report.groups) == {"all", "female", "male"}
    assert report.withheld == ()
    assert "Withheld" not in report.markdown()


@given(st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.integers(0, 30), max_size=8))
def test_what_is_withheld_is_nobody_or_at_least_five(sizes):
    published = publishable(sizes)
    assert all(sizes[name] >= SMALLEST_CELL for name in published)
    hidden = sum(size for name, size in sizes.items() if name not in published)
    assert hidden == 0 or hidden >= SMALLEST_CELL or not published


def test_groups_that_are_large_enough_are_published():
    assert publishable({"a": 5, "b": 60, "c": 0}) == {"a", "b"}
    assert publishable({"a": 3, "b": 4, "c": 60}) == {"c"}


@pytest.mark.parametrize("people", [1, SMALLEST_CELL - 1])
def test_an_evaluation_of_very_few_publishes_no_figure(people):
    predictions, age, sex = cohort(people)
    report = evaluate(predictions, age, sex, COVERAGES)
    assert report.people == people
    assert report.metrics == {}
    assert "all" in report.withheld
    assert "|" not in report.markdown()


def test_nobody_to_evaluate_is_refused():
    predictions, age, sex = cohort(0)
    with pytest.raises(BadInput, match="no people to evaluate"):
        evaluate(predictions, age, sex, COVERAGES)


def test_lengths_that_differ_are_refused():
    predictions, age, sex = cohort(10)
    with pytest.raises(BadInput, match=r"\(10,\) predictions, \(9,\) ages and \(10,\) sexes"):
        evaluate(predictions, age[:9], sex, COVERAGES)


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted_and_not_shown(fault):
    predictions, age, sex = cohort(10)
    with pytest.raises(BadInput, match="predicted age: 10 of 10 values missing"):
        evaluate(Normal(predictions.mean * fault, predictions.aleatoric_sd, predictions.epistemic_sd), age, sex, [0.9])
    age[3] = fault
    with pytest.raises(BadInput, match="age_years: 1 of 10 values missing"):
        evaluate(predictions, age, sex, COVERAGES)


@pytest.mark.filterwarnings("error")
def test_a_correlation_that_is_undefined_is_left_out():
    predictions, age, sex = cohort(40)
    report = evaluate(predictions, np.full_like(age, 50.0), sex, COVERAGES)
    assert "r" not in report.metrics
    assert np.isfinite(list(report.metrics.values())).all()
    assert "nan" not in report.markdown()


def test_a_correlation_of_zero_is_a_figure():
    predictions = Normal(np.array([40.0, 60.0] * 4), np.full(8, 9.0), np.full(8, 1.0))
    report = evaluate(predictions, np.array([40.0, 40.0, 60.0, 60.0] * 2), ["male"] * 8, [0.9])
    assert report.metrics["r"] == 0


def test_names_suit_a_tracker_and_values_strict_json():
    report = evaluate(*cohort(50), [0.9, 0.975])
    assert all(re.fullmatch(r"[A-Za-z0-9_.]+", name) for name in report.metrics)
    assert "coverage_97.5_female" in report.metrics
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == report.to_dict()
    assert all(type(value) is float for value in report.metrics.values())


def test_the_table_shows_every_figure_once():
    report = evaluate(*cohort(1_234), COVERAGES)
    text = report.markdown()
    assert text.startswith("Evaluated on 1,234 held-out people.\n")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(report.groups["all"])
    assert len({line.count("|") for line in table}) == 1
    assert f"| mean absolute error (years) | {report.metrics['mae_years']:.2f} |" in text
    assert f"| 90 % interval: coverage | {100 * report.metrics['coverage_90']:.1f} % |" in text


def test_no_participants_value_is_in_the_report():
    predictions, age, sex = cohort(50)
    report = evaluate(predictions, age, sex, COVERAGES)
    text = json.dumps(report.to_dict()) + report.markdown() + repr(report)
    for value in [*age, *predictions.mean, *predictions.aleatoric_sd]:
        assert repr(float(value)) not in text
