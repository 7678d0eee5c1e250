"""The Gompertz hazard: recovered from simulated deaths, integrated over biological age, and fitted to other cohorts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import approx_fprime
from scipy.stats import norm

from henaw.errors import BadInput
from henaw.model.calibration import identity
from henaw.model.distribution import EnsembleDistribution
from henaw.model.hazard import Gompertz, fit_gompertz, recalibrated
from tests.scenarios import HAZARD, OWN_AGE, lifetimes, people_of

Array = NDArray[np.float64]


def point(biological_age: Array, sd: float = 0.0) -> EnsembleDistribution:
    """Everybody's biological age is known up to a Gaussian of ``sd`` years; two members who agree."""
    slope = np.log(np.expm1(sd / 10)) if sd else -800.0
    outputs = np.stack([biological_age / 10, np.full(len(biological_age), slope)], axis=1)
    return EnsembleDistribution(OWN_AGE, np.stack([outputs] * 2), np.zeros(len(biological_age)), identity())


def followed(hazard: Gompertz, age: Array, seed: int) -> tuple[Array, Array]:
    """Years followed up, 5 to 20 where nobody dies, and deaths."""
    rng = np.random.default_rng(seed)
    years, censored = lifetimes(hazard, age, rng), rng.uniform(5, 20, len(age))
    return np.minimum(years, censored), (years <= censored).astype(float)


# --- hazard, survival and risk ---------------------------------------------------------------------------------------


@given(st.floats(-14, -6), st.floats(0.02, 0.2), st.floats(20, 90), st.floats(0.01, 30))
@settings(max_examples=100)
def test_what_accumulates_is_the_integral_of_the_hazard(alpha: float, beta: float, age: float, years: float) -> None:
    gompertz = Gompertz(alpha, beta)
    expected, _ = quad(lambda time: float(gompertz.hazard(np.array(age + time))), 0, years)
    assert gompertz.cumulative(np.array(age), years) == pytest.approx(expected, rel=1e-8)


def test_risk_of_a_biological_age_that_is_certain_is_the_closed_form() -> None:
    age = np.array([25.0, 50, 70, 95])
    for years in (1.0, 5, 10, 40):
        expected = 1 - np.exp(-HAZARD.cumulative(age, years))
        np.testing.assert_allclose(HAZARD.risk(point(age), years), expected, atol=1e-12)


def test_risk_of_a_gaussian_biological_age_is_its_numerical_integral() -> None:
    age = np.array([30.0, 55, 80])
    for sd in (1.0, 6, 12):
        expected = [
            quad(lambda a, m=mean, s=sd: norm.pdf(a, m, s) * -np.expm1(-HAZARD.cumulative(np.array(a), 10)),
                 mean - 9 * sd, mean + 9 * sd, limit=200)[0]
            for mean in age
        ]  # fmt: skip
        np.testing.assert_allclose(HAZARD.risk(point(age, sd), 10), expected, atol=1e-6)


def test_survival_falls_from_one_and_is_what_risk_lacks() -> None:
    distribution, years = people_of(OWN_AGE, 9), np.array([0.0, 0.5, 1, 5, 10, 30, 150])
    survival = HAZARD.survival(distribution, years)
    assert survival.shape == (9, 7)
    np.testing.assert_allclose(survival[:, 0], 1, atol=1e-12)
    assert (np.diff(survival) < 0).all()
    np.testing.assert_allclose(survival[:, -1], 0, atol=1e-6)
    np.testing.assert_allclose(HAZARD.risk(distribution, 10), 1 - survival[:, 4])
    assert HAZARD.survival(distribution, np.empty(0)).shape == (9, 0)


def test_risk_rises_with_biological_age() -> None:
    assert (np.diff(HAZARD.risk(point(np.arange(20.0, 100)), 5)) > 0).all()


def test_interval_of_the_risk_is_the_members_disagreement() -> None:
    distribution = people_of(OWN_AGE, 20, members=9)
    years = np.array([5.0, 10.0])
    lower, upper = HAZARD.risk_interval(distribution, years, 0.8)
    members = np.stack(
        [
            1
            - HAZARD.survival(
                EnsembleDistribution(OWN_AGE, distribution.outputs[[k]], distribution.age, identity()), years
            )
            for k in range(9)
        ]
    )
    np.testing.assert_allclose([lower, upper], np.quantile(members, [0.1, 0.9], axis=0), atol=1e-12)
    wider_lower, wider_upper = HAZARD.risk_interval(distribution, years, 0.95)
    assert ((wider_lower <= lower) & (upper <= wider_upper)).all()
    agreed_lower, agreed_upper = HAZARD.risk_interval(point(np.array([60.0])), years, 0.9)
    np.testing.assert_allclose(agreed_lower, agreed_upper)


def test_nobody_is_no_error() -> None:
    nobody = people_of(OWN_AGE, 0)
    assert HAZARD.risk(nobody, 5).shape == (0,)
    assert HAZARD.risk_interval(nobody, np.array([5.0]), 0.9)[0].shape == (0, 1)


