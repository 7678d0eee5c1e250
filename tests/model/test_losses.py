"""The losses against scoringrules and scipy's integrals, and their gradients where it matters."""

from collections.abc import Callable

import numpy as np
import pytest
import scoringrules
import torch
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import ndtri
from scipy.stats import norm

from henaw.model.heads import QuantileHead
from henaw.model.losses import Loss, crps_loss, mortality_loss
from tests.scenarios import GAUSSIAN, HAZARD, HEADS, OWN_AGE

Array = NDArray[np.float64]

CPU = torch.device("cpu")
AGES = np.array([22.0, 45, 58, 79, 60])
FOLLOW_UP = np.array([12.0, 3.0, 20.0, 0.5, 8.0])
DIED = np.array([0.0, 1.0, 0.0, 1.0, 1.0])

every_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def outputs_of(head: QuantileHead, seed: int = 0, people: int = 5) -> Array:
    return np.random.default_rng(seed).normal(0, 0.8, (3, people, head.outputs))


def targets(age: Array, *others: Array) -> torch.Tensor:
    return torch.tensor(np.stack([age, *others], axis=1), dtype=torch.float32)


def said(loss: Loss, outputs: Array, target: torch.Tensor) -> Array:
    values: Array = loss(torch.tensor(outputs, dtype=torch.float32), target).numpy().astype(np.float64)
    return values


def mortality(head: QuantileHead) -> Loss:
    return mortality_loss(head, HAZARD, CPU)


# --- CRPS ------------------------------------------------------------------------------------------------------------


@every_head
def test_crps_is_scoringrules_from_dense_quantiles(head: QuantileHead) -> None:
    levels = (np.arange(5000) + 0.5) / 5000
    outputs = outputs_of(head)
    quantiles = head.quantiles(outputs, ndtri(levels), AGES)
    expected = scoringrules.crps_quantile(np.broadcast_to(AGES, (3, 5)), quantiles, levels)
    found = said(crps_loss(head, CPU), outputs, targets(AGES))
    assert found.shape == (3, 5)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.1)
    assert np.abs(found - expected).mean() < 0.05


def test_crps_of_a_gaussian_is_the_closed_form() -> None:
    outputs = outputs_of(GAUSSIAN)
    mean, sd = 50 + 12 * outputs[..., 0], 12 * np.log1p(np.exp(outputs[..., 1]))
    expected = scoringrules.crps_normal(np.broadcast_to(AGES, (3, 5)), mean, sd)
    np.testing.assert_allclose(said(crps_loss(GAUSSIAN, CPU), outputs, targets(AGES)), expected, rtol=0.02, atol=0.1)


def test_crps_of_a_point_is_its_distance() -> None:
    outputs = np.tile([0.5, -60.0], (1, 5, 1))
    np.testing.assert_allclose(said(crps_loss(GAUSSIAN, CPU), outputs, targets(AGES))[0], np.abs(AGES - 56), rtol=1e-5)


def test_the_true_distribution_has_the_lowest_expected_crps() -> None:
    """What makes the predicted spread honest: neither a wider nor a narrower or shifted Gaussian scores better."""
    truth, loss = np.random.default_rng(0).normal(50, 6, 50_000), crps_loss(GAUSSIAN, CPU)
    scores = {}
    for mean in (49, 50, 51):
        for sd in (5, 6, 7):
            outputs = np.tile([(mean - 50) / 12, np.log(np.expm1(sd / 12))], (1, len(truth), 1))
            scores[mean, sd] = said(loss, outputs, targets(truth)).mean()
    assert min(scores, key=scores.__getitem__) == (50, 6)


# --- mortality -------------------------------------------------------------------------------------------------------


def test_mortality_is_the_likelihood_integrated_by_scipy() -> None:
    """log ∫ N(BA; μ, σ²) · h(BA + t)^d · exp(−H(BA, t)) dBA, for people who died and people who did not."""
    outputs = outputs_of(OWN_AGE)
    found = said(mortality(OWN_AGE), outputs, targets(AGES, FOLLOW_UP, DIED))
    for member in range(3):
        for person in range(5):
            mean = AGES[person] + 10 * outputs[member, person, 0]
            sd = 10 * np.log1p(np.exp(outputs[member, person, 1]))
            years, died = FOLLOW_UP[person], DIED[person]

            def density(age: float, mean: float = mean, sd: float = sd, t: float = years, d: float = died) -> float:
                survived = np.exp(-HAZARD.cumulative(np.array(age), t))
                return float(norm.pdf(age, mean, sd) * HAZARD.hazard(np.array(age + t)) ** d * survived)

            likelihood, _ = quad(density, mean - 8 * sd, mean + 8 * sd, limit=200)
            assert found[member, person] == pytest.approx(-np.log(likelihood), abs=0.02)


