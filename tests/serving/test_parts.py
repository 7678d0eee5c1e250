"""A large request in parts says of each row what it says as a whole, in order, whoever else asks."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from henaw.serving import parts
from henaw.serving.parts import Helpers, score
from henaw.serving.schema import Rows, read_rows
from tests.scenarios import BLOOD9
from tests.serving.guarded import CLOCK, split


def rows(count: int) -> Rows:
    """Some of which abstain, or are warned about."""
    found = read_rows(BLOOD9, split(count, seed=count), count)
    found.biomarkers[::7, 0], found.age[::11], found.sex[::13] = np.nan, 119.0, np.nan
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 10, 11, 97])
def test_parts_say_what_the_whole_says(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(parts, "_PART_ROWS", 5)
    asked = rows(count)
    whole, found = (score(CLOCK, asked, Helpers(number)) for number in (0, 3))
    assert (found.status, found.flags) == (whole.status, whole.flags)
    np.testing.assert_allclose(found.gaps(), whole.gaps(), rtol=0, atol=1e-9)
    for row, other in zip(*(json.loads(each.body)["predictions"] for each in (found, whole)), strict=True):
        assert row == pytest.approx(other, abs=1e-9)


def test_requests_at_once_share_the_helpers_and_none_waits_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_PART_ROWS", 5)
    helpers, asked = Helpers(2), [rows(count) for count in range(20, 52)]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda each: score(CLOCK, each, helpers), asked * 3))
    for each, reply in zip(asked * 3, found, strict=True):
        assert reply.status == score(CLOCK, each, Helpers(0)).status
    assert [helpers._idle.acquire(blocking=False) for _ in range(3)] == [True, True, False], "all are idle again"


def test_work_is_done_here_where_every_helper_is_taken() -> None:
    helpers, here = Helpers(1), threading.get_ident()
    assert helpers._idle.acquire(blocking=False)
    assert helpers.each(lambda _: threading.get_ident(), range(4)) == [here] * 4
    helpers._idle.release()
    apart = helpers.each(lambda _: (time.sleep(0.02), threading.get_ident())[1], range(4))
    assert set(apart) > {here}


@pytest.mark.parametrize("place", [0, 1])
def test_what_a_part_raises_is_raised_and_the_helper_is_free_again(place: int) -> None:
    helpers = Helpers(1)

    def work(part: int) -> None:
        time.sleep(0.01)
        if part == place:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        helpers.each(work, range(2))
    assert helpers.each(lambda part: part, range(2)) == [0, 1]
    assert helpers._idle.acquire(blocking=False)
