"""Hazard ratios of the gap against lifelines, cohorts with a known effect, and refits of resampled cohorts."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

from henaw.errors import BadInput
from henaw.evaluation.bootstrap import bootstrap
from henaw.evaluation.cox import hazard_ratio_of, standardized_gap

EFFECT = 0.5

pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning:lifelines")


def simulate(people, seed=0):
    random = np.random.default_rng(seed)
    age, male = random.uniform(20, 84, people), random.integers(0, 2, people).astype(float)
    gap = standardized_gap(age + random.normal(0, 6, people) - 0.2 * age, age)
    hazard = 0.02 * np.exp(EFFECT * gap + 0.08 * (age - 60) + 0.4 * male)
    death, end = random.exponential(1 / hazard), random.uniform(5, 20, people)
    return gap, age, male, np.minimum(death, end), (death <= end).astype(float)


@pytest.fixture(scope="module")
def cohort():
    return simulate(2500)


def refitted(gap, age, male, years, died):
    frame = pd.DataFrame({"gap": gap, "age": age, "male": male, "years": years, "died": died})
    return CoxPHFitter().fit(frame, "years", "died")


def test_equals_lifelines_where_no_times_tie(cohort):
    fitted = refitted(*cohort)
    found = bootstrap({"hr": hazard_ratio_of(*cohort)}, range(2500), draws=200)["hr"]
    assert found.value == pytest.approx(fitted.hazard_ratios_["gap"], rel=1e-5)
    assert np.log(found.draws).std() == pytest.approx(fitted.standard_errors_["gap"], rel=0.15)


def test_a_known_effect_is_found():
    found = [np.log(hazard_ratio_of(*simulate(2000, seed))(np.ones((2000, 1)))[0]) for seed in range(6)]
    assert np.mean(found) == pytest.approx(EFFECT, abs=3 * np.std(found) / np.sqrt(6))
    assert np.std(found) < 0.08


def test_one_step_is_as_good_as_a_refit(cohort):
    statistic = hazard_ratio_of(*cohort)
    spread = refitted(*cohort).standard_errors_["gap"]
    random = np.random.default_rng(2)
    for _ in range(3):
        drawn = random.integers(2500, size=2500)
        # a whisper of noise keeps repeated people from dying in the same instant, where Efron and Breslow differ
        years = cohort[3][drawn] * (1 + 1e-9 * random.random(2500))
        exact = refitted(*(values[drawn] for values in cohort[:3]), years, cohort[4][drawn]).params_["gap"]
        weights = np.bincount(drawn, minlength=2500)[:, None].astype(float)
        assert np.log(statistic(weights)[0]) == pytest.approx(exact, abs=0.1 * spread)


def test_gap_is_standardized_winsorized_and_free_of_age():
    random = np.random.default_rng(4)
    age = random.uniform(20, 80, 2000)
    biological = 12 + 0.6 * age + random.normal(0, 5, 2000)
    biological[:3] = [400, 300, -200]
    gap = standardized_gap(biological, age)
    assert gap.mean() == pytest.approx(0, abs=1e-12)
    assert gap.std() == pytest.approx(1)
    assert np.sum(gap == gap.max()) == np.sum(gap == gap.min()) == 10
    assert abs(np.corrcoef(gap, age)[0, 1]) < 0.1
    np.testing.assert_allclose(standardized_gap(3 + 0.09 * biological, age), gap, atol=1e-9)


def test_without_a_maximum_it_is_refused(cohort):
    gap, age, male, years, died = (values[:500].copy() for values in cohort)
    with pytest.raises(BadInput, match="expected deaths"):
        hazard_ratio_of(gap, age, male, years, np.zeros(500))
    with pytest.raises(BadInput, match="different gaps, ages and sexes"):
        hazard_ratio_of(gap, age, np.ones(500), years, died)
    with pytest.raises(BadInput, match="missing"):
        hazard_ratio_of(np.where(gap > 1, np.nan, gap), age, male, years, died)
