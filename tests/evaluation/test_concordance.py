"""Harrell's C against pair counting, lifelines, and what it is by definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines.utils import concordance_index

from henaw.errors import BadInput
from henaw.evaluation.concordance import concordance_of, harrell_c


def by_pairs(risk, years, died):
    concordant = comparable = 0.0
    for first in np.flatnonzero(died):
        for other in range(len(risk)):
            if years[other] > years[first] or (years[other] == years[first] and not died[other]):
                comparable += 1
                concordant += (risk[first] > risk[other]) + (risk[first] == risk[other]) / 2
    return concordant / comparable if comparable else np.nan


@st.composite
def cohorts(draw):
    """Small cohorts full of ties: in risk, in time, between deaths and censored people."""
    people = draw(st.integers(1, 25))
    whole = st.integers(0, draw(st.integers(1, 12)))
    columns = [draw(st.lists(values, min_size=people, max_size=people)) for values in (whole, whole, st.integers(0, 1))]
    return tuple(np.array(column, dtype=float) for column in columns)


@given(cohorts())
def test_equals_counting_all_pairs(cohort):
    assert harrell_c(*cohort) == pytest.approx(by_pairs(*cohort), nan_ok=True)


@given(cohorts(), st.integers(0, 2**32))
def test_weights_are_repeated_people(cohort, seed):
    people = len(cohort[0])
    drawn = np.random.default_rng(seed).integers(people, size=(people, 3))
    weights = np.stack([np.bincount(column, minlength=people) for column in drawn.T], axis=1).astype(float)
    expected = [by_pairs(*(values[rows] for values in cohort)) for rows in drawn.T]
    np.testing.assert_allclose(concordance_of(*cohort)(weights), expected)


def test_equals_lifelines_on_a_large_cohort():
    random = np.random.default_rng(5)
    risk = np.round(random.normal(size=4000), 2)
    years = np.ceil(random.exponential(np.exp(-risk)) * 60) / 12
    died = (random.random(4000) < 0.4).astype(float)
    assert harrell_c(risk, years, died) == pytest.approx(concordance_index(years, -risk, died), abs=1e-12)


def test_known_orders():
    years, died = np.arange(1.0, 9), np.ones(8)
    assert harrell_c(-years, years, died) == 1
    assert harrell_c(years, years, died) == 0
    assert harrell_c(np.zeros(8), years, died) == 0.5
    assert np.isnan(harrell_c(years, years, np.zeros(8)))


@given(cohorts())
def test_only_the_order_of_risks_counts(cohort):
    risk, years, died = cohort
    found = harrell_c(risk, years, died)
    assert harrell_c(np.exp(risk / 3) - 5, years, died) == pytest.approx(found, nan_ok=True)
    assert harrell_c(-risk, years, died) == pytest.approx(1 - found, nan_ok=True)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_missing_values_are_refused_by_name(position):
    columns = [np.ones(3), np.arange(3.0), np.ones(3)]
    columns[position] = np.array([1.0, np.nan, 0.0])
    with pytest.raises(BadInput, match=["predicted risk", "follow-up", "died"][position]):
        harrell_c(*columns)
    columns[position] = np.ones(2)
    with pytest.raises(BadInput, match="finite numbers"):
        harrell_c(*columns)
