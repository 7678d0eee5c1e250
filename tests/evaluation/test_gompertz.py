"""Gompertz regression on cohorts with known hazards, and against quadrature and an independent likelihood."""

import numpy as np
import pytest
from scipy.integrate import quad

from henaw.errors import BadInput
from henaw.evaluation.gompertz import Gompertz, fit_gompertz

TRUE = Gompertz(intercept=-5.0, coefficients=np.array([0.9, -0.4, 0.0]), growth=0.09)


def simulate(people, seed=0, model=TRUE):
    random = np.random.default_rng(seed)
    covariates = random.normal(size=(people, len(model.coefficients)))
    at_start = np.exp(model.log_hazard(covariates))
    # the cumulative hazard at death is exponential with mean 1
    death = np.log1p(model.growth * random.exponential(1, people) / at_start) / model.growth
    end = random.uniform(2, 25, people)
    return covariates, np.minimum(death, end), (death <= end).astype(float)


def log_likelihood(model, covariates, years, died):
    survival = np.array(
        [model.survival(row[None], np.array([t]))[0, 0] for row, t in zip(covariates, years, strict=True)]
    )
    return np.sum(died * (model.log_hazard(covariates) + model.growth * years) + np.log(survival))


@pytest.fixture(scope="module")
def fits():
    return [fit_gompertz(*simulate(4000, seed)) for seed in range(12)]


def test_known_parameters_are_recovered(fits):
    for name, true in {"intercept": -5.0, "growth": 0.09, "coefficients": TRUE.coefficients}.items():
        found = np.array([getattr(fit, name) for fit in fits])
        error = np.abs(found.mean(axis=0) - true)
        np.testing.assert_array_less(error, 3.5 * found.std(axis=0) / np.sqrt(12))
        np.testing.assert_array_less(found.std(axis=0), 0.08)


def test_survival_is_the_integral_of_the_hazard():
    covariates = np.array([[0.5, 1.0, -1.0], [-2.0, 0.3, 0.0]])
    for row, survival in zip(covariates, TRUE.survival(covariates, np.array([0.0, 4.0, 12.5])), strict=True):
        for years, found in zip([0.0, 4.0, 12.5], survival, strict=True):
            cumulative = quad(lambda t, row=row: np.exp(TRUE.log_hazard(row[None])[0] + TRUE.growth * t), 0, years)[0]
            assert found == pytest.approx(np.exp(-cumulative), rel=1e-9)


def test_no_neighbor_is_likelier():
    cohort = simulate(400, seed=5)
    best = fit_gompertz(*cohort)
    top = log_likelihood(best, *cohort)
    for step in (-0.02, 0.02):
        assert log_likelihood(Gompertz(best.intercept + step, best.coefficients, best.growth), *cohort) < top
        assert log_likelihood(Gompertz(best.intercept, best.coefficients, best.growth + step / 10), *cohort) < top
        for direction in np.eye(3) * step:
            assert log_likelihood(Gompertz(best.intercept, best.coefficients + direction, best.growth), *cohort) < top


@pytest.mark.parametrize("growth", [1e-9, -0.05])
def test_constant_and_falling_hazards_are_fitted_too(growth):
    random = np.random.default_rng(1)
    covariates = random.normal(size=(5000, 1))
    at_start = 0.05 * np.exp(0.5 * covariates[:, 0])
    with np.errstate(invalid="ignore"):  # a falling hazard lets some people live for ever
        death = np.log1p(growth * random.exponential(1, 5000) / at_start) / growth
    years = np.fmin(death, 12.0)
    found = fit_gompertz(covariates, years, (years < 12).astype(float))
    assert found.growth == pytest.approx(growth, abs=0.02)
    assert found.coefficients[0] == pytest.approx(0.5, abs=0.06)
    assert found.intercept == pytest.approx(np.log(0.05), abs=0.1)


def test_survival_without_growth_is_exponential():
    still = Gompertz(np.log(0.3), np.zeros(0), 0.0)
    np.testing.assert_allclose(still.survival(np.zeros((1, 0)), np.array([2.0])), [[np.exp(-2 * 0.3)]])


def test_impossible_cohorts_are_refused():
    covariates, years, died = simulate(100)
    with pytest.raises(BadInput, match="people who died"):
        fit_gompertz(covariates, years, np.zeros(100))
    with pytest.raises(BadInput, match="missing"):
        fit_gompertz(np.where(covariates > 1, np.nan, covariates), years, died)
    separated = np.where(died > 0, 1.0, -1.0)[:, None] * 1e3
    with pytest.raises(BadInput, match="no maximum"):
        fit_gompertz(separated, years, died)
