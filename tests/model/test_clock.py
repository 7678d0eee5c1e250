"""What a clock of either kind predicts is finite whatever the markers, and reads what it says it reads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from henaw.model import ensemble
from henaw.model.answers import answer
from henaw.model.clock import Clock, Target, range_ends
from henaw.model.distribution import EnsembleDistribution
from tests.scenarios import BLOOD9, blood_clock, blood_rows

Array = NDArray[np.float64]

CLOCKS: dict[Target, Clock] = {"age": blood_clock(), "mortality": blood_clock(target="mortality")}
NASTY = (np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 5e-324, -5e-324, 1e-308, 1e308, -1e308, 30.0)

every_clock = pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)


def said(clock: Clock, distribution: EnsembleDistribution) -> Array:
    """Every number about each person, (n, c)."""
    columns = [
        distribution.median,
        distribution.mean,
        distribution.aleatoric_sd,
        distribution.epistemic_sd,
        *distribution.interval(0.99),
        *distribution.quantiles(np.array([1e-6, 0.01, 0.3, 0.99, 1 - 1e-6])).T,
        distribution.cdf(distribution.median),
    ]
    if clock.hazard is not None:
        columns += [clock.hazard.risk(distribution, years) for years in (5, 10)]
        columns += [end[:, 0] for end in clock.hazard.risk_interval(distribution, np.array([10.0]), 0.9)]
    return np.stack(columns, axis=1)


def blood_values(people: int, seed: int = 0) -> tuple[Array, Array, Array]:
    rows = blood_rows(people, seed)
    return (
        rows[list(BLOOD9.names)].to_numpy(copy=True),
        (rows["sex"] == "male").to_numpy(np.float64),
        rows["age_years"].to_numpy(),
    )


@every_clock
@given(data=st.data())
@settings(max_examples=60)
def test_no_marker_makes_a_nan(clock: Clock, data: st.DataObject) -> None:
    """Missing, zero, negative, infinite, denormal and huge ones, alone and together."""
    cells = st.one_of(st.sampled_from(NASTY), st.floats(), st.floats(1, 200))
    people = data.draw(st.integers(1, 4))
    row = st.lists(cells, min_size=len(BLOOD9.names), max_size=len(BLOOD9.names))
    biomarkers = np.array(data.draw(st.lists(row, min_size=people, max_size=people)))
    sex = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=people, max_size=people)))
    assert np.isfinite(said(clock, clock.predict(biomarkers, sex, np.linspace(0, 120, people)))).all()


@every_clock
@pytest.mark.parametrize("ast", [0.0, -1.0, np.nan, np.inf, 5e-324, 1e308, 30.0])
@pytest.mark.parametrize("alt", [0.0, -1.0, np.nan, 25.0])
def test_enzymes_without_a_ratio_are_missing_and_no_nan(clock: Clock, ast: float, alt: float) -> None:
    biomarkers, sex, age = blood_values(3)
    biomarkers[1, [BLOOD9.names.index("ast_u_l"), BLOOD9.names.index("alt_u_l")]] = ast, alt
    found = said(clock, clock.predict(biomarkers, sex, age))
    assert np.isfinite(found).all()
    without = biomarkers.copy()
    for name, value in (("ast_u_l", ast), ("alt_u_l", alt)):
        if not (np.isfinite(value) and value > 0):
            without[1, BLOOD9.names.index(name)] = np.nan
    np.testing.assert_allclose(found, said(clock, clock.predict(without, sex, age)), rtol=0, atol=1e-9)


@every_clock
def test_identical_people_are_told_the_same(clock: Clock) -> None:
    biomarkers, sex, age = (values[:1] for values in blood_values(1))
    alone = said(clock, clock.predict(biomarkers, sex, age))
    many = ensemble.BLOCK_ROWS + 3
    repeated = (np.repeat(values, many, axis=0) for values in (biomarkers, sex, age))
    together = said(clock, clock.predict(*repeated))
    np.testing.assert_allclose(together, np.repeat(alone, many, axis=0), rtol=0, atol=1e-9)


@every_clock
@pytest.mark.parametrize("people", [0, 1, 2])
def test_any_number_of_people_is_answered(clock: Clock, people: int) -> None:
    found = said(clock, clock.predict(*blood_values(people)))
    assert len(found) == people
    assert np.isfinite(found).all()


@every_clock
def test_a_row_alone_and_in_a_batch_give_the_same_numbers(clock: Clock) -> None:
    values = blood_values(ensemble.BLOCK_ROWS + 5)
    together = said(clock, clock.predict(*values))
    for row in (0, 100, ensemble.BLOCK_ROWS - 1, ensemble.BLOCK_ROWS, ensemble.BLOCK_ROWS + 4):
        alone = said(clock, clock.predict(*(column[[row]] for column in values)))
        np.testing.assert_allclose(alone[0], together[row], rtol=0, atol=1e-9)


def test_only_the_mortality_clock_reads_age() -> None:
    biomarkers, sex, age = blood_values(5)
    for target, clock in CLOCKS.items():
        assert clock.target == target
        found, older = (said(clock, clock.predict(biomarkers, sex, years)) for years in (age, age + 10))
        if target == "age":
            np.testing.assert_array_equal(found, older)
        else:
            assert (found[:, 0] != older[:, 0]).all()


@given(
    st.lists(st.integers(-10_000, 10_000), min_size=5, max_size=60, unique=True), st.integers(0, 10), st.integers(0, 9)
)
@settings(max_examples=100)
def test_range_ends_are_means_of_five_people_and_nobodys_extreme(values: list[int], missing: int, seed: int) -> None:
    low, high = range_ends(np.random.default_rng(seed).permutation([*map(float, values), *[np.nan] * missing]))
    ascending = sorted(values)
    assert low == pytest.approx(np.mean(ascending[:5]), rel=1e-9, abs=1e-9)
    assert high == pytest.approx(np.mean(ascending[-5:]), rel=1e-9, abs=1e-9)
    assert ascending[0] < low
    assert high < ascending[-1]


def test_range_ends_of_many_people_are_means_of_a_thousandth() -> None:
    values = np.random.default_rng(0).permutation(20_000.0 + np.arange(20_000))
    assert range_ends(values) == (20_009.5, 39_989.5)


@pytest.mark.parametrize("values", [[], [3.5], [1.0, 2.0, 3.0, 4.0], [np.nan] * 9 + [1.0], [np.inf, -np.inf] * 5])
def test_with_fewer_than_five_people_there_is_no_range(values: list[float]) -> None:
    assert np.isnan(range_ends(np.array(values))).all()


@every_clock
def test_sex_is_an_input(clock: Clock) -> None:
    rows = blood_rows(3, 0)
    women, men = (answer(clock, rows.assign(sex=sex), 0.9)["biological_age_years"] for sex in ("female", "male"))
    assert (women != men).all()
