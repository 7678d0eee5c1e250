"""Registration against a real MLflow store: whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.models import ModelSignature

from henaw.errors import BadInput, HenawError, IntegrityError
from henaw.model.answers import DEFAULT_COVERAGE, answer, input_columns, output_columns
from henaw.model.storage import CLOCK_FOLDER, save_clock
from henaw.registry import versions
from tests.scenarios import blood_clock, blood_rows
from tests.stores import tracking_store

CLOCK = blood_clock()


@pytest.fixture
def clock_folder(tmp_path: Path) -> Path:
    folder = tmp_path / CLOCK_FOLDER
    save_clock(CLOCK, folder)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    folder = tmp_path_factory.mktemp("store")
    with tracking_store(folder, "here"):
        yield MlflowClient()


def register(folder: Path, name: str) -> versions.Version:
    with mlflow.start_run():
        return versions.register(folder, name, {"henaw.training_run": "somewhere"})


def test_the_first_version_is_champion_and_the_next_only_challenger(store: MlflowClient, clock_folder: Path) -> None:
    first, second = register(clock_folder, "twice"), register(clock_folder, "twice")
    assert (first.number, first.aliases) == (1, ("challenger", "champion"))
    assert (second.number, second.aliases) == (2, ("challenger",))
    assert int(store.get_model_version_by_alias("twice", "champion").version) == 1
    assert int(store.get_model_version_by_alias("twice", "challenger").version) == 2
    assert first.uri == "models:/twice@champion"
    assert second.uri == "models:/twice/2"
    assert store.get_model_version("twice", "1").tags["henaw.training_run"] == "somewhere"


def test_a_version_answers_as_its_clock_and_carries_its_signature(store: MlflowClient, clock_folder: Path) -> None:
    version = register(clock_folder, "faithful")
    loaded = mlflow.pyfunc.load_model(version.uri)
    rows = blood_rows(20, 1)[list(input_columns(CLOCK.panel))]
    assert loaded.predict(rows).equals(answer(CLOCK, rows, DEFAULT_COVERAGE))
    assert loaded.predict(rows, params={"coverage": 0.5}).equals(answer(CLOCK, rows, 0.5))
    assert [column.name for column in loaded.metadata.signature.outputs] == list(output_columns("age"))
    assert versions.load_version(version.uri).panel == CLOCK.panel


def test_a_version_runs_where_henaw_and_torch_are_absent(store: MlflowClient, clock_folder: Path) -> None:
    """In a process that can import neither, but for the code that the version carries."""
    version = register(clock_folder, "alone")
    folder = mlflow.artifacts.download_artifacts(artifact_uri=version.uri)
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
sys.path = [entry for entry in sys.path if entry and entry != sys.argv[2]]
import importlib.metadata
found = importlib.metadata.entry_points
importlib.metadata.entry_points = (
    lambda **options: [] if "run_context" in options.get("group", "") else found(**options)
)
import mlflow, pandas, json
assert not any(name.split(".")[0] == "henaw" for name in sys.modules), "the plugin was loaded"
model = mlflow.pyfunc.load_model(sys.argv[1])
import henaw
assert henaw.__file__.startswith(sys.argv[1]), henaw.__file__
rows = pandas.read_json(sys.argv[3], orient="split", dtype=False)
print(model.predict(rows).to_json(orient="records"))
"""
    rows = blood_rows(3, 2)[list(input_columns(CLOCK.panel))]
    path = clock_folder.parent / "rows.json"
    rows.to_json(path, orient="split", double_precision=15)
    repository = str(Path(versions.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program, folder, repository, str(path)],
        capture_output=True, text=True, check=False, timeout=120, cwd=clock_folder.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    expected = answer(CLOCK, rows, DEFAULT_COVERAGE)["biological_age_years"]
    assert [row["biological_age_years"] for row in told] == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_damaged_clock_is_not_registered(store: MlflowClient, clock_folder: Path) -> None:
    weights = clock_folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError):
        register(clock_folder, "damaged")
    assert not store.search_registered_models("name='damaged'")


def test_a_dropped_signature_is_refused(
    store: MlflowClient, clock_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "signature", lambda *_: None)
    monkeypatch.setattr(versions, "input_example", lambda clock: blood_rows(2, 0)[list(input_columns(clock.panel))])
    original = mlflow.pyfunc.log_model
    monkeypatch.setattr(mlflow.pyfunc, "log_model", lambda **options: original(**{**options, "input_example": None}))
    with pytest.raises(HenawError, match="signature"):
        register(clock_folder, "unsigned")
    assert not store.search_registered_models("name='unsigned'")


@pytest.mark.parametrize("part", ["outputs", "params"])
def test_a_signature_without_a_part_is_refused(
    store: MlflowClient, clock_folder: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    original = mlflow.pyfunc.log_model

    def dropping(**options: Any) -> Any:
        whole = options["signature"]
        kept = {name: getattr(whole, name) for name in ("inputs", "outputs", "params") if name != part}
        return original(**{**options, "signature": ModelSignature(**kept)})

    monkeypatch.setattr(mlflow.pyfunc, "log_model", dropping)
    with pytest.raises(HenawError, match="signature"):
        register(clock_folder, f"without-{part}")
    assert not store.search_registered_models(f"name='without-{part}'")


@pytest.mark.parametrize(
    "uri", ["henaw", "models:/", "models:/absent@champion", "models:/absent/1", "runs:/0/clock", "../clock"]
)
def test_what_is_no_version_is_one_line(store: MlflowClient, uri: str) -> None:
    with pytest.raises(BadInput) as caught:
        versions.load_version(uri)
    assert "\n" not in str(caught.value)


def test_a_failing_store_is_not_a_missing_champion(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise mlflow.MlflowException("gone", error_code=1)

    monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", fail)
    with pytest.raises(mlflow.MlflowException):
        versions.champion_version("twice")
