"""The map of levels: conformal on exchangeable people, by band, strictly ascending, cautious where people are few."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import beta

from henaw.model.calibration import GRID, Calibration, fit_calibration, identity
from henaw.model.distribution import EnsembleDistribution
from tests.scenarios import GAUSSIAN

Array = NDArray[np.float64]

UNSHRUNK = 1e-9  # people that the identity counts for
BANDS = st.integers(1, 5)
PITS = arrays(float, st.integers(0, 60), elements=st.floats(0, 1))


def one_band(pit: Array, shrinkage: float = UNSHRUNK) -> Array:
    return fit_calibration(pit, np.full(len(pit), 50.0), 1, 1, shrinkage).levels[0]


def narrow_network(people: int, seed: int, *, too_narrow: Array | float, median: Array) -> tuple[Array, Array, Array]:
    """Outputs of a Gaussian network whose spread is ``too_narrow`` of the true one, their medians, and true ages."""
    rng = np.random.default_rng(seed)
    sd = rng.uniform(5, 10, people)
    slope = np.log(np.expm1(too_narrow * sd / 12))
    outputs = np.stack([(median - 50) / 12, np.broadcast_to(slope, people)], axis=1)[None]
    return outputs, median, rng.normal(median, sd)


def predictions(outputs: Array, calibration: Calibration) -> EnsembleDistribution:
    return EnsembleDistribution(GAUSSIAN, outputs, np.full(outputs.shape[1], np.nan), calibration)


# --- conformal -------------------------------------------------------------------------------------------------------


def test_somebody_new_lies_below_a_level_as_often_as_the_level_says() -> None:
    """Exchangeable people, a network of the wrong shape: the mean over 200 calibrations, from the true PIT's cdf.

    Of 60 people: what a naive empirical quantile would be off by, 1/61, is more than what is allowed here.
    """
    rng, truth = np.random.default_rng(0), beta(0.6, 1.4)
    below = np.array([truth.cdf(one_band(truth.rvs(60, random_state=rng))) for _ in range(200)])
    np.testing.assert_allclose(below.mean(axis=0)[3:-3], GRID[3:-3], atol=0.009)


@pytest.mark.parametrize("people", [39, 99, 400])
@pytest.mark.parametrize("shape", [(0.6, 0.6), (2, 2), (0.6, 1.4)], ids=["too narrow", "too wide", "shifted"])
def test_intervals_hold_their_coverage_on_average(people: int, shape: tuple[float, float]) -> None:
    rng, truth = np.random.default_rng(1), beta(*shape)
    ends = np.array([truth.cdf(one_band(truth.rvs(people, random_state=rng))) for _ in range(200)])
    for coverage in (0.5, 0.8, 0.9):
        levels = np.array([np.interp([(1 - coverage) / 2, (1 + coverage) / 2], GRID, row) for row in ends])
        assert np.diff(levels, axis=1).mean() > coverage - 0.012


def test_the_kth_of_n_stands_for_k_of_n_plus_one() -> None:
    """Hand-worked, the quantile of split conformal prediction: of nine the smallest is level 0.1, the fifth 0.5."""
    pit = np.array([0.02, 0.05, 0.11, 0.3, 0.45, 0.46, 0.47, 0.8, 0.99])
    for shuffled in (pit, pit[::-1]):
        found = dict(zip(GRID.round(3).tolist(), one_band(shuffled), strict=True))
        for rank, value in enumerate(pit, start=1):
            assert found[rank / 10] == pytest.approx(value, abs=1e-7)


def test_shrinkage_is_a_weighted_mean_with_the_identity() -> None:
    pit = np.random.default_rng(0).beta(2, 2, 100)
    inner = slice(1, -1)
    expected = (100 * one_band(pit)[inner] + 300 * GRID[inner]) / 400
    np.testing.assert_allclose(one_band(pit, 300)[inner], expected, atol=1e-9)


@pytest.mark.parametrize("shrinkage", [1e12, 1e300])
def test_endless_shrinkage_is_the_identity(shrinkage: float) -> None:
    np.testing.assert_allclose(one_band(np.full(50, 0.01), shrinkage), GRID, atol=1e-9)


def test_an_honest_network_is_hardly_changed() -> None:
    rng = np.random.default_rng(0)
    calibration = fit_calibration(rng.uniform(size=4000), rng.uniform(20, 80, 4000), 4, 200, 500)
    np.testing.assert_allclose(calibration.levels, np.broadcast_to(GRID, calibration.levels.shape), atol=0.03)


# --- what a network says, repaired -----------------------------------------------------------------------------------


def test_a_network_that_is_too_narrow_by_a_third_is_repaired() -> None:
    median = np.random.default_rng(9).uniform(25, 75, 4000)
    outputs, median, age = narrow_network(4000, 0, too_narrow=0.7, median=median)
    raw = predictions(outputs, identity())
    calibration = fit_calibration(raw.uncalibrated_cdf(age), raw.uncalibrated_median, 4, 200, 100)
    outputs, _, age = narrow_network(4000, 1, too_narrow=0.7, median=median)
    for coverage in (0.5, 0.8, 0.9, 0.95):
        held = []
        for said in (predictions(outputs, identity()), predictions(outputs, calibration)):
            lower, upper = said.interval(coverage)
            held.append(((lower <= age) & (age <= upper)).mean())
        assert held[0] < coverage - 0.05
        assert held[1] == pytest.approx(coverage, abs=0.025)
    pit = predictions(outputs, calibration).cdf(age)
    np.testing.assert_allclose(np.quantile(pit, GRID[1:-1]), GRID[1:-1], atol=0.03)


def test_each_band_is_repaired_by_its_own_people() -> None:
    """Mondrian: too narrow for the young, too wide for the old; one map for both would leave both wrong."""
    median = np.repeat([35.0, 65.0], 3000)
    factor = np.where(median < 50, 0.6, 1.8)
    outputs, _, age = narrow_network(6000, 0, too_narrow=factor, median=median)
    raw = predictions(outputs, identity())
    calibration = fit_calibration(raw.uncalibrated_cdf(age), raw.uncalibrated_median, 2, 200, 100)
    outputs, _, age = narrow_network(6000, 1, too_narrow=factor, median=median)
    lower, upper = predictions(outputs, calibration).interval(0.9)
    covered = (lower <= age) & (age <= upper)
    for group in (median < 50, median > 50):
        assert covered[group].mean() == pytest.approx(0.9, abs=0.025)


# --- the form of the map ---------------------------------------------------------------------------------------------


@given(pit=PITS, bands=BANDS, least=st.integers(1, 30), shrinkage=st.floats(1, 1e6), seed=st.integers(0, 5))
@settings(max_examples=150)
def test_every_map_ascends_strictly_from_none_to_all(
    pit: Array, bands: int, least: int, shrinkage: float, seed: int
) -> None:
    median = np.random.default_rng(seed).choice([30.0, 45.5, 45.5, 60, 71], len(pit))
    found = fit_calibration(pit, median, bands, least, shrinkage)
    assert found.levels.shape == (len(found.edges) + 1, len(GRID))
    assert (np.diff(found.levels) > 0).all()
    assert (np.diff(found.edges) > 0).all()
    assert (found.levels[:, [0, -1]] == [0, 1]).all()


@given(pit=PITS, levels=st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=9))
@settings(max_examples=100)
def test_the_map_and_its_inverse_undo_each_other(pit: Array, levels: list[float]) -> None:
    calibration = Calibration(np.empty(0), one_band(pit, 20.0)[None])
    asked = ndtr(calibration.network_scores(0, ndtri(np.array(levels))))
    back = calibration.calibrated_levels(np.zeros(len(levels), dtype=np.intp), asked)
    np.testing.assert_allclose(back, levels, rtol=1e-6, atol=1e-7)


@given(pit=PITS)
@settings(max_examples=100)
def test_scores_rise_with_what_is_wanted_however_far_out(pit: Array) -> None:
    wanted = np.concatenate([np.linspace(-40, 40, 801), [-np.inf, np.inf]])
    scores = Calibration(np.empty(0), one_band(pit, 1.0)[None]).network_scores(0, np.sort(wanted))
    assert not np.isnan(scores).any()
    assert (scores[1:] >= scores[:-1]).all()


def test_the_identity_asks_for_what_is_wanted() -> None:
    z = np.linspace(-5.9, 5.9, 500)
    np.testing.assert_allclose(identity().network_scores(0, z), z, atol=1e-6)
    levels = np.linspace(0, 1, 101)
    np.testing.assert_allclose(identity().calibrated_levels(np.zeros(101, dtype=np.intp), levels), levels, atol=1e-12)
    assert (identity().bands(np.array([-5.0, 50, 500])) == 0).all()


# --- bands -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("people", "bands"), [(0, 1), (1, 1), (199, 1), (399, 1), (400, 2), (799, 3), (800, 4), (5000, 4)]
)
def test_there_are_as_many_bands_as_people_for_them(people: int, bands: int) -> None:
    median = np.random.default_rng(0).uniform(20, 80, people)
    found = fit_calibration(np.linspace(0, 1, people), median, bands=4, least_people=200, shrinkage=100)
    assert len(found.levels) == bands
    counts = np.bincount(found.bands(median), minlength=bands)
    assert people < 200 or counts.min() >= 199
    assert np.ptp(counts) <= 2


def test_people_whose_medians_are_all_the_same_leave_a_band_empty_and_unchanged() -> None:
    pit = np.random.default_rng(0).beta(2, 2, 900)
    found = fit_calibration(pit, np.full(900, 52.0), bands=4, least_people=200, shrinkage=100)
    np.testing.assert_array_equal(found.edges, [52.0])
    np.testing.assert_array_equal(found.levels[0], GRID)
    np.testing.assert_array_equal(found.bands(np.array([51.9, 52.0, 52.1])), [0, 1, 1])
    np.testing.assert_allclose(found.levels[1], one_band(pit, 100))


def test_nobody_to_calibrate_on_changes_nothing() -> None:
    found = fit_calibration(np.empty(0), np.empty(0), bands=4, least_people=200, shrinkage=100)
    np.testing.assert_array_equal(found.levels, identity().levels)
