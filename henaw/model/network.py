"""The ensemble as a PyTorch module: K independent networks trained as one batched program."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from henaw.model.ensemble import EnsembleShape


class EnsembleNetwork(nn.Module):
    """K multilayer perceptrons with ReLU as stacked weights; a layer is one batched matrix product over the members."""

    def __init__(self, shape: EnsembleShape, dropout: float, generator: torch.Generator) -> None:
        """Draw every member's weights from ``generator`` (He 2015); the head starts where ``initial_bias`` says."""
        super().__init__()
        self.shape = shape
        self.dropout = dropout
        last = len(shape.hidden)
        for name, size in shape.parameter_shapes().items():
            values = torch.zeros(size)
            if name.endswith("weight"):
                gain = 0.1 if name.startswith(f"layer{last}") else math.sqrt(2.0)
                values.normal_(0.0, gain / math.sqrt(size[1]), generator=generator)
            elif name.startswith(f"layer{last}"):
                values += torch.tensor(shape.head.initial_bias(), dtype=torch.float32)
            self.register_parameter(name.replace(".", "_"), nn.Parameter(values))

    def forward(self, inputs: Tensor) -> Tensor:
        """Members' outputs (K, B, outputs) from inputs (K, B, d); ``shape.head`` says what they mean."""
        last = len(self.shape.hidden)
        activation = inputs
        for layer in range(last + 1):
            weight, bias = getattr(self, f"layer{layer}_weight"), getattr(self, f"layer{layer}_bias")
            activation = torch.baddbmm(bias.unsqueeze(1), activation, weight)
            if layer < last:
                activation = self.dropped(functional.relu(activation))
        return activation

    def dropped(self, activation: Tensor) -> Tensor:
        """``activation`` with hidden units dropped at random in training."""
        return functional.dropout(activation, self.dropout, self.training)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """A copy of the parameters on the host, named as ``EnsembleShape.parameter_shapes``."""
        return {
            name.replace("_", "."): parameter.detach().cpu().numpy().copy()
            for name, parameter in self.named_parameters()
        }
