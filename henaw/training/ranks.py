"""The processes that share a training, and what they say to each other: numbers and JSON, never pickled objects.

Rank 0 is the process that the user started: it alone reads people, writes checkpoints and talks to MLflow. The others
are started by it (``training.processes``) or by ``torchrun``, and are handed all they need through the process group.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import FileStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from henaw.errors import EnvironmentProblem, HenawError
from henaw.settings import Training
from henaw.training.failures import is_out_of_memory

PATIENCE = dt.timedelta(minutes=10)  # a process that is silent for so long while others wait counts as lost
FOR_AS_LONG_AS_IT_TAKES = dt.timedelta(days=365)  # reading and validating a cohort may take hours
_BEGIN = "henaw/begin"
_LEAVE_SECONDS = 10.0


class RankLost(EnvironmentProblem):
    """Another process of a training ended before its time (exit 3)."""


@dataclass
class Ranks:
    """The processes of a training, seen from one of them.

    Attributes:
        rank: the number of this one, from 0.
        size: how many there are.
        store: where a process that fails says why; None = nowhere.
        helpers: those that this one started, from rank 1 on.
    """

    rank: int
    size: int
    store: Store | None = None
    helpers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def numbers(self, own: Tensor) -> list[Tensor]:
        """What each process has in the place of ``own``, of the same shape, by rank."""
        found = [torch.empty_like(own) for _ in range(self.size)]
        with self._answered():
            dist.all_gather(found, own)
        return found

    def add_up(self, values: Tensor) -> None:
        """Make ``values`` the sum over all processes: the same bits in each."""
        with self._answered():
            dist.all_reduce(values)

    def send(self, values: Tensor, rank: int) -> None:
        """Send ``values`` to ``rank``."""
        with self._answered():
            dist.send(values.contiguous(), rank)

    def receive(self, like: Tensor, rank: int) -> Tensor:
        """What ``rank`` sends, of the shape of ``like``."""
        values = torch.empty_like(like, memory_format=torch.contiguous_format)
        with self._answered():
            dist.recv(values, rank)
        return values

    def tell(self, what: dict[str, Any]) -> None:
        """Tell all other processes, which ``listen``."""
        said = torch.frombuffer(bytearray(json.dumps(what).encode()), dtype=torch.uint8)
        with self._answered():
            dist.broadcast(torch.tensor([len(said)]), 0)
            dist.broadcast(said, 0)

    def listen(self) -> dict[str, Any]:
        """What rank 0 tells."""
        size = torch.zeros(1, dtype=torch.int64)
        with self._answered():
            dist.broadcast(size, 0)
            said = torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(said, 0)
        heard: dict[str, Any] = json.loads(bytes(said.tolist()))
        return heard

    def fail(self, error: BaseException) -> None:
        """Leave word of why this process ends; of an unexpected error its type alone, as texts may hold values."""
        if self.store is not None and not isinstance(error, RankLost):
            text = str(error) if isinstance(error, HenawError) else f"unexpected {type(error).__name__}"
            try:
                self.store.set(_failed(self.rank), text)
            except RuntimeError:
                return  # the store is gone, and so is whoever would read it

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise RankLost(
                f"training in {self.size} processes: {self._why()}; the last checkpoint is whole, and the run goes on "
                "from it with resume"
            ) from None

    def _why(self) -> str:
        for rank in range(self.size):
            try:
                if self.store is not None and rank != self.rank and self.store.check([_failed(rank)]):
                    return f"process {rank}: {self.store.get(_failed(rank)).decode()}"
            except RuntimeError:
                break
        deadline = time.monotonic() + 1.0  # a killed process's connections close a moment before it can be waited for
        while time.monotonic() < deadline:
            for rank, helper in enumerate(self.helpers, 1):
                if (code := helper.poll()) is not None:
                    return f"process {rank} ended " + (f"by signal {-code}" if code < 0 else f"with exit code {code}")
            time.sleep(0.05 if self.helpers else 1.0)
        return "one of them was lost or has not answered"


def _failed(rank: int) -> str:
    return f"henaw/failed/{rank}"


def launched() -> bool:
    """Whether ``torchrun`` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and {"RANK", "MASTER_ADDR"} <= os.environ.keys()


def helping() -> bool:
    """Whether this process is one of ``torchrun``'s that only help."""
    return launched() and os.environ["RANK"] != "0"


def several(settings: Training) -> bool:
    """Whether more than this process is to train."""
    return settings.processes > 1 or launched() or (dist.is_available() and dist.is_initialized())


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_processes() -> int:
    """How many of the processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def company(settings: Training) -> Iterator[Ranks]:
    """For rank 0: the processes of a training, those of ``torchrun`` or else ``training.processes`` on this machine.

    Raises:
        RankLost: they could not be started or reached.
    """
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
    elif launched():
        store, rank, size = next(iter(rendezvous("env://")))
        store.set(_BEGIN, "")
        with _group(store, rank, size) as ranks:
            yield ranks
    else:
        with tempfile.TemporaryDirectory(prefix="henaw-ranks-") as folder:
            meeting = Path(folder) / "meeting"
            helpers = [_helper(meeting, rank, settings.processes) for rank in range(1, settings.processes)]
            try:
                with (
                    _this_machine(settings.processes),
                    _group(FileStore(str(meeting), settings.processes), 0, settings.processes) as it,
                ):
                    it.helpers = helpers
                    yield it
            finally:
                _wait_for(helpers)


@contextmanager
def joined(meeting: Path | None = None, rank: int = 0, size: int = 0) -> Iterator[Ranks]:
    """For the others: the same, once rank 0 trains; they meet in a file, or where ``torchrun`` says."""
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    if meeting is None:
        store, rank, size = next(iter(rendezvous("env://")))
        store.wait([_BEGIN], FOR_AS_LONG_AS_IT_TAKES)
    else:
        store = FileStore(str(meeting), size)
    with _this_machine(size) if meeting else nullcontext(), _group(store, rank, size) as ranks:
        yield ranks


@contextmanager
def _group(store: Store, rank: int, size: int) -> Iterator[Ranks]:
    ranks = Ranks(rank, size, store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with ranks._answered():
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield ranks
    except BaseException as error:
        ranks.fail(error)
        raise
    finally:
        dist.destroy_process_group()


@contextmanager
def _this_machine(size: int) -> Iterator[None]:
    """All processes are of this machine, and listen to nobody beyond it."""
    wanted = {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo", "LOCAL_WORLD_SIZE": str(size)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _helper(meeting: Path, rank: int, size: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"LOCAL_RANK": str(rank)}
    command = [sys.executable, "-m", "henaw.training.helper", str(meeting), str(rank), str(size)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def _wait_for(helpers: list[subprocess.Popen[bytes]]) -> None:
    """See the helpers out, who have nothing left to do."""
    deadline = time.monotonic() + _LEAVE_SECONDS
    for helper in helpers:
        try:
            helper.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            helper.kill()
            helper.wait()
