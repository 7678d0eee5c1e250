"""Training under random faults: it must end with the parameters and the history of a run that nothing happened to.

    python benchmarks/soak_training.py [--minutes 30] [--seed 0] [--epochs 400]

A real `mlflow server` and real processes of `pipelines.train` in a temporary folder. First one run is left alone. Then
runs of the same settings are disturbed, one after the other until the time is over: SIGTERM and resume, kill -9 and
resume, and the server killed and started again, each at a random moment.

What belongs to the settings is in all runs alike: from certain steps on a piece of more than so many people does not
fit into memory, and some batches hold NaN. Where in a step memory runs out (forward pass, backward pass, optimizer) is
drawn anew in every disturbed process. Each run's weights are compared by hash, and its curves point by point; what is
measured on the clock (seconds, memory) may lack an epoch whose process was killed before it could say what it measured,
and has no point twice.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

LIMITS = ((40, 256), (900, 128), (1500, 64))  # from this step on, so many people of each member fit into memory
NAN_EVERY = 173  # batches, counted over all epochs
MEASURED = ("seconds", "memory", "samples_per_second", "system/")
PLACES = ("forward", "backward", "optimizer")
ROOT = Path(__file__).resolve().parent.parent


def settings(epochs: int) -> str:
    """A small clock that takes a minute or so to train."""
    return (
        f"source.people=4000 training.epochs={epochs} training.patience={epochs} network.members=8 "
        "network.hidden=[32,32] training.threads=1 evaluation.draws=20 tracking.system_seconds=0"
    )


def child(arguments: list[str], place: str) -> int:
    """One process of training, in which memory and numbers give out as planned; ``place`` is where memory does."""
    import torch
    import typer

    from henaw.console import run_app
    from henaw.model.network import EnsembleNetwork
    from henaw.training import trainer
    from pipelines import train

    at: dict[str, Any] = {"step": 0, "batch": 0, "rows": 0}
    begin = trainer._Run.step
    forward = EnsembleNetwork.forward

    def step(run: Any, batch: Any) -> None:
        progress = run.state.progress
        at.update(step=progress.step, batch=progress.epoch * run.epochs.steps + progress.batch, rows=0)
        begin(run, batch)

    def full(here: str) -> None:
        limit = min((people for first, people in LIMITS if at["step"] >= first), default=10**9)
        if here == place and at["rows"] > limit:
            raise torch.OutOfMemoryError("planned")

    def passed(network: EnsembleNetwork, inputs: torch.Tensor) -> torch.Tensor:
        if not network.training:
            return forward(network, inputs)
        at["rows"] = max(at["rows"], inputs.shape[1])
        full("forward")
        outputs = forward(network, inputs)
        if at["batch"] % NAN_EVERY == NAN_EVERY - 1:
            outputs = outputs * float("nan")
        outputs.register_hook(lambda _: full("backward"))
        return outputs

    stepped = torch.optim.AdamW.step

    def optimize(optimizer: torch.optim.AdamW, *rest: Any) -> Any:
        full("optimizer")
        return stepped(optimizer, *rest)

    class Halving(trainer.Halving):
        def do(self, batch: int, work: Callable[[int], Any], *rest: Any) -> Any:
            def begun(rows: int) -> Any:
                at["rows"] = 0
                return work(rows)

            return super().do(batch, begun, *rest)

    trainer._Run.step, trainer.Halving = step, Halving  # type: ignore[method-assign, misc]
    EnsembleNetwork.forward = passed  # type: ignore[method-assign]
    torch.optim.AdamW.step = optimize  # type: ignore[method-assign]
    app = typer.Typer()
    app.command()(train.main)
    return run_app(app, arguments)


@dataclass
class Server:
    """A real tracking server, which can be killed and started again."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def address(self) -> str:
        """Its URI."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        store = f"sqlite:///{self.folder / 'store.db'}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", store, "--artifacts-destination", str(self.folder), "--workers", "1"]
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        for _ in range(600):
            try:
                urlopen(f"{self.address}/health", timeout=1).read()
            except (URLError, OSError):
                time.sleep(0.2)
            else:
                return
        raise SystemExit("mlflow server does not answer")

    def kill(self) -> None:
        """Kill it and its workers outright."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@dataclass
