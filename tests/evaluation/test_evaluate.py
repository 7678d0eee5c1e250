"""An evaluation from end to end: both clocks, their references, ties, and people who are too few."""

import json
import re
import warnings

import numpy as np
import pytest

from henaw.errors import BadInput
from henaw.evaluation import gallery
from henaw.evaluation.bootstrap import Estimate
from henaw.evaluation.concordance import harrell_c
from henaw.evaluation.evaluate import evaluate
from henaw.evaluation.figures import verdict
from henaw.evaluation.report_text import markdown
from henaw.training.fit import fit_clock, people_arrays
from tests.scenarios import KNOWN, Recorder, known_cohort, mortal_cohort, tiny_config

COVERAGES = [0.5, 0.9]
DRAWS = 40
ENOUGH = "network.members=3 network.hidden=[16] training.epochs=10 training.batch_size=128 training.learning_rate=0.01"


TYPICAL = {
    "albumin_g_l": 43.0,
    "creatinine_umol_l": 75.0,
    "glucose_mmol_l": 5.3,
    "lymphocyte_pct": 29.0,
    "mcv_fl": 90.0,
    "rdw_pct": 13.0,
    "alkaline_phosphatase_u_l": 70.0,
    "wbc_10e9_l": 6.5,
    "crp_mg_l": 2.0,
}


def with_phenoage(table, left_out=()):
    """The markers of PhenoAge beside those of the panel; ``left_out`` rows lack one of them."""
    spread = np.random.default_rng(7).normal(0, 0.05, len(table))
    table = table.assign(**{name: value * np.exp(spread) for name, value in TYPICAL.items()})
    table.loc[table.index[list(left_out)], "glucose_mmol_l"] = np.nan
    return table


@pytest.fixture(scope="module")
def cohorts():
    return {
        "age": (known_cohort(1_500, 0).table, with_phenoage(known_cohort(600, 1).table)),
        "mortality": (mortal_cohort(2_500, 0).table, mortal_cohort(1_200, 1).table),
    }


@pytest.fixture(scope="module")
def clocks(cohorts):
    found = {}
    for target, (train, _) in cohorts.items():
        config = tiny_config(f"{ENOUGH} target={target}")
        found[target] = fit_clock(train[:-300], train[-300:], KNOWN, config, Recorder())[0]
    return found


@pytest.fixture(scope="module")
def evaluated(cohorts, clocks):
    return {target: evaluate(clocks[target], *cohorts[target], COVERAGES, DRAWS, 0) for target in cohorts}


def test_figures_of_the_age_clock_are_those_of_its_predictions(cohorts, clocks, evaluated):
    test, report = cohorts["age"][1], evaluated["age"].report
    distribution = clocks["age"].predict(*people_arrays(test, KNOWN))
    age = test["age_years"].to_numpy()
    lower, upper = distribution.interval(0.9)
    expected = {
        "n": 600,
        "mae_years": np.abs(distribution.median - age).mean(),
        "rmse_years": np.sqrt(np.mean((distribution.median - age) ** 2)),
        "r": np.corrcoef(distribution.median, age)[0, 1],
        "coverage_90": ((lower <= age) & (age <= upper)).mean(),
        "width_90_years": (upper - lower).mean(),
    }
    assert {name: report.main[name] for name in expected} == pytest.approx(expected)
    for name in ("mae_years", "r", "coverage_90"):
        found = report.figures[name]
        assert found.lower < found.value < found.upper
    women = (test["sex"] == "female").to_numpy()
    found = report.metrics["by_sex/female/mae_years"]
    assert found == pytest.approx(np.abs(distribution.median - age)[women].mean())
    assert {"crps_years", "crps_99_years", "nll_nats", "pit_misplaced", "lower/mae_years"} <= report.metrics.keys()
    assert "concordance" not in report.main  # nobody was followed


def test_a_clock_that_knows_better_than_a_line_is_called_better_and_its_own_mixture_a_tie(evaluated):
    """Looseness makes the spread, which ridge regression's one residual deviation cannot follow."""
    references = evaluated["age"].report.references
    ridge = references["ridge"].differences["crps_years"]
    assert verdict("crps_years", ridge) == "better"
    own, theirs = evaluated["age"].report.figures["crps_years"], references["ridge"].figures["crps_years"]
    assert ridge.value == pytest.approx(own.value - theirs.value)
    assert abs(references["mixture"].differences["crps_years"].value) < 0.05
    assert "mae_years" in references["phenoage"].figures
    assert "mae_years" not in references["phenoage"].differences  # it is told the age that it would have to predict
    assert "crps_years" in references["no_markers"].figures


