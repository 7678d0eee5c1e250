"""No group of fewer than five people is published, or can be worked out from those that are."""

from hypothesis import given
from hypothesis import strategies as st

from henaw.data.disclosure import SMALLEST_CELL
from henaw.evaluation.suppression import publishable


@given(st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.integers(0, 30), max_size=8))
def test_what_is_withheld_is_nobody_or_at_least_five(sizes):
    published = publishable(sizes)
    assert all(sizes[name] >= SMALLEST_CELL for name in published)
    hidden = sum(size for name, size in sizes.items() if name not in published)
    assert hidden == 0 or hidden >= SMALLEST_CELL or not published


def test_groups_that_are_large_enough_are_published():
    assert publishable({"a": 5, "b": 60, "c": 0}) == {"a", "b"}
    assert publishable({"a": 3, "b": 4, "c": 60}) == {"c"}