class Soak:
    """What is under way, and what happened."""

    folder: Path
    server: Server
    epochs: int
    chance: random.Random
    happened: Counter[str] = field(default_factory=Counter)
    server_left: bool = False

    def begin(self, arguments: list[str], place: str) -> subprocess.Popen[bytes]:
        """A process of training."""
        environment = os.environ | {"MLFLOW_TRACKING_URI": self.server.address, "HENAW_LOG": "INFO"}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, str(Path(__file__).resolve()), "--child", place, *arguments]
        log = (self.folder / "training.log").open("ab")
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def undisturbed(self) -> str:
        """Run id of a run that is left alone."""
        before = self.runs()
        code = self.begin(["--overrides", settings(self.epochs)], "forward").wait()
        assert code == 0, f"the undisturbed run ended with {code}, see {self.folder}"
        [run] = self.runs() - before
        return run

    def disturbed(self) -> str:
        """Run id of a run that is stopped and killed at random until it is through."""
        before, run, arguments = self.runs(), None, ["--overrides", settings(self.epochs)]
        while True:
            self.server_left = False
            process = self.begin(arguments, self.chance.choice(PLACES))
            code = self.disturb(process)
            if run is None and (new := self.runs() - before):
                [run] = new
            if code == 0:
                assert run is not None
                return run
            away = [3] if self.server_left else []  # a command's start and registering need the server, and say so
            assert code in (-signal.SIGKILL, 143, -signal.SIGTERM, *away), f"ended with {code}, see {self.folder}"
            if run is not None and (self.folder / ".henaw" / "checkpoints" / run).is_dir():
                arguments = ["--resume", run]
            elif run is not None and self.client().get_run(run).info.status == "FINISHED":
                return run  # it was through, and stopped as it left
            else:  # stopped before there was anything to go on from
                before, run, arguments = self.runs(), None, ["--overrides", settings(self.epochs)]

    def disturb(self, process: subprocess.Popen[bytes]) -> int:
        """Do something to a process after a while; its exit code."""
        try:
            return process.wait(self.chance.uniform(5, 40))
        except subprocess.TimeoutExpired:
            pass
        what = self.chance.choice(["SIGTERM", "kill -9", "server"])
        self.happened[what] += 1
        print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)
        if what == "server":
            self.server_left = True
            self.server.kill()
            time.sleep(self.chance.uniform(1, 15))
            self.server.start()
            return self.disturb(process)
        process.send_signal(signal.SIGTERM if what == "SIGTERM" else signal.SIGKILL)
        return process.wait(120)

    def client(self) -> Any:
        """MLflow's."""
        from mlflow import MlflowClient

        return MlflowClient(self.server.address)

    def runs(self) -> set[str]:
        """Ids of the parent runs that there are."""
        client = self.client()
        experiments = [found.experiment_id for found in client.search_experiments()]
        found = client.search_runs(experiments, "tags.`henaw.stage` = 'train'", max_results=1000)
        return {run.info.run_id for run in found if "mlflow.parentRunId" not in run.data.tags}

    def contents(self, run: str) -> dict[str, Any]:
        """Status, curves and hash of the weights of a run's training."""
        client = self.client()
        parent = client.get_run(run)
        children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run}'")
        [training] = [found for found in children if found.data.tags["henaw.stage"] == "train"]
        curves = {}
        for name in training.data.metrics:
            if name in ("out_of_memory_events", "stage_seconds"):  # one that comes again with its step is another one
                continue
            points = [(it.step, it.value) for it in client.get_metric_history(training.info.run_id, name)]
            if len({step for step, _ in points}) != len(points):
                doubled = [step for step, count in Counter(step for step, _ in points).items() if count > 1]
                raise SystemExit(f"run {run}: {name} holds steps {doubled} twice")
            measured = any(word in name for word in MEASURED)
            curves[name] = sorted(step if measured else (step, value) for step, value in points)
        clock = next(found.info.run_id for found in children if found.data.tags["henaw.stage"] == "register")
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(client.download_artifacts(clock, "clock/weights.safetensors", folder))
            digest = hashlib.blake2b(weights.read_bytes()).hexdigest()
        return {"status": parent.info.status, "weights": digest, "curves": curves}


def main() -> None:
    """Soak."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=400)
    asked = parser.parse_args()
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
    folder = Path(tempfile.mkdtemp(prefix="henaw-soak-"))
    (folder / "server").mkdir()
    server = Server(folder / "server")
    soak = Soak(folder, server, asked.epochs, random.Random(asked.seed))
    os.environ["MLFLOW_TRACKING_URI"] = server.address
    server.start()
    try:
        begun = time.monotonic()
        expected = soak.contents(soak.undisturbed())
        assert expected["status"] == "FINISHED"
        points = sum(map(len, expected["curves"].values()))
        print(f"undisturbed: {time.monotonic() - begun:.0f} s, {points} points, weights {expected['weights'][:16]}")
        begun, runs, unmeasured = time.monotonic(), 0, 0
        while time.monotonic() < begun + 60 * asked.minutes:
            run = soak.disturbed()
            found = soak.contents(run)
            for name in expected["curves"].keys() | found["curves"].keys():
                one, other = expected["curves"].get(name, []), found["curves"].get(name, [])
                measured = any(word in name for word in MEASURED)
                unmeasured += len(one) - len(other) if measured else 0
                fits = set(other) <= set(one) if measured else one == other
                assert fits, f"run {run}: {name} differs, see {folder}"
            same = found["weights"] == expected["weights"] and found["status"] == expected["status"]
            assert same, f"run {run} differs, see {folder}"
            runs += 1
            print(f"run {runs}: the same weights and points; {dict(soak.happened)}", flush=True)
        minutes = (time.monotonic() - begun) / 60
        print(f"\n{runs} disturbed runs in {minutes:.1f} minutes, {dict(soak.happened)}: all as the undisturbed one,")
        print(f"each of {points} points once, but for {unmeasured} times and sizes that died with who measured them.")
    finally:
        server.kill()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(sys.argv[3:], sys.argv[2]))
    main()
