"""The adjusted gap has no regression on age left in it."""

import numpy as np
import pytest

from henaw.model.gap import GapRegression, fit_gap


def test_a_known_line_is_found_and_removed() -> None:
    age = np.linspace(20, 80, 61)
    regression = fit_gap(12 - 0.25 * age, age)
    assert (regression.intercept, regression.slope) == (pytest.approx(12), pytest.approx(-0.25))
    np.testing.assert_allclose(regression.adjust(12 - 0.25 * age + 3, age), 3, atol=1e-9)


def test_what_is_left_is_centered_and_uncorrelated_with_age() -> None:
    rng = np.random.default_rng(1)
    age = rng.uniform(20, 80, 500)
    gap = 9 - 0.15 * age + rng.normal(0, 5, 500)
    found = fit_gap(gap, age)
    left = found.adjust(gap, age)
    assert left.mean() == pytest.approx(0, abs=1e-9)
    assert np.corrcoef(left, age)[0, 1] == pytest.approx(0, abs=1e-9)
    assert found.sd == pytest.approx(left.std())


@pytest.mark.parametrize(("gap", "age"), [([4.0], [50.0]), ([1.0, 3.0], [50.0, 50.0])])
def test_where_ages_do_not_vary_only_the_mean_is_removed(gap: list[float], age: list[float]) -> None:
    assert fit_gap(np.array(gap), np.array(age)) == GapRegression(float(np.mean(gap)), 0.0, 1.0)


def test_a_gap_that_age_alone_tells_is_not_blown_up() -> None:
    age = np.linspace(20, 80, 61)
    gap = 50.0 - age
    found = fit_gap(gap, age)
    np.testing.assert_allclose(found.adjust(gap, age) / found.sd, 0, atol=1e-6)
