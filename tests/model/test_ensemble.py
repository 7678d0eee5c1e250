"""Numpy answers what PyTorch trained, in whatever blocks and company."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from henaw.model import ensemble
from henaw.model.ensemble import EnsembleShape, forward, network_inputs
from henaw.model.heads import Head
from henaw.model.network import EnsembleNetwork
from tests.scenarios import BENT, BOUNDED, GAUSSIAN, HEADS, OWN_AGE

SHAPE = EnsembleShape(5, 9, (16, 12), BENT)


def network(shape: EnsembleShape = SHAPE, seed: int = 0) -> EnsembleNetwork:
    """Weights large enough that the predictions are far from the initial ones."""
    made = EnsembleNetwork(shape, 0.0, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(seed + 1))
    return made.eval()


def weights(made: EnsembleNetwork) -> dict[str, np.ndarray]:
    return {name: values.astype(np.float64) for name, values in made.arrays().items()}


def inputs(people: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (people, SHAPE.inputs))


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        replace(SHAPE, members=1, hidden=(7,)),
        replace(SHAPE, hidden=(4, 4, 4), head=GAUSSIAN),
        replace(SHAPE, head=BOUNDED),
        replace(SHAPE, head=OWN_AGE),
    ],
)
def test_numpy_and_torch_agree_to_a_thousandth_of_a_year(shape: EnsembleShape) -> None:
    """Single precision against double, through weights far larger than those of training."""
    made, rows, age = network(shape), inputs(200), np.full(200, 50.0)
    with torch.no_grad():
        single = made(torch.tensor(rows, dtype=torch.float32).expand(shape.members, -1, -1)).double().numpy()
    z = np.linspace(-2, 2, 9)
    expected, found = (shape.head.quantiles(out, z, age) for out in (single, forward(shape, weights(made), rows)))
    assert np.ptp(found) > 10, "a comparison of constants would show nothing"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_in_double_precision_torch_and_numpy_are_the_same_function() -> None:
    made, rows = network(), inputs(50)
    with torch.no_grad():
        expected = made.double()(torch.tensor(rows).expand(SHAPE.members, -1, -1))
    np.testing.assert_allclose(forward(SHAPE, weights(made), rows), expected.numpy(), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 40), st.integers(0, 60))
@settings(max_examples=40)
def test_blocks_do_not_matter(block: int, people: int) -> None:
    made, rows = weights(network()), inputs(people)
    expected = forward(SHAPE, made, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "BLOCK_ROWS", block)
        np.testing.assert_allclose(forward(SHAPE, made, rows), expected, rtol=0, atol=1e-9)
    assert expected.shape == (SHAPE.members, people, SHAPE.head.outputs)


def test_a_row_alone_and_in_a_batch_agree() -> None:
    made, rows = weights(network()), inputs(ensemble.BLOCK_ROWS + 10)
    together = forward(SHAPE, made, rows)
    for row in (0, 17, ensemble.BLOCK_ROWS - 1, ensemble.BLOCK_ROWS, len(rows) - 1):
        np.testing.assert_allclose(forward(SHAPE, made, rows[[row]])[:, 0], together[:, row], rtol=0, atol=1e-9)


def test_a_member_in_the_batch_is_the_member_alone() -> None:
    made, rows = network(), inputs(30)
    expected = forward(SHAPE, weights(made), rows)
    with torch.no_grad():
        together = made(torch.tensor(rows, dtype=torch.float32).expand(SHAPE.members, -1, -1))
    for member in range(SHAPE.members):
        own = {name: values[[member]] for name, values in weights(made).items()}
        alone = forward(replace(SHAPE, members=1), own, rows)
        np.testing.assert_allclose(alone[0], expected[member], rtol=0, atol=1e-9)
        single = network(replace(SHAPE, members=1))
        with torch.no_grad():
            for parameter, values in zip(single.parameters(), own.values(), strict=True):
                parameter.copy_(torch.tensor(values))
            torch_alone = single(torch.tensor(rows, dtype=torch.float32)[None])
        torch.testing.assert_close(torch_alone[0], together[member], rtol=0, atol=1e-4)


def test_parameters_are_named_and_shaped_as_the_architecture_says() -> None:
    shapes = SHAPE.parameter_shapes()
    assert shapes == {
        "layer0.weight": (5, 9, 16),
        "layer0.bias": (5, 16),
        "layer1.weight": (5, 16, 12),
        "layer1.bias": (5, 12),
        "layer2.weight": (5, 12, 5),
        "layer2.bias": (5, 5),
    }
    assert {name: values.shape for name, values in network().arrays().items()} == shapes


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_an_untrained_network_predicts_about_the_training_ages_and_its_members_differ(head: Head) -> None:
    shape = replace(SHAPE, head=head)
    made = EnsembleNetwork(shape, 0.0, torch.Generator().manual_seed(0))
    outputs = forward(shape, weights(made), inputs(500))
    np.testing.assert_allclose(outputs.mean(axis=(0, 1)), head.initial_bias(), atol=0.3)
    low, median, high = np.moveaxis(head.quantiles(outputs, np.array([-1.3, 0, 1.3]), np.full(500, 50.0)), -1, 0)
    np.testing.assert_allclose(median.mean(), 50, atol=2)
    assert (high - low > 10).all()
    assert (high - low < 60).all()
    assert all(np.abs(median[i] - median[j]).mean() > 0.1 for i in range(5) for j in range(i))


def test_arrays_are_copies() -> None:
    made = network()
    made.arrays()["layer0.bias"][:] = 7
    assert not (made.arrays()["layer0.bias"] == 7).any()


def test_inputs_are_features_presence_and_sex_in_this_order() -> None:
    features, present, sex = np.full((2, 3), 1.5), np.array([[1.0, 0, 1], [0, 1, 1]]), np.array([0.0, 1.0])
    expected = np.array([[1.5, 1.5, 1.5, 1, 0, 1, 0], [1.5, 1.5, 1.5, 0, 1, 1, 1]])
    np.testing.assert_array_equal(network_inputs(features, present, sex, None), expected)
    with_age = network_inputs(features, present, sex, np.array([50.0, 84.0]))
    np.testing.assert_array_equal(with_age, np.column_stack([expected, [0.0, 2.0]]))


def test_dropout_works_in_training_alone() -> None:
    made = EnsembleNetwork(SHAPE, 0.5, torch.Generator().manual_seed(0))
    rows = torch.tensor(inputs(20), dtype=torch.float32).expand(SHAPE.members, -1, -1)
    assert not torch.equal(made.train()(rows), made(rows))
    torch.testing.assert_close(made.eval()(rows), made(rows), rtol=0, atol=0)
