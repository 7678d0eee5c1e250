"""One distribution a person: quantiles, interval, median, moments and cdf all come from it, by one map of levels."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm

from henaw.errors import BadInput
from henaw.model import ensemble
from henaw.model.bins import BinsHead
from henaw.model.calibration import GRID, Calibration, identity
from henaw.model.distribution import Distribution, EnsembleDistribution, central_levels
from henaw.model.heads import Head
from henaw.model.wasserstein import NODES
from tests.scenarios import BOUNDED, GAUSSIAN, HEADS, people_of

Array = NDArray[np.float64]

FORMS = [(name, calibrated) for name in HEADS for calibrated in (False, True)]
LEVELS = np.array([0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999])


@pytest.fixture(params=FORMS, ids=lambda form: f"{form[0]}, {'calibrated' if form[1] else 'raw'}")
def predicted(request: pytest.FixtureRequest) -> EnsembleDistribution:
    name, calibrated = request.param
    return people_of(HEADS[name], 12, calibrated=calibrated)


def summary(distribution: EnsembleDistribution) -> Array:
    """Everything that is said of each person, (n, c)."""
    columns = [
        distribution.mean,
        distribution.median,
        distribution.aleatoric_sd,
        distribution.epistemic_sd,
        *distribution.interval(0.9),
        *distribution.quantiles(LEVELS).T,
        distribution.cdf(distribution.age),
        distribution.uncalibrated_cdf(distribution.age),
        distribution.uncalibrated_median,
        *distribution.nodes().T,
    ]
    return np.stack(columns, axis=1)


def chosen(distribution: EnsembleDistribution, rows: list[int]) -> EnsembleDistribution:
    return replace(distribution, outputs=distribution.outputs[:, rows], age=distribution.age[rows])


def test_it_is_a_distribution_that_reports_the_gaussians_barycenter() -> None:
    found = people_of(GAUSSIAN, 7)
    distribution: Distribution = found
    means, sds = 50 + 12 * found.outputs[..., 0], 12 * np.log1p(np.exp(found.outputs[..., 1]))
    mean, sd = means.mean(axis=0), sds.mean(axis=0)
    np.testing.assert_allclose(distribution.mean, mean)
    np.testing.assert_allclose(distribution.median, mean)
    np.testing.assert_allclose(distribution.aleatoric_sd, sd)
    np.testing.assert_allclose(distribution.epistemic_sd, np.sqrt(means.var(axis=0) + sds.var(axis=0)))
    np.testing.assert_allclose(distribution.quantiles(LEVELS), norm.ppf(LEVELS, mean[:, None], sd[:, None]))
    values = mean + np.linspace(-20, 20, 7)
    np.testing.assert_allclose(distribution.cdf(values), norm.cdf(values, mean, sd), atol=1e-9)


def test_the_median_lies_in_the_middle_and_quantiles_rise(predicted: EnsembleDistribution) -> None:
    np.testing.assert_array_equal(predicted.quantiles(np.array([0.5]))[:, 0], predicted.median)
    assert (np.diff(predicted.quantiles(LEVELS), axis=1) > 0).all()


@pytest.mark.parametrize("form", FORMS, ids=str)
@given(level=st.floats(1e-6, 1 - 1e-6))
@settings(max_examples=40)
def test_cdf_undoes_quantiles(form: tuple[str, bool], level: float) -> None:
    distribution = people_of(HEADS[form[0]], 6, calibrated=form[1])
    values = distribution.quantiles(np.array([level]))[:, 0]
    np.testing.assert_allclose(distribution.cdf(values), level, rtol=1e-6, atol=1e-9)


def test_cdf_of_an_unknown_age_is_unknown_and_of_others_as_it_was(predicted: EnsembleDistribution) -> None:
    found = predicted.cdf(np.where(np.arange(12) == 3, np.nan, predicted.age))
    assert np.isnan(found[3])
    np.testing.assert_array_equal(np.delete(found, 3), np.delete(predicted.cdf(predicted.age), 3))


def test_cdf_beyond_everything_is_none_or_all(predicted: EnsembleDistribution) -> None:
    for value, expected in ((-1e6, 0), (-np.inf, 0), (1e6, 1), (np.inf, 1)):
        np.testing.assert_allclose(predicted.cdf(np.full(12, value)), expected, atol=1e-12)


@pytest.mark.parametrize("form", FORMS, ids=str)
@given(coverages=st.lists(st.floats(0.001, 0.999999), min_size=2, max_size=6, unique=True))
@settings(max_examples=30)
def test_intervals_are_nested_and_around_the_median(form: tuple[str, bool], coverages: list[float]) -> None:
    distribution = people_of(HEADS[form[0]], 6, calibrated=form[1])
    ends = [distribution.interval(coverage) for coverage in sorted(coverages)]
    for (lower, upper), (wider_lower, wider_upper) in pairwise(ends):
        assert (wider_lower <= lower + 1e-12).all()
        assert (upper <= wider_upper + 1e-12).all()
        assert ((lower <= distribution.median + 1e-12) & (distribution.median <= upper + 1e-12)).all()


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_an_interval_is_made_of_calibrated_quantiles_and_holds_its_coverage(
    predicted: EnsembleDistribution, coverage: float
) -> None:
    lower, upper = predicted.interval(coverage)
    np.testing.assert_array_equal(np.stack([lower, upper], axis=1), predicted.quantiles(central_levels(coverage)))
    np.testing.assert_allclose(predicted.cdf(upper) - predicted.cdf(lower), coverage, atol=1e-9)


def test_calibrated_quantiles_are_the_networks_at_the_levels_of_each_ones_band() -> None:
    distribution = people_of(BOUNDED, 40, calibrated=True)
    raw = replace(distribution, calibration=identity())
    bands = distribution.calibration.bands(raw.median)
    assert set(bands) == {0, 1}
    for person, band in enumerate(bands):
        wanted = np.interp(LEVELS, GRID, distribution.calibration.levels[band])
        found = distribution.quantiles(LEVELS)[person]
        np.testing.assert_allclose(found, raw.quantiles(wanted)[person], atol=1e-6)
    assert np.abs(distribution.median - raw.median).min() > 0.1, "a map that changes nothing would show nothing"


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_the_identity_changes_nothing(head: Head) -> None:
    distribution = people_of(head, 12)
    averaged = head.quantiles(distribution.outputs, ndtri(LEVELS), distribution.age).mean(axis=0)
    np.testing.assert_allclose(distribution.quantiles(LEVELS), averaged, atol=1e-9)
    np.testing.assert_allclose(distribution.median, distribution.uncalibrated_median, atol=1e-9)
    np.testing.assert_allclose(
        distribution.cdf(distribution.age), distribution.uncalibrated_cdf(distribution.age), atol=1e-9
    )
    in_bands = replace(distribution, calibration=Calibration(np.array([45.0, 55.0]), np.stack([GRID] * 3)))
    np.testing.assert_allclose(summary(in_bands), summary(distribution), atol=1e-9)


def test_moments_are_those_of_a_dense_sample(predicted: EnsembleDistribution) -> None:
    levels = (np.arange(20_000) + 0.5) / 20_000
    dense = predicted.quantiles(levels)
    years = 0.2 if isinstance(predicted.head, BinsHead) else 0.05  # see test_wasserstein: bends cost
    np.testing.assert_allclose(predicted.mean, dense.mean(axis=1), atol=years)
    np.testing.assert_allclose(predicted.aleatoric_sd, dense.std(axis=1), atol=years)
    squared = np.empty((len(predicted.outputs), len(predicted)))
    for member in range(len(predicted.outputs)):
        alone = replace(predicted, outputs=predicted.outputs[[member]])
        same_bands = replace(alone, calibration=identity())
        for person, band in enumerate(predicted.calibration.bands(predicted.uncalibrated_median)):
            wanted = np.interp(levels, GRID, predicted.calibration.levels[band])
            own = chosen(same_bands, [person]).quantiles(wanted)[0]
            squared[member, person] = ((own - dense[person]) ** 2).mean()
    np.testing.assert_allclose(predicted.epistemic_sd, np.sqrt(squared.mean(axis=0)), atol=2 * years)


def test_nodes_are_what_the_mean_is_made_of(predicted: EnsembleDistribution) -> None:
    nodes = predicted.nodes()
    assert (np.diff(nodes, axis=1) >= 0).all()
    for rows, quantiles in predicted.member_nodes():
        np.testing.assert_allclose(quantiles.mean(axis=0), nodes[rows])


@pytest.mark.parametrize("form", FORMS)
def test_members_medians_are_their_nodes_in_the_middle_and_average_to_the_median(form: tuple[str, bool]) -> None:
    predicted = people_of(HEADS[form[0]], 12, calibrated=form[1])
    medians = predicted.member_medians()
    np.testing.assert_allclose(medians.mean(axis=0), predicted.median, atol=1e-9)
    for rows, quantiles in predicted.member_nodes():
        np.testing.assert_allclose(medians[:, rows], quantiles[..., len(NODES) // 2], atol=1e-9)
    assert np.ptp(medians, axis=0).min() > 0


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_person_alone_and_in_a_batch_are_the_same(calibrated: bool) -> None:
    """Across the boundary of blocks, too."""
    people = ensemble.QUANTILE_ROWS + 20
    together = people_of(BOUNDED, people, calibrated=calibrated)
    whole = summary(together)
    assert np.isfinite(whole).all()
    for row in (0, 17, ensemble.QUANTILE_ROWS - 1, ensemble.QUANTILE_ROWS, people - 1):
        np.testing.assert_allclose(summary(chosen(together, [row]))[0], whole[row], rtol=0, atol=1e-9)


@given(block=st.integers(1, 30), people=st.integers(0, 40), calibrated=st.booleans())
@settings(max_examples=30)
def test_blocks_do_not_matter(block: int, people: int, calibrated: bool) -> None:
    distribution = people_of(BOUNDED, people, calibrated=calibrated)
    expected = summary(distribution)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "QUANTILE_ROWS", block)
        found = summary(replace(distribution))
    assert expected.shape[0] == people
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_the_order_of_people_does_not_matter() -> None:
    distribution = people_of(BOUNDED, 30, calibrated=True)
    order = np.random.default_rng(1).permutation(30).tolist()
    np.testing.assert_allclose(summary(chosen(distribution, order)), summary(distribution)[order], rtol=0, atol=1e-9)


def test_nobody_is_no_error() -> None:
    for name, calibrated in FORMS:
        nobody = people_of(HEADS[name], 0, calibrated=calibrated)
        assert len(nobody) == 0
        assert summary(nobody).shape[0] == 0
        assert nobody.quantiles(np.array([0.1, 0.9])).shape == (0, 2)
        assert list(nobody.member_nodes()) == []


def test_members_and_people_that_are_all_the_same() -> None:
    distribution = people_of(BOUNDED, 1, members=1, calibrated=True)
    same = replace(distribution, outputs=np.repeat(distribution.outputs, 5, axis=1), age=np.full(5, 50.0))
    np.testing.assert_allclose(same.epistemic_sd, 0, atol=1e-12)
    np.testing.assert_allclose(same.quantiles(LEVELS), np.repeat(distribution.quantiles(LEVELS), 5, axis=0), atol=1e-9)


def test_a_member_without_spread_is_a_point() -> None:
    distribution = replace(people_of(GAUSSIAN, 3), outputs=np.tile([0.5, -60.0], (2, 3, 1)))
    np.testing.assert_allclose(summary(distribution)[:, :6], [[56, 56, 0, 0, 56, 56]] * 3, atol=1e-9)


def test_the_levels_of_ninety_percent_are_q05_and_q95() -> None:
    np.testing.assert_allclose(central_levels(0.9), [0.05, 0.95], rtol=1e-15)


@pytest.mark.parametrize("coverage", [0, 1, -0.1, 1.5, 90, np.nan, np.inf, -np.inf, 1 - 1e-16])
def test_an_impossible_coverage_is_refused(coverage: float) -> None:
    with pytest.raises(BadInput, match=r"^coverage: expected a number between 0 and 1"):
        people_of(BOUNDED, 2).interval(coverage)


@pytest.mark.parametrize("form", FORMS, ids=str)
@given(coverage=st.floats(0, 1, exclude_min=True, exclude_max=True))
@settings(max_examples=50)
def test_whatever_coverage_is_accepted_has_finite_ends(form: tuple[str, bool], coverage: float) -> None:
    """The largest double below 1 would round to a quantile at level 1: infinity."""
    distribution = people_of(HEADS[form[0]], 3, calibrated=form[1])
    try:
        ends = distribution.interval(coverage)
    except BadInput:
        assert coverage > 1 - 1e-15
    else:
        assert np.isfinite(ends).all()
