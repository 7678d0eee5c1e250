"""Shape of the ensemble, and its forward pass in numpy: all that answering needs, without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from henaw.model.heads import Head

Array = NDArray[np.float64]

AGE_CENTER, AGE_SCALE = 50.0, 17.0  # years; where age is an input it is standardized so, whatever the cohort
BLOCK_ROWS = 1024  # bounds the memory of the hidden layers whatever the number of people


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


def blocks(rows: int) -> Iterator[slice]:
    """Slices of at most ``BLOCK_ROWS`` that cover ``rows`` rows."""
    for start in range(0, rows, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, rows))


def forward(shape: EnsembleShape, parameters: Mapping[str, Array], inputs: Array) -> Array:
    """Members' outputs (K, n, outputs) from inputs (n, inputs) and parameters named as ``shape.parameter_shapes()``."""
    outputs = np.empty((shape.members, len(inputs), shape.head.outputs))
    last = len(shape.hidden)
    for rows in blocks(len(inputs)):
        activation = inputs[rows]
        for layer in range(last + 1):
            activation = activation @ parameters[f"layer{layer}.weight"]
            activation += parameters[f"layer{layer}.bias"][:, None, :]
            if layer < last:
                np.maximum(activation, 0.0, out=activation)
        outputs[:, rows] = activation
    return outputs
