"""What the tests of training share."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _collecting_is_quick() -> Iterator[None]:
    """Every out-of-memory event collects garbage: leave the modules of the whole test session out of it."""
    gc.freeze()
    yield
    gc.unfreeze()
