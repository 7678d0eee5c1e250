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

from henaw.config import load_config
from henaw.model.bins import BinsHead
from henaw.model.heads import Head, QuantileHead
from henaw.model.losses import (
    CRPS_LEVELS,
    Loss,
    beta_nll_loss,
    crps_and_nll_loss,
    crps_loss,
    mortality_loss,
    quantile_function,
    training_loss,
)
from tests.scenarios import BINS, BOUNDED, GAUSSIAN, HAZARD, HEADS, OWN_AGE, QUANTILE_HEADS

Array = NDArray[np.float64]

CPU = torch.device("cpu")
AGES = np.array([22.0, 45, 58, 79, 60])
FOLLOW_UP = np.array([12.0, 3.0, 20.0, 0.5, 8.0])
DIED = np.array([0.0, 1.0, 0.0, 1.0, 1.0])

every_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def outputs_of(head: Head, seed: int = 0, people: int = 5) -> Array:
    return np.random.default_rng(seed).normal(0, 0.8, (3, people, head.outputs))


def targets(age: Array, *others: Array) -> torch.Tensor:
    return torch.tensor(np.stack([age, *others], axis=1), dtype=torch.float32)


def said(loss: Loss, outputs: Array, target: torch.Tensor) -> Array:
    values: Array = loss(torch.tensor(outputs, dtype=torch.float32), target).numpy().astype(np.float64)
    return values


def mortality(head: Head) -> Loss:
    return mortality_loss(head, HAZARD, CPU)


# --- CRPS ------------------------------------------------------------------------------------------------------------


@every_head
def test_crps_is_scoringrules_from_dense_quantiles(head: Head) -> None:
    levels = (np.arange(5000) + 0.5) / 5000
    outputs = outputs_of(head)
    quantiles = head.quantiles(outputs, ndtri(levels), AGES)
    expected = scoringrules.crps_quantile(np.broadcast_to(AGES, (3, 5)), quantiles, levels)
    found = said(crps_loss(head, CPU), outputs, targets(AGES))
    assert found.shape == (3, 5)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.1)
    assert np.abs(found - expected).mean() < 0.05


