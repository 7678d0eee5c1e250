"""Shape of the ensemble, and its forward pass in numpy: all that answering needs, without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from henaw.model.heads import Head

Array = NDArray[np.float64]

AGE_CENTER, AGE_SCALE = 50.0, 17.0  # years; where age is an input it is standardized so, whatever the cohort
BLOCK_ROWS = 256  # what is worked on at once stays in the processor's cache, and memory is bounded
QUANTILE_ROWS = 64  # as all members' quantiles take more room than a layer of one
_STACKED_ROWS = 32  # so few rows go through all members at once: more calls would cost more than the sums


@dataclass(frozen=True)
class EnsembleShape:
    """Architecture of K members with equal widths; weights fit it or are refused.

    Attributes:
        members: K.
        inputs: features, presence bits, sex, and whatever else the clock reads.
        hidden: widths of the hidden layers.
        head: what the outputs mean.
    """

    members: int
    inputs: int
    hidden: tuple[int, ...]
    head: Head

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter: weights (K, in, out), biases (K, out)."""
        widths = (self.inputs, *self.hidden, self.head.outputs)
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
            shapes[f"layer{layer}.weight"] = (self.members, fan_in, fan_out)
            shapes[f"layer{layer}.bias"] = (self.members, fan_out)
        return shapes


def network_inputs(scaled: Array, present: Array, sex: Array, age: Array | None) -> Array:
    """Inputs of the network, (n, 2p + 1 or 2): scaled features, presence bits, sex (0 female, 1 male), age if read."""
    columns = [scaled, present, sex[:, None]]
    if age is not None:
        columns.append((age[:, None] - AGE_CENTER) / AGE_SCALE)
    return np.concatenate(columns, axis=1)


def blocks(rows: int, most: int | None = None) -> Iterator[slice]:
    """Slices of at most ``most`` rows, ``BLOCK_ROWS`` where none is said, that cover ``rows`` rows."""
    size = most or BLOCK_ROWS
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def forward(shape: EnsembleShape, parameters: Mapping[str, Array], inputs: Array) -> Array:
    """Members' outputs (K, n, outputs) from inputs (n, inputs) and parameters named as ``shape.parameter_shapes()``."""
    layers = [(parameters[f"layer{layer}.weight"], parameters[f"layer{layer}.bias"][:, None, :])
              for layer in range(len(shape.hidden) + 1)]  # fmt: skip
    if len(inputs) <= _STACKED_ROWS:
        return _through(layers, inputs)
    outputs = np.empty((shape.members, len(inputs), shape.head.outputs))
    for rows in blocks(len(inputs)):
        for member in range(shape.members):
            outputs[member, rows] = _through([(weight[member], bias[member]) for weight, bias in layers], inputs[rows])
    return outputs


def _through(layers: Sequence[tuple[Array, Array]], activation: Array) -> Array:
    """Outputs of layers (weight, bias), of one member or of all."""
    for number, (weight, bias) in enumerate(layers, start=1):
        activation = activation @ weight
        activation += bias
        if number < len(layers):
            np.maximum(activation, 0.0, out=activation)
    return activation
