"""What may end a training run, and which error of PyTorch's means that memory ran out."""

from __future__ import annotations

import torch

from henaw.errors import BadInput, EnvironmentProblem
from henaw.training.telemetry import OutOfMemory


class Diverged(BadInput):
    """Losses or gradients are not finite any more (exit 2)."""


class MemoryExhausted(EnvironmentProblem):
    """Memory ran out with a single row at a time (exit 3)."""

    def __init__(self, event: OutOfMemory, batch: int, tried: list[int]) -> None:
        """Tell of ``event``, after ``tried`` rows at a time of a batch of ``batch``."""
        self.event, self.batch, self.tried = event, batch, tried
        super().__init__(
            f"out of memory in {event.phase}, epoch {event.epoch}, step {event.step}: a batch of {batch} did not fit "
            f"with {', '.join(map(str, tried))} rows at a time ({event.allocated_bytes} bytes allocated, "
            f"{event.reserved_bytes} reserved, {event.peak_bytes} at the peak); lower network.members or network.hidden"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out; everything else is somebody else's error."""
    text = str(error).lower()
    told = ("out of memory", "can't allocate memory", "status_alloc_failed", "allocation_failed")  # CPU, cuBLAS, cuDNN
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in told)
    )
