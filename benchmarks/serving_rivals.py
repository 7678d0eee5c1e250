"""The servers that `henaw serve` is compared with, each as a program in a folder with one registered model."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np

from henaw.model.answers import number_columns
from henaw.model.storage import CLOCK_FOLDER, load_clock, save_clock
from henaw.registry.versions import register, signature
from tests.scenarios import BLOOD9, blood_clock

MODEL = "models:/henaw@champion"

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
