"""The losses against scoringrules and scipy, and their gradients where it matters."""

import numpy as np
import pytest
import scoringrules
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from henaw.model.losses import LOSSES, gaussian_crps, gaussian_nll

MEANS, SDS, TRUTHS = st.floats(0, 120), st.floats(0.5, 40), st.floats(0, 120)


def double(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


@given(MEANS, SDS, TRUTHS)
@settings(max_examples=200, deadline=None)
def test_crps_and_log_score_are_those_of_scoringrules_and_scipy(mean: float, sd: float, truth: float) -> None:
    crps = float(gaussian_crps(*double(mean, sd, truth)))
    assert crps == pytest.approx(float(scoringrules.crps_normal(truth, mean, sd)), abs=1e-9)
    nll = float(gaussian_nll(*double(mean, sd, truth)))
    assert nll == pytest.approx(-norm.logpdf(truth, mean, sd), rel=1e-12)  # scoringrules' underflows far out


@pytest.mark.parametrize("name", LOSSES)
def test_the_true_distribution_has_the_lowest_expected_loss(name: str) -> None:
    """What makes the predicted spread honest: neither a wider nor a narrower or shifted Gaussian scores better."""
    truth = torch.tensor(np.random.default_rng(0).normal(50, 6, 200_000))
    scores = {
        (mean, sd): float(LOSSES[name](*double(mean, sd), truth).mean()) for mean in (49, 50, 51) for sd in (5, 6, 7)
    }
    assert min(scores, key=scores.__getitem__) == (50, 6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    mean, sd, truth = double(48.0, 5.0, 61.0)
    inputs = (mean.requires_grad_(), sd.requires_grad_(), truth)
    assert torch.autograd.gradcheck(LOSSES[name], inputs)


def test_losses_are_elementwise_over_members_and_people() -> None:
    mean, sd = torch.rand(3, 4) * 50, torch.rand(3, 4) + 1
    truth = torch.rand(4) * 50
    for loss in LOSSES.values():
        values = loss(mean, sd, truth)
        assert values.shape == (3, 4)
        torch.testing.assert_close(values[1, 2], loss(mean[1, 2], sd[1, 2], truth[2]))