def test_mortality_of_a_certain_age_is_the_closed_form() -> None:
    outputs = np.tile([0.5, -60.0], (1, 5, 1))
    age = AGES + 5
    expected = HAZARD.cumulative(age, FOLLOW_UP) - DIED * np.log(HAZARD.hazard(age + FOLLOW_UP))
    found = said(mortality(OWN_AGE), outputs, targets(AGES, FOLLOW_UP, DIED))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_deaths_are_better_explained_by_age_and_survival_by_youth() -> None:
    older, younger = (np.tile([shift, 0.0], (1, 5, 1)) for shift in (1.0, -1.0))
    target = targets(AGES, FOLLOW_UP, DIED)
    better = said(mortality(OWN_AGE), older, target) < said(mortality(OWN_AGE), younger, target)
    np.testing.assert_array_equal(better[0][[0, 1, 3, 4]], [False, True, True, True])


# --- both ------------------------------------------------------------------------------------------------------------

LOSSES: dict[str, Callable[[QuantileHead], Loss]] = {"crps": lambda head: crps_loss(head, CPU), "mortality": mortality}


@pytest.mark.parametrize("name", LOSSES)
@every_head
def test_gradients_are_those_of_finite_differences(head: QuantileHead, name: str) -> None:
    loss, target = LOSSES[name](head), targets(AGES, FOLLOW_UP, DIED)
    outputs = torch.tensor(outputs_of(head), dtype=torch.float32, requires_grad=True)
    loss(outputs, target).sum().backward()
    assert outputs.grad is not None
    step = 0.01
    for output in range(head.outputs):
        moved = np.zeros(head.outputs)
        moved[output] = step
        numerical = (
            said(loss, outputs.detach().numpy() + moved, target) - said(loss, outputs.detach().numpy() - moved, target)
        ) / (2 * step)
        # the CRPS has a corner wherever a level crosses the truth
        np.testing.assert_allclose(outputs.grad[..., output].numpy(), numerical, rtol=0.05, atol=0.25)


@every_head
def test_crps_and_its_gradient_are_finite_however_large_or_small_the_outputs(head: QuantileHead) -> None:
    for size in (1e-30, 1e-6, 1.0, 30.0, 1e3, 1e6):
        for sign in (-1, 1):
            outputs = torch.full((2, 5, head.outputs), sign * size, requires_grad=True)
            loss = crps_loss(head, CPU)(outputs, targets(AGES))
            loss.sum().backward()
            assert outputs.grad is not None
            assert bool(torch.isfinite(loss).all())
            assert bool(torch.isfinite(outputs.grad).all())


@pytest.mark.parametrize("location", [-1e4, -50.0, 0.0, 20.0, 50.0])
@pytest.mark.parametrize("slope", [-1e4, -20.0, 0.0, 3.0, 8.0])
def test_mortality_and_its_gradient_are_finite_centuries_away(location: float, slope: float) -> None:
    """A unit is ten years: biological ages from −100,000 to 550 with a spread up to 80."""
    outputs = torch.tensor([location, slope]).expand(2, 5, 2).clone().requires_grad_()
    loss = mortality(OWN_AGE)(outputs, targets(AGES, FOLLOW_UP, DIED))
    loss.sum().backward()
    assert outputs.grad is not None
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(outputs.grad).all())


@pytest.mark.parametrize("name", LOSSES)
def test_a_persons_loss_depends_on_that_person_and_member_alone(name: str) -> None:
    loss, outputs, target = LOSSES[name](OWN_AGE), outputs_of(OWN_AGE), targets(AGES, FOLLOW_UP, DIED)
    together = said(loss, outputs, target)
    for member in range(3):
        for person in range(5):
            alone = said(loss, outputs[member, [person]], target[[person]])
            np.testing.assert_allclose(alone, together[member, person], rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_targets_may_be_a_members_own(name: str) -> None:
    """In training every member has an order of its own, in validation all share one."""
    loss, outputs, target = LOSSES[name](OWN_AGE), outputs_of(OWN_AGE), targets(AGES, FOLLOW_UP, DIED)
    np.testing.assert_array_equal(said(loss, outputs, target.expand(3, 5, 3)), said(loss, outputs, target))
