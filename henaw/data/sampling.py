"""Whom each step of training sees: batches in which every age group has its share, anew in every epoch.

Indices are made where the data lives: on the device of the groups. The random numbers are a function of seed, epoch,
member and person alone (SplitMix64 on 64-bit integers), so an epoch is the same on every device, and can be taken up at
any batch without what came before. This is the one module of its room that knows torch: training alone imports it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from henaw.errors import BadInput

logger = logging.getLogger(__name__)

YEARS = 10  # of an age group

_INDEX_BITS, _RANDOM_BITS = (
    24,
    31,
)  # the rest of 63 bits is the group's: a sort then puts people in random order by group
_IN_CACHE = 1 << 21  # keys sorted at once on a processor: of four times as many, each takes twice as long
_MOST_PEOPLE, _MOST_GROUPS = 1 << _INDEX_BITS, 1 << (63 - _INDEX_BITS - _RANDOM_BITS)
_STEP, _FIRST, _SECOND = (
    -0x61C8864680B583EB,
    -0x40A7B892E31B1A47,
    -0x6B2FB644ECCEEE15,
)  # SplitMix64's, as signed numbers


@dataclass(frozen=True)
class Place:
    """Where a sampler stands: the next batch that it hands out. It can be stored as JSON."""

    seed: int
    epoch: int = 0
    batch: int = 0


class AgeSampler:
    """Batches of people, (K, B) positions on the device of ``groups``; each of the K members has an order of its own.

    By default everybody is in exactly one batch of an epoch (of each member), and every batch, also a short last one,
    holds each group in the cohort's proportion: as many as its share of the batch, rounded up or down. ``even`` draws
    the groups evenly instead (a group's number in a batch differs by one at most from another's), people with
    replacement: an epoch has as many batches, yet sees some people several times and others never.

    Iterating hands out what is left of the current epoch; then the next one is current, so a sampler never runs dry.
    ``place`` is that of the batch after the one handed out last.
    """

    def __init__(self, groups: Tensor, members: int, batch_size: int, place: Place, *, even: bool = False) -> None:
        """Sample people of ``groups``, (n,) integers from 0 on, from ``place`` on.

        Raises:
            BadInput: nobody, too many people or groups, or a place that is in no epoch.
        """
        people = len(groups)
        sizes = torch.bincount(groups).cpu() if people else torch.zeros(0, dtype=torch.int64)
        if not 0 < people <= _MOST_PEOPLE or len(sizes) > _MOST_GROUPS:
            raise BadInput(f"sampling: {people} people in {len(sizes)} groups; expected 1 to {_MOST_PEOPLE} people")
        self.batches = -(-people // batch_size)
        if not (0 <= place.batch < self.batches and place.epoch >= 0):
            raise BadInput(
                f"sampling: {place} is in no epoch of {self.batches} batches; expected one of the same cohort"
            )
        self.place = place
        self._members, self._batch_size, self._even = members, batch_size, even
        if even:
            logger.info("sampling: age groups are drawn evenly, with replacement: an epoch does not see everybody")
        slots = (_even_slots if even else _proportional_slots)(sizes[sizes > 0], people, batch_size)
        present = torch.unique(groups, return_inverse=True)[1]
        self._people = torch.arange(people, device=groups.device)
        self._grouped = torch.argsort(present, stable=True)  # people by group
        self._sizes = sizes[sizes > 0].to(groups.device)
        self._group_bits = present << (_INDEX_BITS + _RANDOM_BITS)
        self._slots = slots.to(groups.device)  # the group of each position in an epoch
        by_group = torch.argsort(self._slots, stable=True)
        self._rank = torch.argsort(by_group)  # of each position among all, group by group

    def __iter__(self) -> Iterator[Tensor]:
        """The batches that are left of the current epoch."""
        epoch, first = self.place.epoch, self.place.batch
        order = self.epoch(epoch)
        for batch in range(first, self.batches):
            after = (epoch, batch + 1) if batch + 1 < self.batches else (epoch + 1, 0)
            self.place = Place(self.place.seed, *after)
            yield order[:, batch * self._batch_size : (batch + 1) * self._batch_size]

    def epoch(self, epoch: int, at_once: int = 0) -> Tensor:
        """Everybody's positions in the order of ``epoch``, (K, n): a function of seed and epoch alone.

        That of ``at_once`` members is worked out at a time at most, which bounds the memory for it; 0 = of all.
        """
        streams = [_stream(self.place.seed, epoch, member) for member in range(self._members)]
        at_once = at_once or self._members
        if self._people.device.type == "cpu":
            at_once = min(at_once, max(1, _IN_CACHE // len(self._people)))
        if at_once >= self._members:
            return self._orders(streams)
        order = self._people.new_empty(self._members, len(self._people))
        for first in range(0, self._members, at_once):
            order[first : first + at_once] = self._orders(streams[first : first + at_once])
        return order

    def _orders(self, numbers: Sequence[int]) -> Tensor:
        streams = torch.tensor(numbers, device=self._people.device)
        random = _random(streams[:, None], self._people[None])
        if self._even:
            starts = torch.cumsum(self._sizes, 0) - self._sizes
            chosen = (random * self._sizes[self._slots]) >> _RANDOM_BITS
            return self._grouped[starts[self._slots] + chosen]
        keys = _sorted(random.bitwise_left_shift_(_INDEX_BITS).bitwise_or_(self._group_bits + self._people))
        return _taken(keys.bitwise_and_(_MOST_PEOPLE - 1), self._rank)


def age_groups(age_years: ArrayLike) -> Tensor:
    """The group of each age, (n,): decades from the youngest one present, numbered from 0."""
    decades = np.floor_divide(np.asarray(age_years, dtype=np.float64), YEARS).astype(np.int64)
    return torch.from_numpy(decades - decades.min() if len(decades) else decades)


def _proportional_slots(sizes: Tensor, people: int, batch_size: int) -> Tensor:
    """The group of each position (n,), such that each batch holds each group's share, rounded up or down.

    The full batches have equal shares. The whole part of a share is in every batch; what is over of the groups is dealt
    to the batches in turn, a group's one after another, so that no batch gets two of a group.
    """
    full, rest = divmod(people, batch_size)
    last = _rounded(sizes, rest, people)
    share = sizes * batch_size // people
    over = sizes - last - full * share
    counts = share.repeat(full, 1)
    extra = torch.repeat_interleave(torch.arange(len(sizes)), over)
    if full:
        counts.index_put_((torch.arange(len(extra)) % full, extra), torch.ones(len(extra), dtype=torch.int64), True)
    counts = torch.cat([counts, last[None]])
    return torch.repeat_interleave(torch.arange(len(sizes)).repeat(full + 1), counts.flatten())


def _rounded(sizes: Tensor, rest: int, people: int) -> Tensor:
    """Shares of ``rest`` people, rounded up or down to add up to it: the largest remainders are rounded up."""
    shares = sizes * rest // people
    remainders = sizes * rest - shares * people
    up = torch.argsort(remainders, descending=True, stable=True)[: rest - int(shares.sum())]
    shares[up] += 1
    return shares


def _even_slots(sizes: Tensor, people: int, batch_size: int) -> Tensor:
    """The group of each position (n,): all groups in turn, starting anew in each batch with another."""
    place = torch.arange(people)
    return (place % batch_size + place // batch_size) % len(sizes)


def _stream(seed: int, epoch: int, member: int) -> int:
    digest = hashlib.blake2b(f"{seed} {epoch} {member}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def random_bits(stream: int | Tensor, words: int, device: torch.device) -> Tensor:
    """The first ``words`` times 64 bits of ``stream``, as signed integers: SplitMix64's outputs.

    A function of its arguments alone, so it is the same on every device, and asked for again it is the same again.
    """
    z = _mixed(stream, torch.arange(words, device=device))
    return _shifted(z, 31)


def random_numbers(stream: int | Tensor, places: Tensor) -> Tensor:
    """The numbers of 16 bits that stand at ``places`` (any shape) of ``random_bits`` of ``stream``, from -2¹⁵ on."""
    words = _shifted(_mixed(stream, places >> 2), 31)
    return words.bitwise_left_shift_(48 - ((places & 3) << 4)).bitwise_right_shift_(48)


def _mixed(streams: Tensor | int, numbers: Tensor) -> Tensor:
    """SplitMix64's outputs but for the last mixing, which leaves the highest bits alone.

    Steele, Lea & Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    z = ((numbers + 1) * _STEP).add(streams)
    z = _shifted(z, 30).mul_(_FIRST)
    return _shifted(z, 27).mul_(_SECOND)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """``z`` with its own bits, shifted right, mixed into it in place: >> keeps the sign, the mask takes those bits."""
    return z.bitwise_xor_((z >> bits).bitwise_and_((1 << (64 - bits)) - 1))


def _random(streams: Tensor, people: Tensor) -> Tensor:
    """Numbers of ``_RANDOM_BITS`` bits, the highest ones of SplitMix64's."""
    z = _mixed(streams, people)
    return z.bitwise_right_shift_(64 - _RANDOM_BITS).bitwise_and_((1 << _RANDOM_BITS) - 1)


def _sorted(keys: Tensor) -> Tensor:
    if keys.device.type == "cpu":  # numpy's sort is many times faster than torch's there
        keys.numpy().sort(axis=1)
        return keys
    return torch.sort(keys, dim=1).values


def _taken(rows: Tensor, columns: Tensor) -> Tensor:
    if rows.device.type == "cpu":  # here numpy takes a fifth of torch's time
        return torch.from_numpy(rows.numpy().take(columns.numpy(), axis=1))
    return rows.index_select(1, columns)