def test_figures_of_the_mortality_clock_are_those_of_its_ranks_and_risks(cohorts, clocks, evaluated):
    test, report = cohorts["mortality"][1], evaluated["mortality"].report
    distribution = clocks["mortality"].predict(*people_arrays(test, KNOWN))
    years, died = test["followup_months"].to_numpy() / 12, test["died"].to_numpy()
    assert report.main["concordance"] == pytest.approx(harrell_c(distribution.median, years, died))
    assert report.main["deaths"] == died.sum()
    assert report.figures["hazard_ratio"].lower > 1
    assert 0.7 < report.main["observed_expected_10y"] < 1.4
    assert 0 < report.main["brier"] < 0.25
    assert "mae_years" not in report.main  # nobody can observe biological age
    assert not any(name.startswith("coverage_") for name in report.main)
    alone = report.references["age_alone"]
    assert verdict("concordance", alone.differences["concordance"]) == "better"
    assert alone.figures["concordance"].value == pytest.approx(harrell_c(test["age_years"].to_numpy(), years, died))
    assert {"linear_gompertz", "mixture"} <= report.references.keys()
    assert "phenoage" not in report.references  # its markers are not there
    assert {5, 10} == set(report.risk_calibration)


@pytest.mark.parametrize(
    ("name", "difference", "said"),
    [
        ("mae_years", (-0.2, -0.3, -0.1), "better"),
        ("mae_years", (0.2, 0.1, 0.3), "worse"),
        ("mae_years", (-0.2, -0.5, 0.1), "tie"),
        ("concordance", (0.01, 0.005, 0.02), "better"),
        ("concordance", (-0.01, -0.02, -0.005), "worse"),
        ("concordance", (0.00002, 0.00001, 0.00003), "tie"),  # nothing is left of it in four decimals
        ("width_90_years", (-2.0, -3.0, -1.0), ""),
    ],
)
def test_ties_are_called_ties(name, difference, said):
    assert verdict(name, Estimate(*difference)) == said


@pytest.mark.parametrize("target", ["age", "mortality"])
def test_names_suit_a_tracker_and_values_strict_json(evaluated, target):
    report = evaluated[target].report
    assert all(re.fullmatch(r"[A-Za-z0-9_./]+", name) for name in report.metrics)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["people"] == report.people
    assert report.main.items() <= report.metrics.items()


@pytest.mark.parametrize("target", ["age", "mortality"])
def test_the_text_has_whole_tables_and_every_figure(evaluated, target):
    report = evaluated[target].report
    text = markdown(report)
    assert "nan" not in text
    for reference in report.references.values():
        assert f"### {reference.title[0].upper()}{reference.title[1:]}" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    first, *_ = report.summary().splitlines()
    assert first == f"Evaluated on {report.people:,} held-out people."
    assert len(report.summary().splitlines()) < 16
    assert "(better)" in report.summary()


@pytest.mark.parametrize("target", ["age", "mortality"])
def test_no_persons_value_is_in_the_report(cohorts, evaluated, target):
    report = evaluated[target].report
    text = json.dumps(report.to_dict()) + markdown(report) + repr(report)
    for value in [*cohorts[target][1]["age_years"], *evaluated[target].distribution.median]:
        assert repr(float(value)) not in text


def test_people_with_a_reference_are_compared_with_themselves(cohorts, clocks):
    """PhenoAge has no answer where one of its markers is missing: both clocks are judged on the others."""
    train, test = cohorts["mortality"]
    unanswered = np.arange(0, len(test), 4)
    report = evaluate(clocks["mortality"], train, with_phenoage(test, unanswered), COVERAGES, DRAWS, 0).report
    found = report.references["phenoage"]
    assert found.people == 900
    answered = np.delete(np.arange(len(test)), unanswered)
    alone = evaluate(clocks["mortality"], train, with_phenoage(test).iloc[answered], COVERAGES, DRAWS, 0).report
    same = alone.references["phenoage"]
    assert found.figures["concordance"].value == pytest.approx(same.figures["concordance"].value)
    assert found.differences["concordance"].value == pytest.approx(same.differences["concordance"].value)
    assert report.main["concordance"] != pytest.approx(alone.main["concordance"])


@pytest.mark.parametrize(("left", "shown"), [(0, True), (1, False), (4, False), (5, True)])
def test_a_reference_that_leaves_out_very_few_is_not_shown(cohorts, clocks, left, shown):
    train, test = cohorts["age"]
    report = evaluate(clocks["age"], train, with_phenoage(test, range(left)), COVERAGES, 5, 0).report
    assert ("phenoage" in report.references) is shown


def test_people_are_resampled_and_counted_not_rows(cohorts, clocks):
    train, test = cohorts["age"]
    half = test[:300]
    twice = np.repeat(np.arange(300), 2)
    once, doubled = (
        evaluate(clocks["age"], train, table, COVERAGES, DRAWS, 0).report for table in (half, half.iloc[twice])
    )
    assert doubled.people == 300
    assert doubled.figures["mae_years"].numbers == pytest.approx(once.figures["mae_years"].numbers)