# --- the population's hazard -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", [HAZARD, Gompertz(-8.5, 0.07), Gompertz(-11.5, 0.11)], ids=str)
def test_parameters_of_a_simulated_cohort_are_recovered(truth: Gompertz) -> None:
    """20,000 people, within three standard errors (of the observed information)."""
    age = np.random.default_rng(0).uniform(20, 84, 20_000)
    years, died = followed(truth, age, 1)
    found = fit_gompertz(age, years, died)

    def slope(parameters: Array) -> Array:
        gompertz = Gompertz(*parameters)
        accumulated = gompertz.cumulative(age, years)
        weighted = gompertz.hazard(age + years) * (age + years) - gompertz.hazard(age) * age - accumulated
        return np.array([(died - accumulated).sum(), (died * (age + years) - weighted / gompertz.beta).sum()])

    at = np.array([found.alpha, found.beta])
    information = -np.stack([approx_fprime(at, lambda p, i=i: slope(p)[i], [1e-6, 1e-8]) for i in range(2)])
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    assert (np.abs(at - [truth.alpha, truth.beta]) < 3 * errors).all()
    assert found.beta == pytest.approx(truth.beta, rel=0.05)
    # and nothing lies higher: the step to the exact maximum is a fraction of a standard error
    assert (np.abs(np.linalg.solve(information, slope(at))) < 0.05 * errors).all()


def test_the_gradient_is_that_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    age = np.random.default_rng(0).uniform(20, 84, 500)
    years, died = followed(HAZARD, age, 1)
    seen: list[float] = []

    def check(negative, start, **_: object):  # type: ignore[no-untyped-def]
        for parameters in (np.array(start), np.array([-3.0, 0.05]), np.array([-6.0, 0.2])):
            numerical = approx_fprime(parameters, lambda p: negative(p)[0], 1e-7)
            np.testing.assert_allclose(negative(parameters)[1], numerical, rtol=1e-3, atol=1e-5)
            seen.append(1)
        return type("Found", (), {"x": np.array(start)})()

    monkeypatch.setattr("scipy.optimize.minimize", check)
    fit_gompertz(age, years, died)
    assert len(seen) == 3


def test_expected_deaths_are_the_observed_ones() -> None:
    """What maximum likelihood promises of any Gompertz fit, also where the hazard is none."""
    rng = np.random.default_rng(0)
    age, years = rng.uniform(20, 84, 5000), rng.uniform(0.1, 20, 5000)
    died = (rng.uniform(size=5000) < 0.1).astype(float)
    found = fit_gompertz(age, years, died)
    assert found.cumulative(age, years).sum() == pytest.approx(died.sum(), rel=1e-3)


@pytest.mark.parametrize("deaths", [0, 1])
def test_without_deaths_there_is_no_hazard(deaths: int) -> None:
    died = np.zeros(50)
    died[:deaths] = 1
    with pytest.raises(BadInput, match=r"^mortality: fewer than two deaths, .* at least two$"):
        fit_gompertz(np.linspace(30, 80, 50), np.full(50, 10.0), died)
    with pytest.raises(BadInput, match=r"^recalibrate: fewer than two deaths, .* at least two$"):
        recalibrated(HAZARD, point(np.linspace(30, 80, 50)), np.full(50, 10.0), died)


def test_follow_up_without_length_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^mortality: .* nobody was followed"):
        fit_gompertz(np.linspace(30, 80, 50), np.zeros(50), np.ones(50))
    with pytest.raises(BadInput, match=r"^recalibrate: .* nobody was followed"):
        recalibrated(HAZARD, point(np.linspace(30, 80, 50)), np.zeros(50), np.ones(50))


@pytest.mark.parametrize("same", [50.0, 0.0, 110.0])
def test_people_of_one_age_still_give_a_finite_hazard(same: float) -> None:
    found = fit_gompertz(np.full(40, same), np.full(40, 5.0), np.r_[np.ones(10), np.zeros(30)])
    assert np.isfinite([found.alpha, found.beta]).all()
    assert found.cumulative(np.array(same), 5.0) == pytest.approx(0.25, rel=0.01)


# --- recalibration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sd", [0.0, 6.0], ids=["certain", "uncertain"])
@pytest.mark.parametrize(("shift", "slope"), [(0.0, 1.0), (-0.4, 1.0), (0.3, 0.8), (0.9, 1.2)])
def test_a_planted_shift_and_slope_are_recovered(sd: float, shift: float, slope: float) -> None:
    rng = np.random.default_rng(0)
    median = rng.uniform(35, 85, 8000)
    truth = Gompertz(shift + slope * HAZARD.alpha, slope * HAZARD.beta)
    years, died = followed(truth, median + sd * rng.normal(size=8000), 1)
    found = recalibrated(HAZARD, point(median, sd), years, died)
    assert found.beta / HAZARD.beta == pytest.approx(slope, abs=0.08)
    middle = np.array([60.0, 75.0])
    np.testing.assert_allclose(np.log(found.hazard(middle)), np.log(truth.hazard(middle)), atol=0.12)
    assert found.risk(point(median, sd), 5).mean() == pytest.approx(truth.risk(point(median, sd), 5).mean(), rel=0.07)
