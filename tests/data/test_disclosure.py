"""Counts of people as they leave the machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from henaw.data.disclosure import publishable, published


@pytest.mark.parametrize(
    ("count", "told"), [(0, 0), (1, "<5"), (4, "<5"), (5, 5), (7, 5), (8, 10), (12, 10), (502_133, 502_135)]
)
def test_counts_are_hidden_or_the_nearest_multiple_of_five(count: int, told: int | str) -> None:
    assert published(count) == told
    assert publishable({"selected": count}) == {"selected": told}


@given(st.integers(5, 10**6), st.integers(1, 4))
def test_no_two_totals_differ_by_a_small_count(total: int, few: int) -> None:
    first, second = published(total), published(total + few)
    assert isinstance(first, int)
    assert isinstance(second, int)
    assert second - first in (0, 5)
    assert abs(first - total) <= 2
