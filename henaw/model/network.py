"""The ensemble as a PyTorch module: K independent networks trained as one batched program."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from henaw.model.ensemble import EnsembleShape


class EnsembleNetwork(nn.Module):
    """K multilayer perceptrons with ReLU as stacked weights; a layer is one batched matrix product over the members.

    Attributes:
        shape: of the ensemble.
        dropout: fraction of hidden units dropped in training.
        precision: of matrix products in training, with sums and parameters in float32; None = as the parameters.
    """

    precision: torch.dtype | None = None

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
        outputs: Tensor = _Layers.apply(self, inputs, *self.parameters())  # type: ignore[no-untyped-call]
        return outputs

    def dropped(self, activation: Tensor) -> Tensor:
        """``activation`` with hidden units dropped at random in training."""
        return functional.dropout(activation, self.dropout, self.training)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """A copy of the parameters on the host, named as ``EnsembleShape.parameter_shapes``."""
        return {
            name.replace("_", "."): parameter.detach().cpu().numpy().copy()
            for name, parameter in self.named_parameters()
        }


class _Layers(torch.autograd.Function):
    """Forward and backward pass written out: a third of the passes over the activations that autograd makes.

    The last layer is computed as (K, outputs, B): products with an inner width of a few outputs are four times slower
    the other way round, and the losses go over the outputs of many people at once.
    """

    @staticmethod
    def forward(ctx: Any, network: EnsembleNetwork, inputs: Tensor, *parameters: Tensor) -> Tensor:
        dtype = (network.training and network.precision) or parameters[0].dtype
        weights = [weight.to(dtype) for weight in parameters[::2]]
        biases = [bias.to(dtype).unsqueeze(1) for bias in parameters[1::2]]
        activations = [inputs.to(dtype)]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            activations.append(network.dropped(torch.baddbmm(bias, activations[-1], weight).relu_()))
        outputs = torch.bmm(weights[-1].mT, activations[-1].mT).to(parameters[0].dtype)
        outputs += parameters[-1].unsqueeze(2)
        ctx.save_for_backward(*activations, *weights)
        ctx.scale = 1 / (1 - network.dropout) if network.training else 1.0
        return outputs.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_outputs: Tensor) -> tuple[Tensor | None, ...]:
        layers = len(ctx.saved_tensors) // 2
        activations, weights = ctx.saved_tensors[:layers], ctx.saved_tensors[layers:]
        exact, dtype = by_outputs.dtype, weights[0].dtype
        found = by_outputs.mT
        gradients = [found.sum(dim=2)]
        found = found.to(dtype)
        gradients.append(torch.bmm(found, activations[-1]).mT.contiguous().to(exact))
        found = found.mT
        for layer in range(layers - 1, 0, -1):
            found = torch.bmm(found, weights[layer].mT)
            torch.ops.aten.threshold_backward.grad_input(found, activations[layer], 0.0, grad_input=found)
            if ctx.scale != 1.0:  # units that dropout left are larger by this; those it took are 0 like the others
                found *= ctx.scale
            gradients.append(found.sum(dim=1, dtype=exact))
            gradients.append(torch.bmm(activations[layer - 1].mT, found).to(exact))
        by_inputs = torch.bmm(found, weights[0].mT).to(exact) if ctx.needs_input_grad[1] else None
        return None, by_inputs, *reversed(gradients)