def test_few_deaths_are_no_survival(cohorts, clocks):
    train, test = cohorts["mortality"]
    died = test["died"].where(test["died"].cumsum() <= 19, 0.0)
    found = evaluate(clocks["mortality"], train, test.assign(died=died), COVERAGES, 5, 0)
    assert not {"concordance", "brier", "hazard_ratio", "deaths"} & found.report.main.keys()
    assert "age_alone" not in found.report.references
    assert not any(name.startswith(("survival", "risk")) for name, _ in gallery.figures(found, COVERAGES))


@pytest.mark.parametrize("people", [1, 4])
@pytest.mark.parametrize("target", ["age", "mortality"])
def test_an_evaluation_of_very_few_publishes_no_figure(cohorts, clocks, people, target):
    train, test = cohorts[target]
    report = evaluate(clocks[target], train, test[:people], COVERAGES, DRAWS, 0).report
    assert report.people == people
    assert report.metrics == {}
    assert report.to_dict()["people"] == "<5"
    assert "Withheld" in report.summary()
    assert "|" not in report.summary() + markdown(report)
    for text in (report.summary(), markdown(report)):
        assert "ewer than 5 held-out people" in text
        assert not re.search(rf"\b{people}\b", text)


@pytest.mark.parametrize(("survivors", "shown"), [(0, True), (1, False), (4, False), (5, True)])
@pytest.mark.parametrize("target", ["age", "mortality"])
def test_deaths_do_not_give_away_a_few_survivors(cohorts, clocks, target, survivors, shown):
    train, test = cohorts["mortality"]
    test = test[:100].assign(died=[0.0] * survivors + [1.0] * (100 - survivors))
    assert ("deaths" in evaluate(clocks[target], train, test, COVERAGES, 2, 0).report.main) == shown


def test_a_gap_that_age_and_sex_tell_has_no_hazard_ratio_and_one_age_no_gap(cohorts, clocks):
    train, test = cohorts["mortality"]
    unmeasured = test.assign(**dict.fromkeys(KNOWN.names, np.nan))
    for people in (unmeasured, test.assign(age_years=50.0)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            report = evaluate(clocks["age"], train, people, COVERAGES, 5, 0).report
        assert "hazard_ratio" not in report.main


@pytest.mark.parametrize("men", [1, 4])
def test_a_small_group_cannot_be_worked_out_from_the_others(cohorts, clocks, men):
    train, test = cohorts["age"]
    test = test[:100].assign(sex=["male"] * men + ["female"] * (100 - men))
    report = evaluate(clocks["age"], train, test, COVERAGES, 5, 0).report
    assert not any(name.startswith("by_sex/") for name in report.metrics)
    assert {"sex: female", "sex: male"} <= set(report.subgroups.withheld)


def test_nobody_and_unknown_ages_are_refused(cohorts, clocks):
    train, test = cohorts["age"]
    with pytest.raises(BadInput, match="no people to evaluate"):
        evaluate(clocks["age"], train, test[:0], COVERAGES, DRAWS, 0)
    test = test.assign(age_years=test["age_years"].where(np.arange(len(test)) > 2))
    with pytest.raises(BadInput, match="age_years: 3 of 600 values missing"):
        evaluate(clocks["age"], train, test, COVERAGES, DRAWS, 0)


@pytest.mark.parametrize("target", ["age", "mortality"])
def test_every_figure_of_the_gallery_is_drawn(evaluated, target, tmp_path):
    drawn = dict(gallery.figures(evaluated[target], COVERAGES))
    both = {
        "predicted_against_true",
        "age_gap_by_age",
        "interval_width_by_age",
        "barycenter_against_mixture",
        "attribution",
    }
    more = {"age": {"calibration"}, "mortality": {"survival_by_gap", "risk_calibration"}}
    assert set(drawn) == both | more[target]
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.svg")


def test_a_clock_of_bins_is_evaluated_and_drawn(cohorts, tmp_path):
    train, test = cohorts["age"]
    clock = fit_clock(
        train[:-300], train[-300:], KNOWN, tiny_config(f"{ENOUGH} network.head=bins network.bin_years=3"), Recorder()
    )[0]
    found = evaluate(clock, train, test, COVERAGES, DRAWS, 0)
    assert found.report.figures["coverage_90"].value == pytest.approx(0.9, abs=0.06)
    assert found.report.figures["mae_years"].value < 7
    assert all(np.isfinite(estimate.value) for estimate in found.report.figures.values())
    for name, figure in gallery.figures(found, COVERAGES):
        figure.savefig(tmp_path / f"{name}.svg")
