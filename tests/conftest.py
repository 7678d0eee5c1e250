"""Fixtures that every part of the suite shares."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from hypothesis import settings
from mlflow import MlflowClient

REPOSITORY = Path(__file__).resolve().parent.parent

settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the repository (``../shared/data``)."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which is absent here")
    return folder


@pytest.fixture(scope="session")
def nhanes_table(shared_data: Path) -> Path:
    """The NHANES participant table."""
    return shared_data / "nhanes" / "nhanes_adults.csv.gz"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking store with nothing in it: making its tables takes seconds, so it is done once."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Iterator[Path]:
    """An empty folder to work in, with a tracking store of its own."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield tmp_path
    mlflow.set_tracking_uri(before)
