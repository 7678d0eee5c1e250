"""Versions of the registered model: how a clock becomes one, and which one is answered by."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

import henaw
from henaw.data.panel import Panel
from henaw.errors import BadInput, EnvironmentProblem, HenawError, NoSuchVersion
from henaw.model.answers import DEFAULT_COVERAGE, answer, example_rows, input_columns, number_columns
from henaw.model.clock import Clock, Target
from henaw.model.storage import CLOCK_FOLDER, load_clock
from henaw.registry.locking import aliases_locked
from henaw.registry.manifest import MANIFEST_TAG, seal
from henaw.registry.stores import require_models
from henaw.registry.tracking import store_needed

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
GOLDEN = "henaw_golden"  # metadata of the model: what it answered to its own example when it was registered
CARD_FOLDER = "card"  # its name among the artifacts of a registered model
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # no such model; no such alias
SERVING_PACKAGES = (
    "mlflow",
    "numpy",
    "pandas",
    "scipy",
    "safetensors",
    "pydantic",
    "PyYAML",
)  # answering needs no PyTorch
SERVED_CODE = (
    "__init__.py",
    "errors.py",
    "data/__init__.py",
    "data/disclosure.py",
    "data/files.py",
    "data/panel.py",
    "model",
)


@dataclass(frozen=True)
class Version:
    """A registered version and the aliases it was given."""

    name: str
    number: int
    aliases: tuple[str, ...]

    @property
    def uri(self) -> str:
        """Where MLflow finds it; by alias where it is the champion."""
        return f"models:/{self.name}@{CHAMPION}" if CHAMPION in self.aliases else f"models:/{self.name}/{self.number}"


def signature(panel: Panel, target: Target) -> ModelSignature:
    """The full signature: every column a double but ``sex``, ``status`` and ``flags``; parameter ``coverage``.

    All biomarkers are doubles because nullable integers would silently cost the signature.
    """
    inputs: list[ColSpec | TensorSpec] = [ColSpec(_type_of(name), name) for name in input_columns(panel)]
    outputs: list[ColSpec | TensorSpec] = [
        *(ColSpec(DataType.double, name, required=False) for name in number_columns(target)),
        ColSpec(DataType.string, "status"),
        ColSpec(DataType.string, "flags"),
    ]
    parameters = ParamSchema([ParamSpec("coverage", DataType.double, DEFAULT_COVERAGE)])
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs), params=parameters)


def _type_of(column: str) -> DataType:
    return DataType.string if column == "sex" else DataType.double


def input_example(clock: Clock) -> pd.DataFrame:
    """What a version is tried with."""
    return pd.DataFrame(example_rows(clock))


@store_needed()
def register(clock_folder: Path, name: str, tags: dict[str, str], card: Mapping[str, str] | None = None) -> Version:
    """Add a version of registered model ``name`` made from the clock in ``clock_folder``.

    It is logged to the active run, verified by loading it back and answering its own example, and only then registered,
    as ``challenger``, and as ``champion`` where the model has none. A digest of all its files is among its tags.

    Args:
        clock_folder: from ``save_clock``.
        name: of the registered model.
        tags: of the version; nothing of a participant may be in them.
        card: texts of the model card by file name, which become part of the version.

    Raises:
        IntegrityError: the clock's files do not match their manifest.
        HenawError: MLflow dropped the signature, or the logged model does not answer as the clock does.
    """
    clock = load_clock(clock_folder)
    example = input_example(clock)
    with tempfile.TemporaryDirectory(prefix="henaw-") as temporary:
        artifacts = {CLOCK_FOLDER: str(clock_folder)}
        if card:
            artifacts[CARD_FOLDER] = str(_written(card, Path(temporary) / CARD_FOLDER))
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(Path(henaw.__file__).parent / "registry" / "scoring_model.py"),
            artifacts=artifacts,
            code_paths=[str(_own_code(Path(temporary)))],
            signature=signature(clock.panel, clock.target),
            input_example=example,
            pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in SERVING_PACKAGES],
            metadata={GOLDEN: answer(clock, example, DEFAULT_COVERAGE).to_json(orient="records", double_precision=15)},
            tags=tags,
        )
    _require_faithful(logged.model_uri, clock, example)
    with tempfile.TemporaryDirectory(prefix="henaw-") as temporary:
        whole = mlflow.artifacts.download_artifacts(artifact_uri=logged.model_uri, dst_path=temporary)
        tags = tags | {MANIFEST_TAG: seal(Path(whole))}
    client = MlflowClient()
    created = mlflow.register_model(logged.model_uri, name, tags=tags)
    number = int(created.version)
    aliases = [CHALLENGER]
    with aliases_locked(name):
        client.set_registered_model_alias(name, CHALLENGER, str(number))
        if champion_version(name) is None:
            client.set_registered_model_alias(name, CHAMPION, str(number))
            aliases.append(CHAMPION)
    logger.info("registered %s version %d (%s)", name, number, ", ".join(aliases))
    return Version(name, number, tuple(aliases))


def champion_version(name: str) -> int | None:
    """Number of the version that is ``champion`` of ``name``, or None."""
    try:
        return int(MlflowClient().get_model_version_by_alias(name, CHAMPION).version)
    except MlflowException as error:
        if error.error_code in ABSENT:  # anything else must not pass for "no champion yet"
            return None
        raise


def registered_models() -> Iterator[RegisteredModel]:
    """Every model of the store, however many there are: MLflow gives them out a hundred at a time."""
    client, token = MlflowClient(), None
    while True:
        page = client.search_registered_models(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def exact_version(uri: str) -> tuple[str, int]:
    """Name and number of the registered version that ``uri`` (``models:/henaw@champion``, ``models:/henaw/3``) is now.

    Raises:
        BadInput: not the address of a registered version.
        NoSuchVersion: there is none of that address.
        EnvironmentProblem: the registry does not answer.
    """
    address = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if not address:
        raise BadInput(f"model {uri!r}: expected an address such as models:/henaw@champion or models:/henaw/3")
    name, alias, number = address.groups()
    require_models()
    try:
        client = MlflowClient()
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in ABSENT:  # a registry that is away must not pass for one without the version
            raise EnvironmentProblem(f"model {uri!r}: the registry does not answer ({error.error_code})") from None
        raise NoSuchVersion(f"model {uri!r}: no such model of HENAW's in the registry") from None
    return name, int(found.version)


def load_version(uri: str) -> Clock:
    """The clock inside the registered model ``uri`` (``models:/henaw@champion``, ``models:/henaw/3``, ``runs:/…``).

    Raises:
        BadInput: not the address of a model, no such model, or not one of HENAW's.
        IntegrityError: its files do not match their manifest.
        EnvironmentProblem: the registry does not answer.
    """
    if not uri.startswith(("models:/", "runs:/")):
        raise BadInput(f"model {uri!r}: expected an address such as models:/henaw@champion or models:/henaw/3")
    require_models()
    try:
        with tempfile.TemporaryDirectory(prefix="henaw-") as temporary:
            folder = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{uri}/artifacts/{CLOCK_FOLDER}", dst_path=temporary
            )
            return load_clock(Path(folder))
    except (MlflowException, OSError) as error:
        raise BadInput(f"model {uri!r}: no such model of HENAW's in the registry ({type(error).__name__})") from None


def _written(texts: Mapping[str, str], folder: Path) -> Path:
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _own_code(folder: Path) -> Path:
    """A copy of what the served model needs of HENAW's own code, so that it runs where HENAW is not installed."""
    package, copy = Path(henaw.__file__).parent, folder / "henaw"
    (copy / "data").mkdir(parents=True)
    for name in SERVED_CODE:
        if (package / name).is_dir():
            shutil.copytree(package / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(package / name, copy / name)
    return copy


def _require_faithful(uri: str, clock: Clock, example: pd.DataFrame) -> None:
    """The logged model must carry its whole signature and answer as the clock it was made from does."""
    loaded = mlflow.pyfunc.load_model(uri)
    found = loaded.metadata.signature
    if found is None or found != signature(clock.panel, clock.target):
        raise HenawError("MLflow dropped the model's signature, or a part of it; nothing was registered")
    if not loaded.predict(example).equals(answer(clock, example, DEFAULT_COVERAGE)):
        raise HenawError("the logged model does not answer as the clock it was made from; nothing was registered")
