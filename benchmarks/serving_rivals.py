"""The servers that `henaw serve` is compared with, each as a program in a folder with one registered model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import psutil
from serving_load import body_of

from henaw.model.answers import number_columns
from henaw.model.storage import CLOCK_FOLDER, load_clock, save_clock
from henaw.registry.versions import register, signature
from henaw.serving.fast import answer_rows, to_json
from henaw.serving.schema import read_rows
from tests.scenarios import BLOOD9, blood_clock

MODEL = "models:/henaw@champion"
UVICORN = "uvicorn alone, constant bytes"

BY_HAND = '''
"""What one writes in an afternoon: no check at all."""
import json, sys
from pathlib import Path
import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from henaw.model.answers import answer_arrays
from henaw.model.storage import load_clock

clock = load_clock(Path(sys.argv[1]))
names = clock.panel.names
app = FastAPI()

@app.get("/ping")
async def ping():
    return "ok"

@app.post("/invocations")
async def invocations(request: Request):
    split = json.loads(await request.body())["dataframe_split"]
    columns = dict(zip(split["columns"], zip(*split["data"])))
    markers = np.array([columns[name] for name in names], dtype=float).T
    sex = np.array([float(value == "male") for value in columns["sex"]])
    answers = answer_arrays(clock, markers, sex, np.array(columns["age_years"], dtype=float), 0.9)
    numbers = {name: values.tolist() for name, values in answers.numbers.items()}
    numbers |= {"status": answers.status, "flags": answers.flags}
    return JSONResponse({"predictions": [dict(zip(numbers, row)) for row in zip(*numbers.values())]})

fast = {"loop": "uvloop", "http": "httptools", "access_log": False, "log_level": "warning"}
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), **fast)
'''

UVICORN_ALONE = '''
"""The least that a server on uvicorn takes: the same bytes whatever is asked."""
import sys
import uvicorn

ANSWER = ANSWER_OF_ONE_ROW
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]

async def app(scope, receive, send):
    if scope["type"] == "http":
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": ANSWER})

fast = {"loop": "uvloop", "http": "httptools", "access_log": False, "log_level": "warning", "lifespan": "off"}
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), **fast)
'''

BENTO = """
import os
from pathlib import Path
from typing import Any
import bentoml
import numpy as np
from henaw.model.answers import answer_arrays
from henaw.model.storage import load_clock

@bentoml.service(workers=1)
class Henaw:
    def __init__(self) -> None:
        self.clock = load_clock(Path(os.environ["HENAW_CLOCK"]))

    @bentoml.api(route="/invocations")
    def invocations(self, dataframe_split: dict[str, Any]) -> dict[str, Any]:
        columns = dict(zip(dataframe_split["columns"], zip(*dataframe_split["data"])))
        markers = np.array([columns[name] for name in self.clock.panel.names], dtype=float).T
        sex = np.array([float(value == "male") for value in columns["sex"]])
        answers = answer_arrays(self.clock, markers, sex, np.array(columns["age_years"], dtype=float), 0.9)
        numbers = {name: values.tolist() for name, values in answers.numbers.items()}
        numbers |= {"status": answers.status, "flags": answers.flags}
        return {"predictions": [dict(zip(numbers, row)) for row in zip(*numbers.values())]}
"""

CONSTANT = """
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
import pandas as pd

class Constant(PythonModel):
    def predict(self, context, model_input, params=None):
        return pd.DataFrame({"biological_age_years": [50.0] * len(model_input)})

set_model(Constant())
"""

WHOLE_CONSTANT = CONSTANT.replace(
    '{"biological_age_years": [50.0] * len(model_input)}',
    f"{{**{{name: [50.0] * len(model_input) for name in {number_columns('age')!r}}}, "
    '"status": ["ok"] * len(model_input), "flags": [""] * len(model_input)}',
)  # of every column that the signature promises

WITH_TORCH = CONSTANT.replace("import pandas as pd", "import pandas as pd\nimport torch")


@dataclass(frozen=True)
class Rival:
    """A server: its name, the command that starts it, what is asked to know that it is ready, and the environment."""

    name: str
    command: list[str]
    ready: str = "/ping"
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def port(self) -> int:
        """Where it listens: the last number of the command."""
        return int(next(word for word in reversed(self.command) if word.isdigit()))


def prepare(folder: Path) -> Path:
    """Register a clock of the default size, a constant and one that imports torch; returns the clock's folder."""
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.create_experiment("bench", artifact_location=str(folder / "artifacts"))
    mlflow.set_experiment("bench")
    clock_folder = folder / CLOCK_FOLDER
    save_clock(blood_clock(members=16, hidden=(128, 128)), clock_folder)
    with mlflow.start_run():
        register(clock_folder, "henaw", {})
        for name, code in (("constant", CONSTANT), ("whole-constant", WHOLE_CONSTANT), ("with-torch", WITH_TORCH)):
            (folder / f"{name}.py").write_text(code)
            mlflow.pyfunc.log_model(
                name=name,
                python_model=str(folder / f"{name}.py"),
                signature=signature(BLOOD9, "age"),
                registered_model_name=name,
                pip_requirements=["mlflow"],
            )
    np.testing.assert_equal(load_clock(clock_folder).shape.members, 16)
    return clock_folder


