"""Shape of the ensemble, and its forward pass in numpy: all that answering needs, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BLOCK_ROWS = 2048  # bounds the memory of the hidden layers whatever the number of people


@dataclass(frozen=True)
class EnsembleShape:
    """Architecture of K members with equal widths and a Gaussian head; weights fit it or are refused.

    Attributes:
        members: K.
        inputs: features, presence bits and sex.
        hidden: widths of the hidden layers.
        center_years, scale_years: the head's unit: mean and standard deviation of the training ages.
        sd_floor_years: smallest standard deviation that a member predicts.
    """

    members: int
    inputs: int
    hidden: tuple[int, ...]
    center_years: float
    scale_years: float
    sd_floor_years: float

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter: weights (K, in, out), biases (K, out)."""
        widths = (self.inputs, *self.hidden, 2)
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
            shapes[f"layer{layer}.weight"] = (self.members, fan_in, fan_out)
            shapes[f"layer{layer}.bias"] = (self.members, fan_out)
        return shapes


def network_inputs(scaled: Array, present: Array, sex: Array) -> Array:
    """Inputs of the network, (n, 2p + 1): scaled features, presence bits, sex (0 female, 1 male)."""
    return np.concatenate([scaled, present, sex[:, None]], axis=1)


def forward(shape: EnsembleShape, parameters: Mapping[str, Array], inputs: Array) -> tuple[Array, Array]:
    """Members' predictions in years.

    Args:
        shape: the architecture.
        parameters: arrays named and shaped as ``shape.parameter_shapes()``, float64.
        inputs: (n, inputs).

    Returns:
        Means and standard deviations, each (K, n).
    """
    means = np.empty((shape.members, len(inputs)))
    sds = np.empty_like(means)
    last = len(shape.hidden)
    for start in range(0, len(inputs), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        activation = inputs[rows]
        for layer in range(last + 1):
            activation = activation @ parameters[f"layer{layer}.weight"]
            activation += parameters[f"layer{layer}.bias"][:, None, :]
            if layer < last:
                np.maximum(activation, 0.0, out=activation)
        means[:, rows] = shape.center_years + shape.scale_years * activation[..., 0]
        sds[:, rows] = shape.sd_floor_years + shape.scale_years * np.logaddexp(0.0, activation[..., 1])
    return means, sds
