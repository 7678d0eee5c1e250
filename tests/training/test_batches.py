"""Every member sees everybody once an epoch, in an order and behind masks of its own, and the same again by seed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from henaw.model.ensemble import network_inputs
from henaw.model.features import FeatureScaling, dependence, raw_features
from henaw.model.losses import AGE, DIED, YEARS
from henaw.training.batches import Batch, Disturbance, LogicalBatch, TrainingData, epoch_batches, ordered, stream
from henaw.training.fit import training_data
from tests.scenarios import BLOOD9, KNOWN, blood_rows, mortal_cohort, tiny_config

FEATURES = len(BLOOD9.names) + len(BLOOD9.derived)
MEMBERS = 3
CPU = torch.device("cpu")


def data(people: int) -> TrainingData:
    """Nobody misses anything, and every age is another, so that a person is known by age."""
    scaling = FeatureScaling(np.full(FEATURES, 0.123), np.ones(FEATURES))
    rows = blood_rows(people, 0).assign(age_years=np.arange(people, dtype=float))
    return training_data(rows, BLOOD9, scaling, tiny_config(), CPU)


def epoch(
    people: int, batch_size: int = 16, mask_rate: float = 0.0, seed: int = 0, *, noise: float = 0.0
) -> list[Batch]:
    return [whole(batch) for batch in drawn(data(people), batch_size, Disturbance(mask_rate, noise), seed)]


def drawn(
    people: TrainingData, batch_size: int, disturbance: Disturbance, seed: int = 0, number: int = 0, first: int = 0
) -> list[LogicalBatch]:
    order = ordered(people.targets[:, AGE], MEMBERS, batch_size, "proportional", seed)(number)
    return list(epoch_batches(people, order, batch_size, disturbance, seed, number, first))


def whole(batch: LogicalBatch) -> Batch:
    [piece] = batch.split(len(batch))
    return piece


def joined(batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    ages = [batch.targets[..., AGE] for batch in batches]
    return torch.cat([batch.inputs for batch in batches], dim=1), torch.cat(ages, dim=1)


@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 5))
@settings(max_examples=40)
def test_every_member_sees_everybody_exactly_once(people: int, batch_size: int, seed: int) -> None:
    batches = epoch(people, batch_size, 0.1, seed)
    assert [batch.targets.shape[1] for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    _, ages = joined(batches)
    for member in ages:
        assert sorted(member.tolist()) == list(range(people))


def test_members_and_epochs_have_orders_of_their_own() -> None:
    order = ordered(torch.arange(50.0), MEMBERS, 16, "proportional", 0)
    assert torch.equal(order(0), order(0))
    orders = {tuple(member.tolist()) for number in (0, 1) for member in order(number)}
    assert len(orders) == 2 * MEMBERS
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_streams_are_of_their_own() -> None:
    """Purpose, seed and every number of the place count, and so does where one number ends and the next begins."""
    named = [(0, "a"), (0, "b"), (1, "a"), (0, "a", 1), (0, "a", 1, 2), (0, "a", 2, 1), (0, "a", 12), (0, "a", 21)]
    assert len({stream(*name) for name in named}) == len(named)  # type: ignore[arg-type]
    assert stream(0, "a", 1, 2) == stream(0, "a", 1, 2)


@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 5), st.integers(0, 9))
@settings(max_examples=30)
def test_an_epoch_goes_on_from_any_batch_as_if_it_had_not_stopped(
    people: int, batch_size: int, number: int, first: int
) -> None:
    disturbance = Disturbance(0.3, 0.2)
    expected = drawn(data(people), batch_size, disturbance, 3, number)[first:]
    found = drawn(data(people), batch_size, disturbance, 3, number, first)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("inputs", "targets"):
            assert torch.equal(getattr(whole(one), name), getattr(whole(other), name))


@given(st.integers(1, 33), st.integers(1, 40))
@settings(max_examples=30)
def test_a_batch_is_the_same_in_whatever_pieces(people: int, size: int) -> None:
    [batch] = drawn(data(people), 40, Disturbance(0.3, 0.2))
    pieces = list(batch.split(size))
    assert all(piece.targets.shape[1] <= size for piece in pieces)
    for name in ("inputs", "targets"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces], dim=1), getattr(whole(batch), name))


def test_epochs_and_batches_have_disturbances_of_their_own() -> None:
    seen = [
        tuple(noise.flatten().tolist()[:5]) + tuple(kept.flatten().tolist())  # type: ignore[union-attr]
        for number in (0, 1)
        for batch in drawn(data(64), 16, Disturbance(0.3, 0.2), 0, number)
        for noise, kept in [batch.drawn(slice(None))]
    ]
    assert len(set(seen)) == 8


@pytest.mark.parametrize(("mask_rate", "noise"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.2)])
def test_the_same_seed_gives_the_same_epoch_and_another_another(mask_rate: float, noise: float) -> None:
    first, again, other = (joined(epoch(50, mask_rate=mask_rate, seed=seed, noise=noise)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_a_row_keeps_its_person_together() -> None:
    """Inputs and age of a place belong to the same person, sex included."""
    people = data(50)
    expected = people.inputs(slice(None))
    inputs, ages = joined(epoch(50))
    for member in range(MEMBERS):
        assert torch.equal(inputs[member], expected[ages[member].long()])


def test_markers_are_hidden_at_the_rate_and_differently_for_every_member() -> None:
    inputs, ages = joined(epoch(2000, 500, 0.2))
    present = inputs[..., FEATURES : 2 * FEATURES]
    rates = 1 - present.mean(dim=(0, 1))
    assert rates[:-1].numpy() == pytest.approx(np.full(len(BLOOD9.names), 0.2), abs=0.025)
    assert float(rates[-1]) == pytest.approx(1 - 0.8**2, abs=0.025), "the ratio is hidden with either of its markers"
    by_person = [member_present[order.argsort()] for member_present, order in zip(present, ages, strict=True)]
    assert not torch.equal(by_person[0], by_person[1])


def test_a_hidden_marker_hides_its_features_value_and_bit_and_nothing_else() -> None:
    people = data(300)
    inputs, ages = joined(epoch(300, 64, 0.3))
    scaled, present, sex = inputs.split([FEATURES, FEATURES, 1], dim=-1)
    assert ((present == 0) | (present == 1)).all()
    assert (scaled[present == 0] == 0).all()
    rows = ages.long()
    assert torch.equal(scaled[present == 1], people.scaled[rows][present == 1])
    assert torch.equal(sex, people.always[rows])
    ast, alt = BLOOD9.names.index("ast_u_l"), BLOOD9.names.index("alt_u_l")
    either_hidden = (present[..., ast] == 0) | (present[..., alt] == 0)
    assert torch.equal(present[..., -1] == 0, either_hidden)
    assert either_hidden.any()
    assert (~either_hidden).any()


def test_what_is_missing_stays_missing_and_nothing_is_hidden_at_rate_zero() -> None:
    rows = blood_rows(40, 0)
    rows.loc[::2, "rdw_pct"] = np.nan
    scaling = FeatureScaling(np.zeros(FEATURES), np.ones(FEATURES))
    people = training_data(rows, BLOOD9, scaling, tiny_config(), CPU)
    [batch] = drawn(people, 40, Disturbance(0.0, 0.0))
    present = whole(batch).inputs[..., FEATURES : 2 * FEATURES]
    assert present.sum(dim=(1, 2)).tolist() == [40 * FEATURES - 20] * MEMBERS


def test_people_who_are_there_already_are_not_copied_and_those_who_are_met_always_are() -> None:
    people = data(30)
    assert people.to(CPU) is people
    assert people.to(torch.float64).table.dtype == torch.float64
    [batch] = drawn(people, 30, Disturbance(0.0, 0.0))
    place = people.table.untyped_storage().data_ptr()
    assert people.inputs(slice(5, 9)).untyped_storage().data_ptr() == place
    assert whole(batch).inputs.untyped_storage().data_ptr() != place


def test_training_data_is_what_the_clock_will_see() -> None:
    """Scaled features, presence and sex of training are those of answering, to float32."""
    rows = blood_rows(30, 1)
    rows.loc[3, "ast_u_l"] = np.nan
    scaling = FeatureScaling(np.linspace(1, 4, FEATURES), np.linspace(0.5, 2, FEATURES))
    people = training_data(rows, BLOOD9, scaling, tiny_config(), CPU)
    scaled, present = scaling.apply(raw_features(BLOOD9, rows[list(BLOOD9.names)].to_numpy()))
    np.testing.assert_allclose(people.scaled.numpy(), scaled, rtol=1e-6)
    np.testing.assert_array_equal(people.present.numpy(), present)
    np.testing.assert_array_equal(people.always.numpy(), (rows["sex"] == "male").to_numpy()[:, None])
    np.testing.assert_allclose(people.targets.numpy(), rows[["age_years"]].to_numpy(), rtol=1e-6)
    np.testing.assert_array_equal(people.dependence.numpy(), dependence(BLOOD9))
    assert len(people) == 30


def test_the_mortality_clock_reads_age_and_is_trained_on_follow_up() -> None:
    """Sex and age as in answering are never hidden; targets are age, years and death, censored at the cap."""
    cohort = mortal_cohort(300, 0).table
    config = tiny_config("target=mortality mortality.cap_years=7")
    people = training_data(cohort, KNOWN, FeatureScaling(np.zeros(2), np.ones(2)), config, CPU)
    age, years = cohort["age_years"], cohort["followup_months"] / 12
    np.testing.assert_allclose(people.targets[:, AGE], age, rtol=1e-6)
    np.testing.assert_allclose(people.targets[:, YEARS], np.minimum(years, 7), rtol=1e-6)
    np.testing.assert_array_equal(people.targets[:, DIED], cohort["died"].to_numpy() * (years <= 7))
    assert 0 < float(people.targets[:, DIED].sum()) < cohort["died"].sum()
    answering = network_inputs(
        people.scaled.double().numpy(),
        people.present.double().numpy(),
        (cohort["sex"] == "male").to_numpy(float),
        age.to_numpy(),
    )
    np.testing.assert_allclose(people.inputs(slice(None)), answering, rtol=1e-5, atol=1e-6)
    [drawn_once] = drawn(people, 300, Disturbance(0.9, 0.5))
    batch = whole(drawn_once)
    order = batch.targets[0, :, AGE].argsort()
    expected = people.targets[:, AGE].argsort()
    assert torch.equal(batch.inputs[0, order][:, -2:], people.always[expected])


def test_noise_is_of_its_size_on_what_is_present_and_nowhere_else() -> None:
    people = data(2000)
    inputs, ages = joined(epoch(2000, 500, 0.2, noise=0.3))
    scaled, present, sex = inputs.split([FEATURES, FEATURES, 1], dim=-1)
    rows = ages.long()
    noise = scaled - people.scaled[rows]
    added = noise[present == 1]
    seen_by_both = (present[0] == 1) & (present[1] == 1)
    assert (noise[0] != noise[1])[seen_by_both].float().mean() > 0.99, "members have noise of their own"
    assert float(added.std()) == pytest.approx(0.3, rel=0.02)
    assert float(added.mean()) == pytest.approx(0, abs=0.01)
    assert (scaled[present == 0] == 0).all()
    assert torch.equal(sex, people.always[rows])
    by_person = [values[order.argsort()] for values, order in zip(scaled, ages, strict=True)]
    assert not torch.equal(by_person[0], by_person[1])
    assert torch.equal(people.scaled, data(2000).scaled), "the people themselves stay as they are"
