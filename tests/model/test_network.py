"""The ensemble's forward and backward pass, written out by hand, against what autograd makes of the plain formula."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from henaw.model.ensemble import EnsembleShape, forward
from henaw.model.network import EnsembleNetwork
from tests.scenarios import HEADS


def network(
    hidden: tuple[int, ...] = (8, 7), head: str = "bounded", dropout: float = 0.0, dtype: torch.dtype = torch.float64
) -> EnsembleNetwork:
    shape = EnsembleShape(members=3, inputs=5, hidden=hidden, head=HEADS[head])
    made = EnsembleNetwork(shape, dropout, torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():  # biases too, and gradients that are not all alike
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return made


def inputs(people: int = 11, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(3, people, 5, generator=torch.Generator().manual_seed(2), dtype=dtype)


def plain(made: EnsembleNetwork, values: torch.Tensor) -> torch.Tensor:
    """Layer by layer, as autograd likes it."""
    parameters, last = list(made.parameters()), len(made.shape.hidden)
    for layer in range(last + 1):
        values = torch.baddbmm(parameters[2 * layer + 1].unsqueeze(1), values, parameters[2 * layer])
        if layer < last:
            values = functional.dropout(functional.relu(values), made.dropout, made.training)
    return values


def gradients(outputs: torch.Tensor, made: EnsembleNetwork, values: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(3), dtype=outputs.dtype)
    return list(torch.autograd.grad((outputs * weights).sum(), [values, *made.parameters()]))


@pytest.mark.parametrize("hidden", [(8,), (8, 7), (4, 9, 6)])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_outputs_and_gradients_are_those_of_autograd(hidden: tuple[int, ...], head: str, dropout: float) -> None:
    made, found = network(hidden, head, dropout), []
    for way in (made, lambda values: plain(made, values)):
        values = inputs().requires_grad_()
        torch.manual_seed(0)
        outputs = way(values)
        found.append([outputs.detach(), *gradients(outputs, made, values)])
    for ours, autograds in zip(*found, strict=True):
        torch.testing.assert_close(ours, autograds, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    made = network((6, 5), "gaussian")
    names = [name for name, _ in made.named_parameters()]

    def outputs(values: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), values)
        return found

    free = [parameter.detach().clone().requires_grad_() for parameter in made.parameters()]
    assert torch.autograd.gradcheck(outputs, (inputs(4).requires_grad_(), *free))


def test_training_and_answering_compute_the_same() -> None:
    made, values = network().eval(), inputs()[0]
    weights = {name.replace("_", "."): parameter.detach().numpy() for name, parameter in made.named_parameters()}
    expected = torch.from_numpy(forward(made.shape, weights, values.numpy()))
    torch.testing.assert_close(made(values.expand(3, -1, -1)).detach(), expected, rtol=1e-12, atol=1e-12)


def test_half_the_bits_give_almost_the_same_gradient_and_leave_parameters_and_validation_exact() -> None:
    made = network((32, 32), dtype=torch.float32)
    values, found = inputs(64, torch.float32), {}
    for precision in (None, torch.bfloat16):
        made.precision = precision
        leaf = values.clone().requires_grad_()
        outputs = made(leaf)
        assert outputs.dtype == torch.float32
        found[precision] = gradients(outputs, made, leaf)
        found[precision, "answer"] = made.eval()(values)
        made.train()
    pairs = list(zip(found[None], found[torch.bfloat16], strict=True))
    assert all(rounded.dtype == torch.float32 for _, rounded in pairs)
    apart = [float((exact - rounded).norm() / exact.norm()) for exact, rounded in pairs]
    assert max(apart) < 0.05  # some units are on the other side of 0
    assert apart[0] > 0
    assert apart[-1] == 0, "no product comes between the outputs' gradient and the last bias"
    assert torch.equal(found[None, "answer"], found[torch.bfloat16, "answer"])
