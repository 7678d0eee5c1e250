"""The loop over members in two processes, half of the members in each, with a core to themselves."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

import torch
from made_up_people import network, people
from training_rivals import ONE_LOSS, Chosen, MemberLoop, plain_crps

from henaw.config import load_config

_loop: MemberLoop | None = None  # of the process
_order: torch.Tensor | None = None


class LoopInProcesses:
    """``MemberLoop`` in its fastest manner, its members shared out among processes that stay until it is closed."""

    def __init__(
        self, count: int, hidden: tuple[int, ...], chosen: Chosen, order: torch.Tensor, processes: int
    ) -> None:
        """Start the processes with the same made-up ``count`` people; ``order`` (K, n) is shared out, too."""
        self._stack, self._executors = ExitStack(), []
        context = multiprocessing.get_context("spawn")
        for part in order.chunk(processes):
            executor = ProcessPoolExecutor(1, context, _set_up, (count, hidden, chosen, part.numpy()))
            self._executors.append(self._stack.enter_context(executor))

    def epoch(self) -> None:
        """Train every member for an epoch."""
        for future in [executor.submit(_train_epoch) for executor in self._executors]:
            future.result()

    def close(self) -> None:
        """End the processes."""
        self._stack.close()


def _set_up(count: int, hidden: tuple[int, ...], chosen: Chosen, order: object) -> None:
    global _loop, _order
    torch.set_num_threads(1)
    _order = torch.from_numpy(order)
    config = load_config(overrides=f"network.members={len(_order)}")
    made, cpu = network(config, torch.device("cpu"), hidden), torch.device("cpu")
    _loop = MemberLoop(made, plain_crps(made.shape.head, cpu), people(count, 0, cpu), chosen, ONE_LOSS)


def _train_epoch() -> None:
    assert _loop is not None
    assert _order is not None
    _loop.epoch(_order)
