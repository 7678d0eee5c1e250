"""What a version consists of: a digest of every file of it, kept among its tags, and verified whenever it is loaded.

The clock inside has a manifest of its own; this one covers the rest too: signature, requirements, and the code that
MLflow will execute.
"""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from henaw.data.files import digest_file, digest_values
from henaw.errors import BadInput, IntegrityError

MANIFEST_TAG = "henaw.manifest"
_ADDED_BY_MLFLOW = ("registered_model_meta",)  # when a version is downloaded


def manifest_of(folder: Path) -> dict[str, str]:
    """The digest of every file below ``folder``, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: digest_file(path) for name, path in named.items() if name not in _ADDED_BY_MLFLOW}


def seal(folder: Path) -> str:
    """One digest over the manifest of ``folder``, for a tag."""
    return digest_values(manifest_of(folder))


def fetch_verified(name: str, number: int, into: Path) -> Path:
    """Download version ``number`` of ``name`` below ``into``, whole as it was registered.

    Raises:
        BadInput: no such version.
        IntegrityError: a file is missing, added or changed, or the version has no manifest.
    """
    try:
        tags = MlflowClient().get_model_version(name, str(number)).tags
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/{number}", dst_path=str(into)))
    except (MlflowException, OSError) as error:
        raise BadInput(f"{name} version {number}: cannot be fetched ({type(error).__name__})") from None
    if MANIFEST_TAG not in tags:
        raise IntegrityError(
            f"{name} version {number}: has no manifest; it was not registered by this version of HENAW"
        )
    if seal(folder) != tags[MANIFEST_TAG]:
        raise IntegrityError(f"{name} version {number}: its files differ from its manifest; it was not loaded")
    return folder