def rivals(folder: Path, clock_folder: Path, ports: list[int], bentoml: str | None) -> list[Rival]:
    """Every server, on the given ports in order."""
    tools = Path(sys.executable).parent
    free = iter(ports)

    def stock(name: str, model: str) -> Rival:
        port = str(next(free))
        return Rival(
            name, [str(tools / "mlflow"), "models", "serve", "-m", model, "--env-manager", "local", "--port", port]
        )

    ours = [sys.executable, "-m", "henaw.cli", "serve", "--model", MODEL, "--port", str(next(free))]
    ours += ["--overrides", f"state.folder={folder / 'state'} serving.audit={folder / 'audit.jsonl'}"]
    (folder / "by_hand.py").write_text(BY_HAND)
    found = [
        Rival("henaw serve", ours),
        stock("mlflow models serve", MODEL),
        stock("mlflow models serve, a constant", "models:/constant/1"),
        stock("mlflow models serve, a constant of all columns", "models:/whole-constant/1"),
        stock("mlflow models serve, with torch", "models:/with-torch/1"),
        Rival("FastAPI by hand", [sys.executable, str(folder / "by_hand.py"), str(clock_folder), str(next(free))]),
    ]
    clock = load_clock(clock_folder)
    answer = to_json(answer_rows(clock, read_rows(clock.panel, json.loads(body_of(1)), 1)))
    (folder / "uvicorn_alone.py").write_text(UVICORN_ALONE.replace("ANSWER_OF_ONE_ROW", repr(answer)))
    found.append(Rival(UVICORN, [sys.executable, str(folder / "uvicorn_alone.py"), str(next(free))]))
    if bentoml is not None:
        (folder / "bento_service.py").write_text(BENTO)
        command = [bentoml, "serve", "bento_service:Henaw", "--port", str(next(free))]
        own = (("HENAW_CLOCK", str(clock_folder)), ("BENTOML_DO_NOT_TRACK", "True"))
        found.append(Rival("BentoML", command, "/livez", own))
    return found


def environment(folder: Path, rival: Rival) -> dict[str, str]:
    """Of every server: one thread a library, the store of the folder."""
    tools = Path(sys.executable).parent
    repository = Path(__file__).resolve().parent.parent
    return {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(repository), str(folder)]),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **dict(rival.environment),
    }


@contextmanager
def started(rival: Rival, folder: Path) -> Iterator[tuple[int, float]]:
    """The server until the block ends: its process and the seconds until it was ready."""
    began = time.perf_counter()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(rival.command, cwd=folder, env=environment(folder, rival), stdout=log, stderr=log)
    try:
        while not _is_ready(rival.port, rival.ready):
            if process.poll() is not None or time.perf_counter() - began > 120:
                raise RuntimeError(f"{rival.name} did not start:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)
        yield process.pid, time.perf_counter() - began
    finally:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            _, left = psutil.wait_procs([psutil.Process(process.pid), *family], timeout=20)
            for one in left:
                one.kill()
        process.wait()


def _is_ready(port: int, path: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
        return bool(reply.status == 200)
    return False


def memory(process: int, is_ours: bool) -> tuple[float, float]:
    """MiB resident in the process that answers, and in all processes of a server together.

    Ours answers in the process that was started; MLflow beside it is shared by all workers. Of the others the largest
    answers.
    """
    family = [psutil.Process(process), *psutil.Process(process).children(recursive=True)]
    resident = [one.memory_info().rss / 2**20 for one in family]
    return resident[0] if is_ours else max(resident), sum(resident)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]
