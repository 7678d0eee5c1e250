"""Everybody once an epoch, every group's share in every batch, the same order wherever and whenever it is made."""

import itertools
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from henaw.data import sampling
from henaw.data.sampling import AgeSampler, Place, age_groups, random_bits, random_numbers
from henaw.errors import BadInput

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=9)


def groups_of(sizes: list[int], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes)))


@given(sizes=SIZES, batch_size=st.integers(1, 130), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**6))
def test_an_epoch_holds_everybody_once_and_each_batch_each_group_in_proportion(
    sizes: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    groups = groups_of(sizes, seed % 5)
    people = len(groups)
    sampler = AgeSampler(groups, 3, batch_size, Place(seed, epoch))
    batches = list(sampler)
    assert [batch.shape[1] for batch in batches[:-1]] == [batch_size] * (sampler.batches - 1)
    order = torch.cat(batches, dim=1)
    assert torch.equal(order.sort(dim=1).values, torch.arange(people).expand(3, -1))
    for batch in batches:
        counts = torch.stack([torch.bincount(groups[row], minlength=len(sizes)) for row in batch])
        shares = torch.tensor(sizes, dtype=torch.float64) * batch.shape[1] / people
        assert (counts - shares).abs().max() < 1
    assert torch.equal(order, sampler.epoch(epoch))
    assert sampler.place == Place(seed, epoch + 1, 0)


@given(sizes=SIZES, batch_size=st.integers(1, 40), stop=st.integers(0, 200), even=st.booleans())
def test_taken_up_at_any_batch_it_goes_on_as_if_never_stopped(
    sizes: list[int], batch_size: int, stop: int, even: bool
) -> None:
    groups = groups_of(sizes)
    whole = AgeSampler(groups, 2, batch_size, Place(7), even=even)
    batches = [batch for _ in range(3) for batch in whole]
    stop %= len(batches)
    first = AgeSampler(groups, 2, batch_size, Place(7), even=even)
    seen = list(itertools.islice(itertools.chain.from_iterable(itertools.repeat(first)), stop))
    kept = Place(**json.loads(json.dumps(asdict(first.place))))
    second = AgeSampler(groups, 2, batch_size, kept, even=even)
    seen += itertools.islice(itertools.chain.from_iterable(itertools.repeat(second)), len(batches) - stop)
    assert all(map(torch.equal, seen, batches))
    assert second.place == whole.place == Place(7, 3, 0)


def test_it_never_runs_dry_and_no_two_epochs_or_members_are_alike() -> None:
    sampler = AgeSampler(groups_of([40, 30, 30]), 4, 25, Place(0))
    epochs = [torch.cat(list(sampler), dim=1) for _ in range(50)]
    rows = [tuple(row.tolist()) for epoch in epochs for row in epoch]
    assert len(set(rows)) == len(rows) == 200
    other = AgeSampler(groups_of([40, 30, 30]), 4, 25, Place(1))
    assert not torch.equal(torch.cat(list(other), dim=1), epochs[0])


def test_a_member_draws_the_same_in_whatever_company() -> None:
    groups = groups_of([50, 70])
    alone, together = AgeSampler(groups, 1, 16, Place(3)), AgeSampler(groups, 5, 16, Place(3))
    assert torch.equal(alone.epoch(2)[0], together.epoch(2)[0])


def test_everybody_comes_everywhere() -> None:
    """Over epochs a person's place is uniform in those of the group: no order is favored."""
    sampler = AgeSampler(groups_of([4, 8]), 1, 12, Place(0))
    orders = torch.cat([sampler.epoch(epoch) for epoch in range(4000)])
    of_first = orders[:, :4]  # the positions of the first group
    counts = torch.stack([torch.bincount(column, minlength=12) for column in of_first.T]).double()
    counts = counts[:, counts.sum(0) > 0]
    assert counts.shape == (4, 4)
    assert ((counts - 1000) ** 2 / 1000).sum() < 40  # chi-squared with 9 degrees of freedom: 10⁻⁵


@given(sizes=SIZES, batch_size=st.integers(1, 60))
def test_drawn_evenly_each_group_has_its_turn(sizes: list[int], batch_size: int) -> None:
    groups = groups_of(sizes)
    sampler = AgeSampler(groups, 2, batch_size, Place(5), even=True)
    for batch in sampler:
        for row in batch:
            counts = torch.bincount(groups[row], minlength=len(sizes))
            assert counts.max() - counts.min() <= 1


def test_drawn_evenly_people_come_with_replacement_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    groups = groups_of([10, 990])
    with caplog.at_level("INFO"):
        sampler = AgeSampler(groups, 1, 100, Place(0), even=True)
    assert "evenly, with replacement: an epoch does not see everybody" in caplog.text
    counts = torch.bincount(torch.cat(list(sampler), dim=1)[0], minlength=1000)
    assert counts[groups == 0].min() > 20  # each of the few comes 50 times or so
    assert (counts[groups == 1] == 0).sum() > 400
    with caplog.at_level("INFO"):
        caplog.clear()
        AgeSampler(groups, 1, 100, Place(0))
    assert not caplog.text


def test_random_numbers_are_splitmix64() -> None:
    def reference(state: int, number: int) -> int:
        z = (state + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    states = [0, 1, 2**63 - 1, -(2**63), -12345]
    expected = [[reference(state % 2**64, number) for number in range(200)] for state in states]
    found = sampling._random(torch.tensor(states)[:, None], torch.arange(200)[None])
    assert found.tolist() == [[number >> 33 for number in row] for row in expected]
    words = [random_bits(state, 200, torch.device("cpu")).tolist() for state in states]
    assert [[word % 2**64 for word in row] for row in words] == expected


@pytest.mark.parametrize("stream", [0, 12345, -(2**62)])
def test_numbers_asked_for_one_by_one_are_those_of_the_words(stream: int) -> None:
    words = random_bits(stream, 50, torch.device("cpu")).view(torch.int16)
    places = torch.randint(0, 200, (3, 40), generator=torch.Generator().manual_seed(0))
    assert torch.equal(random_numbers(stream, places), words[places].long())
    assert torch.equal(random_numbers(torch.tensor(stream), places), words[places].long())


def test_both_sorts_agree() -> None:
    keys = torch.randint(0, 2**62, (3, 1000), generator=torch.Generator().manual_seed(0))
    assert torch.equal(sampling._sorted(keys.clone()), torch.sort(keys, dim=1).values)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("even", [False, True])
def test_an_epoch_is_the_same_on_every_device_and_lives_there(even: bool) -> None:
    groups = groups_of([500, 700, 33])
    host = AgeSampler(groups, 4, 100, Place(0), even=even)
    device = AgeSampler(groups.cuda(), 4, 100, Place(0), even=even)
    for ours, theirs in zip(host, device, strict=True):
        assert theirs.device.type == "cuda"
        assert torch.equal(ours, theirs.cpu())


def test_groups_are_decades() -> None:
    assert age_groups([39.99, 40, 49.9, 50, 71, 20]).tolist() == [1, 2, 2, 3, 5, 0]


@pytest.mark.parametrize("place", [Place(0, 0, 5), Place(0, 0, -1), Place(0, -1, 0)])
def test_a_place_in_no_epoch_is_refused(place: Place) -> None:
    with pytest.raises(BadInput, match="is in no epoch of 5 batches"):
        AgeSampler(groups_of([25, 25]), 1, 10, place)


def test_nobody_is_refused() -> None:
    with pytest.raises(BadInput, match="0 people in 0 groups"):
        AgeSampler(age_groups([]), 1, 10, Place(0))
