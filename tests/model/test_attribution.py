"""Attribution: nothing at the reference, the closed form where the network is linear, an interaction where not."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from henaw.model.attribution import attribute
from henaw.model.calibration import identity
from henaw.model.clock import Clock
from henaw.model.features import fit_scaling, raw_features
from henaw.model.reference import fit_reference
from tests.scenarios import BLOOD9, GAUSSIAN, blood_clock, blood_rows

Array = NDArray[np.float64]
ORGANS = ("inflammation", "metabolism", "kidney", "liver", "blood")


def people(count: int, seed: int) -> tuple[Array, Array, Array]:
    rows = blood_rows(count, seed)
    male = (rows["sex"] == "male").to_numpy(float, copy=True)
    return rows[list(BLOOD9.names)].to_numpy(copy=True), male, rows["age_years"].to_numpy(copy=True)


def linear_clock() -> tuple[Clock, Array]:
    """Members without hidden layers, nothing clipped, and years for a unit of each scaled feature in the barycenter."""
    clock, rng = blood_clock(), np.random.default_rng(3)
    shape = replace(clock.shape, hidden=(), head=GAUSSIAN)
    weights = {name: rng.normal(0, 0.2, size) for name, size in shape.parameter_shapes().items()}
    years = GAUSSIAN.scale * weights["layer0.weight"][:, : len(clock.scaling.center), 0].mean(axis=0)
    scaling = fit_scaling(raw_features(BLOOD9, people(200, 2)[0]))
    return replace(clock, shape=shape, weights=weights, scaling=scaling, calibration=identity()), years


@pytest.mark.parametrize("clock", [blood_clock(), blood_clock(target="mortality")], ids=["age", "mortality"])
def test_who_is_at_the_reference_has_nothing_to_attribute(clock: Clock) -> None:
    _, sex, age = people(40, 1)
    found = attribute(clock, clock.reference.of(sex, age), sex, age)
    for shares in (found.by_marker, found.by_organ, found.total, found.interaction):
        assert not shares.any()


def test_shares_of_a_linear_network_are_its_weights_and_nothing_is_left() -> None:
    """A marker moves its own feature and, where it enters log(AST/ALT), that one too."""
    clock, years = linear_clock()
    biomarkers, sex, age = people(60, 2)
    found = attribute(clock, biomarkers, sex, age)
    reference = clock.reference.of(sex, age)
    for position in range(len(BLOOD9.names)):
        changed = biomarkers.copy()
        changed[:, position] = reference[:, position]
        before, _ = clock.scaling.apply(raw_features(BLOOD9, biomarkers))
        after, _ = clock.scaling.apply(raw_features(BLOOD9, changed))
        np.testing.assert_allclose(found.by_marker[:, position], (before - after) @ years, atol=1e-9)
    at_reference, _ = clock.scaling.apply(raw_features(BLOOD9, reference))
    np.testing.assert_allclose(found.total, (before - at_reference) @ years, atol=1e-9)
    assert np.abs(found.by_marker).max(axis=0).min() > 0.1, "a share of zero everywhere would prove nothing"
    np.testing.assert_allclose(found.interaction, 0, atol=1e-9)
    np.testing.assert_allclose(found.by_organ.sum(axis=1), found.total, atol=1e-9)


def test_organs_are_set_together_and_sums_are_reported_with_what_is_left() -> None:
    clock = blood_clock()
    biomarkers, sex, age = people(50, 4)
    found = attribute(clock, biomarkers, sex, age)
    assert found.organs == ORGANS
    assert found.by_organ.shape == (50, 5)
    assert found.by_marker.shape == (50, 9)
    for organ, name in ((0, "crp_mg_l"), (1, "hba1c_mmol_mol"), (2, "creatinine_umol_l")):  # organs of a single marker
        np.testing.assert_array_equal(found.by_organ[:, organ], found.by_marker[:, BLOOD9.names.index(name)])
    liver = [marker.organ == "liver" for marker in BLOOD9.biomarkers]
    together = np.where(liver, clock.reference.of(sex, age), biomarkers)
    expected = clock.predict(biomarkers, sex, age).median - clock.predict(together, sex, age).median
    np.testing.assert_array_equal(found.by_organ[:, 3], expected)
    assert np.abs(found.by_organ[:, 3] - found.by_marker[:, liver].sum(axis=1)).max() > 1e-3, (
        "the network is not linear"
    )
    np.testing.assert_allclose(found.by_marker.sum(axis=1) + found.interaction, found.total, atol=1e-12)


@pytest.mark.parametrize("unseen", [np.nan, np.inf, 0.0, -3.0])
def test_a_marker_that_the_network_cannot_see_has_no_share(unseen: float) -> None:
    biomarkers, sex, age = people(30, 5)
    biomarkers[::2, BLOOD9.names.index("creatinine_umol_l")] = unseen
    found = attribute(blood_clock(), biomarkers, sex, age)
    share = found.by_marker[:, BLOOD9.names.index("creatinine_umol_l")]
    assert not share[::2].any()
    assert share[1::2].all()
    assert not found.by_organ[::2, ORGANS.index("kidney")].any()
    assert np.isfinite(found.by_marker).all()


def test_who_has_no_sex_or_age_gets_no_shares_and_nobody_else_is_touched() -> None:
    biomarkers, sex, age = people(6, 6)
    whole = attribute(blood_clock(), biomarkers, sex, age)
    sex[1], age[4] = np.nan, np.nan
    found = attribute(blood_clock(), biomarkers, sex, age)
    for name in ("by_marker", "by_organ", "total", "interaction"):
        shares, before = getattr(found, name), getattr(whole, name)
        assert np.isnan(shares[[1, 4]]).all()
        np.testing.assert_array_equal(shares[[0, 2, 3, 5]], before[[0, 2, 3, 5]])


def test_nobody_has_no_shares() -> None:
    found = attribute(blood_clock(), *people(0, 7))
    assert found.by_marker.shape == (0, 9)
    assert found.by_organ.shape == (0, 5)


def test_reference_is_the_median_of_the_cell_and_small_cells_speak_for_nobody() -> None:
    """Women of 30-39 in plenty, four men of 30-39, men of 40-49 in plenty; marker 1 is rare."""
    rng = np.random.default_rng(8)
    sex = np.repeat([0.0, 1.0, 1.0], [21, 4, 31])
    age = np.concatenate([rng.uniform(30, 40, 25), rng.uniform(40, 50, 31)])
    values = rng.normal(10, 3, (56, 3))
    values[5:, 1] = np.nan  # five women alone
    values[4:, 2] = np.nan  # four people alone
    values[0, 0] = np.nan
    reference = fit_reference(values, sex, age)
    assert reference.edges.tolist() == [40.0]
    women, men, both = np.nanmedian(values[:21, 0]), np.median(values[25:, 0]), np.median(values[21:, 0])
    expected = np.array([[women, both, men], [30.0, 30.0, 49.0]])
    found = reference.of(np.array([0.0, 1.0, 1.0]), expected[1])
    np.testing.assert_array_equal(found[:, 0], expected[0])
    np.testing.assert_array_equal(found[:, 1], np.full(3, np.median(values[:5, 1])))
    assert np.isnan(found[:, 2]).all(), "four people's values are not published"
    np.testing.assert_array_equal(reference.of(np.array([1.0, 1.0]), np.array([39.99, 40.0]))[:, 0], [both, men])
    np.testing.assert_array_equal(reference.of(np.zeros(2), np.array([3.0, 35.0]))[:, 0], [women, women])
