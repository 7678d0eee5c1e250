"""Where training computes: the device, and the cores it may use."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from henaw.errors import EnvironmentProblem
from henaw.settings import Training

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of malloc.h


def choose_device(settings: Training) -> torch.device:
    """The device that ``training.device`` means on this machine.

    Raises:
        EnvironmentProblem: a GPU is asked for and there is none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem("training.device: cuda was asked for, but PyTorch finds no GPU here; use auto or cpu")
    use_gpu = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if use_gpu else "cpu")


def use_threads(settings: Training) -> None:
    """Give PyTorch ``training.threads`` threads, or all the cores that this process may use."""
    torch.set_num_threads(settings.threads or available_cores())


def available_cores() -> int:
    """CPU cores that this process may use; where the system cannot tell (macOS), all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one, where it is glibc.

    By itself it gives tens of megabytes back after each step and takes them again page by page, which is a fifth of the
    step. What is kept is bounded, and what is larger than 32 MiB still goes back at once.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, 32 << 20)
        set_option(_TRIM_THRESHOLD, 256 << 20)


@contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """PyTorch's global generators, which dropout draws from, are after the block what they were before it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