def plain_crps(head: QuantileHead, outputs: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
    """Twice the mean pinball loss, as autograd likes it."""
    levels = (np.arange(CRPS_LEVELS) + 0.5) / CRPS_LEVELS
    u, basis = torch.tensor(levels), torch.tensor(head.basis(ndtri(levels)))
    latent = outputs[..., :1] + torch.nn.functional.softplus(outputs[..., 1:]) @ basis
    if head.link == "logit":
        quantiles = head.low + (head.high - head.low) * torch.sigmoid(latent)
    else:
        quantiles = (age.unsqueeze(-1) if head.center is None else head.center) + head.scale * latent
    error = age.unsqueeze(-1) - quantiles
    return 2 * torch.maximum(u * error, (u - 1) * error).mean(dim=-1)


@pytest.mark.parametrize("form", QUANTILE_HEADS)
@pytest.mark.parametrize("own_targets", [False, True])
def test_crps_and_its_gradient_written_out_are_those_of_autograd(form: str, own_targets: bool) -> None:
    head = QUANTILE_HEADS[form]
    age = torch.tensor(AGES + np.arange(3)[:, None] if own_targets else AGES)
    found = []
    for loss in (
        lambda outputs: crps_loss(head, CPU)(outputs, age.unsqueeze(-1)),
        lambda outputs: plain_crps(head, outputs, age),
    ):
        outputs = torch.tensor(outputs_of(head), requires_grad=True)
        each = loss(outputs)
        each.backward(torch.arange(1.0, 16.0, dtype=torch.float64).view(3, 5))
        found.append((each.detach(), outputs.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", QUANTILE_HEADS)
def test_the_gradient_of_crps_is_that_of_finite_differences(form: str) -> None:
    """In double precision; no level of these people lies within a step of the truth, where the CRPS has a corner."""
    loss, outputs = crps_loss(QUANTILE_HEADS[form], CPU), torch.tensor(outputs_of(QUANTILE_HEADS[form]))
    age = torch.tensor(AGES).unsqueeze(-1)
    assert torch.autograd.gradcheck(lambda values: loss(values, age), outputs.requires_grad_(), eps=1e-7, atol=1e-4)


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


# --- bins ------------------------------------------------------------------------------------------------------------


def histogram(outputs: Array) -> tuple[Array, Array]:
    """Probabilities of the bins, and the distribution function at their edges."""
    probability = np.exp(outputs) / np.exp(outputs).sum(axis=-1, keepdims=True)
    return probability, np.concatenate([np.zeros((*outputs.shape[:-1], 1)), probability.cumsum(axis=-1)], axis=-1)


def test_crps_of_bins_is_the_integral_of_the_squared_difference_within_and_beyond_the_support() -> None:
    """∫ (F(x) − 1{x ≥ y})² dx by scipy, of ages on an edge, at an end, in the narrow last bin, and beyond."""
    ages = np.array([19.5, 24.0, 51.3, 79.0, 12.0, 93.0])
    outputs = np.random.default_rng(0).normal(0, 1.5, (3, len(ages), BINS.outputs))
    found, (_, cumulative) = said(crps_loss(BINS, CPU), outputs, targets(ages)), histogram(outputs)
    for member in range(3):
        for person, age in enumerate(ages):

            def squared(x: float, member: int = member, person: int = person, age: float = age) -> float:
                return float((np.interp(x, BINS.edges, cumulative[member, person]) - (x >= age)) ** 2)

            low, high = min(age, BINS.low), max(age, BINS.high)
            corners = sorted({age, *BINS.edges})
            expected = sum(
                quad(squared, start, end)[0]
                for start, end in zip([low, *corners], [*corners, high], strict=True)
                if end > start
            )
            assert found[member, person] == pytest.approx(expected, abs=1e-4)


def test_the_spread_term_of_binned_crps_is_scoringrules_with_ever_more_points() -> None:
    """Bins of a hundredth of a year are points: CRPS of a discrete distribution."""
    points = BinsHead(49.0, 51.0, 0.01)
    outputs = np.random.default_rng(0).normal(0, 1, (1, 1, points.outputs))
    middles, probability = (points.edges[1:] + points.edges[:-1]) / 2, histogram(outputs)[0][0, 0]
    expected = scoringrules.crps_ensemble(49.7, middles, ens_w=probability)
    assert said(crps_loss(points, CPU), outputs, targets(np.array([49.7])))[0, 0] == pytest.approx(expected, abs=1e-4)


def test_nll_of_bins_is_the_log_density_at_the_age() -> None:
    """Hand-worked: bins of 10, 10 and 5 years hold 1/2, 1/4 and 1/4; an age beyond counts for the bin next to it."""
    head = BinsHead(20.0, 45.0, 10.0)
    ages = np.array([10.0, 20.0, 29.9, 30.0, 44.0, 45.0, 80.0])
    outputs = np.tile(np.log([2.0, 1.0, 1.0]), (1, len(ages), 1))
    both = said(crps_and_nll_loss(head, 3.0, CPU), outputs, targets(ages))
    nll = (both - said(crps_loss(head, CPU), outputs, targets(ages))) / 3
    density = [0.05, 0.05, 0.05, 0.025, 0.05, 0.05, 0.05]
    np.testing.assert_allclose(nll[0], -np.log(density), atol=1e-5)


def test_training_and_answering_mean_the_same_by_logits() -> None:
    """PyTorch's exact CRPS in single precision, and numpy's from 100,000 of the quantiles that are answered."""
    outputs, levels = outputs_of(BINS), (np.arange(100_000) + 0.5) / 100_000
    error = AGES[:, None] - BINS.quantiles(outputs, ndtri(levels), AGES)
    expected = 2 * np.maximum(levels * error, (levels - 1) * error).mean(axis=-1)
    np.testing.assert_allclose(said(crps_loss(BINS, CPU), outputs, targets(AGES)), expected, rtol=0, atol=1e-4)


# --- beta-NLL --------------------------------------------------------------------------------------------------------


def test_the_value_of_beta_nll_is_the_likelihood_whatever_beta() -> None:
    outputs = outputs_of(GAUSSIAN)
    mean, sd = 50 + 12 * outputs[..., 0], 12 * np.log1p(np.exp(outputs[..., 1]))
    for beta in (0.0, 0.5, 1.0):
        found = said(beta_nll_loss(GAUSSIAN, beta), outputs, targets(AGES))
        np.testing.assert_allclose(found, -norm.logpdf(AGES, mean, sd), rtol=1e-4, atol=1e-5)


def test_beta_nll_of_a_person_whose_own_age_is_the_center() -> None:
    outputs = outputs_of(OWN_AGE)
    mean, sd = AGES + 10 * outputs[..., 0], 10 * np.log1p(np.exp(outputs[..., 1]))
    found = said(beta_nll_loss(OWN_AGE, 0.5), outputs, targets(AGES))
    np.testing.assert_allclose(found, -norm.logpdf(AGES, mean, sd), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 1.0])
def test_the_gradient_of_beta_nll_is_the_formula(beta: float) -> None:
    """σ^(2β)·(μ − y)/σ² and σ^(2β)·(1/σ − (y − μ)²/σ³)·∂σ, in units of the scale; with β = 1 that of squared error."""
    outputs = torch.tensor(outputs_of(GAUSSIAN), dtype=torch.float32, requires_grad=True)
    beta_nll_loss(GAUSSIAN, beta)(outputs, targets(AGES)).sum().backward()
    assert outputs.grad is not None
    mean, slope = outputs_of(GAUSSIAN)[..., 0], outputs_of(GAUSSIAN)[..., 1]
    sd, away = np.log1p(np.exp(slope)), mean - (AGES - 50) / 12
    by_mean = sd ** (2 * beta) * away / sd**2
    by_slope = sd ** (2 * beta) * (1 / sd - away**2 / sd**3) / (1 + np.exp(-slope))
    np.testing.assert_allclose(outputs.grad[..., 0], by_mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs.grad[..., 1], by_slope, rtol=1e-3, atol=1e-3)
    if beta == 1:
        np.testing.assert_allclose(outputs.grad[..., 0], away, rtol=1e-4, atol=1e-4)


def test_beta_nll_and_its_gradient_are_finite_however_large_or_small_the_outputs() -> None:
    for size in (1e-30, 1.0, 30.0, 1e3, 1e6):
        for sign in (-1, 1):
            outputs = torch.full((2, 5, 2), sign * size, requires_grad=True)
            loss = beta_nll_loss(GAUSSIAN, 0.5)(outputs, targets(AGES))
            loss.sum().backward()
            assert outputs.grad is not None
            assert bool(torch.isfinite(loss).all())
            assert bool(torch.isfinite(outputs.grad).all())


# --- which one the settings mean -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "head", "expected"),
    [
        ("", BOUNDED, crps_loss(BOUNDED, CPU)),
        ("network.head=bins", BINS, crps_loss(BINS, CPU)),
        ("network.head=bins training.nll_weight=0.7", BINS, crps_and_nll_loss(BINS, 0.7, CPU)),
        ("network.head=gaussian", GAUSSIAN, crps_loss(GAUSSIAN, CPU)),
        ("network.head=gaussian training.loss=beta_nll training.beta=0.3", GAUSSIAN, beta_nll_loss(GAUSSIAN, 0.3)),
    ],
)
def test_the_settings_choose_the_loss(overrides: str, head: Head, expected: Loss) -> None:
    chosen = training_loss(head, None, load_config(overrides=overrides).training, CPU)
    grads = []
    for loss in (chosen, expected):
        outputs = torch.tensor(outputs_of(head), dtype=torch.float32, requires_grad=True)
        loss(outputs, targets(AGES)).sum().backward()
        grads.append(outputs.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)


def test_a_hazard_means_the_likelihood_of_survival() -> None:
    outputs, target = outputs_of(OWN_AGE), targets(AGES, FOLLOW_UP, DIED)
    chosen = training_loss(OWN_AGE, HAZARD, load_config().training, CPU)
    np.testing.assert_array_equal(said(chosen, outputs, target), said(mortality(OWN_AGE), outputs, target))


def test_a_loss_of_another_head_is_refused() -> None:
    refused: list[Callable[[], object]] = [
        lambda: quantile_function(BINS, np.zeros(1), CPU),
        lambda: mortality(BINS),
        lambda: beta_nll_loss(BINS, 0.5),
        lambda: beta_nll_loss(BOUNDED, 0.5),
        lambda: crps_and_nll_loss(GAUSSIAN, 0.5, CPU),
    ]
    for attempt in refused:
        with pytest.raises(TypeError):
            attempt()


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

LOSSES: dict[str, Callable[[Head], Loss]] = {
    "crps": lambda head: crps_loss(head, CPU),
    "crps and nll": lambda head: crps_and_nll_loss(head, 0.5, CPU),
    "mortality": mortality,
}
PAIRS = [
    *[("crps", head) for head in HEADS],
    *[("mortality", head) for head in QUANTILE_HEADS],
    ("crps and nll", "bins"),
]


@pytest.mark.parametrize(("name", "form"), PAIRS)
def test_gradients_are_those_of_finite_differences(name: str, form: str) -> None:
    head = HEADS[form]
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
def test_crps_and_its_gradient_are_finite_however_large_or_small_the_outputs(head: Head) -> None:
    for size in (1e-30, 1e-6, 1.0, 30.0, 1e3, 1e6):
        for sign in (-1, 1):
            outputs = torch.full((2, 5, head.outputs), sign * size, requires_grad=True)
            loss = crps_loss(head, CPU)(outputs, targets(AGES))
            loss.sum().backward()
            assert outputs.grad is not None
            assert bool(torch.isfinite(loss).all())
            assert bool(torch.isfinite(outputs.grad).all())


@pytest.mark.parametrize("location", [-1e4, -50.0, 0.0, 20.0, 50.0, 100.0, 1e4])
@pytest.mark.parametrize("slope", [-1e4, -20.0, 0.0, 3.0, 8.0, 100.0, 1e4])
def test_mortality_and_its_gradient_are_finite_centuries_away(location: float, slope: float) -> None:
    """A unit is ten years: biological ages from −100,000 to 100,000 with a spread as large."""
    outputs = torch.tensor([location, slope]).expand(2, 5, 2).clone().requires_grad_()
    loss = mortality(OWN_AGE)(outputs, targets(AGES, FOLLOW_UP, DIED))
    loss.sum().backward()
    assert outputs.grad is not None
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(outputs.grad).all())


@pytest.mark.parametrize(("name", "form"), PAIRS)
def test_a_persons_loss_depends_on_that_person_and_member_alone(name: str, form: str) -> None:
    loss, outputs, target = LOSSES[name](HEADS[form]), outputs_of(HEADS[form]), targets(AGES, FOLLOW_UP, DIED)
    together = said(loss, outputs, target)
    for member in range(3):
        for person in range(5):
            alone = said(loss, outputs[member, [person]], target[[person]])
            np.testing.assert_allclose(alone, together[member, person], rtol=1e-5)


@pytest.mark.parametrize(("name", "form"), PAIRS)
def test_targets_may_be_a_members_own(name: str, form: str) -> None:
    """In training every member has an order of its own, in validation all share one."""
    loss, outputs, target = LOSSES[name](HEADS[form]), outputs_of(HEADS[form]), targets(AGES, FOLLOW_UP, DIED)
    np.testing.assert_array_equal(said(loss, outputs, target.expand(3, 5, 3)), said(loss, outputs, target))
