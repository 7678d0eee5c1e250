"""Where runs and models are kept: whether that store answers, how long it is waited for, what it is called in words."""

from __future__ import annotations

import contextlib
import math
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import mlflow
from mlflow import MlflowClient
from mlflow.environment_variables import (
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from henaw.errors import BadInput, EnvironmentProblem
from henaw.registry.locking import EVERYBODY, postgresql_locked

ANSWER_SECONDS = 10.0  # a tracking server that takes longer counts as not answering
_SCHEMA_KEY = 4_837_216  # of the lock under which a database's tables are made
_SCHEMA_SECONDS = 120.0  # and how long it is waited for
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def require_tracking() -> str:
    """Make sure that runs can be written before any work is done, and return the tracking URI.

    A server must accept a connection. The schema of a database is created here, under a lock, so that processes that
    start together do not race for it.

    Raises:
        EnvironmentProblem: the server or database does not answer.
    """
    uri = mlflow.get_tracking_uri()
    shown = without_secret(uri)
    try:
        _knock(uri)
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(
            f"tracking server {shown} does not answer ({type(error).__name__}); start it or set MLFLOW_TRACKING_URI"
        ) from None
    try:
        with _schema_locked(uri):
            MlflowClient(uri).search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError, ImportError, filelock.Timeout) as error:
        raise EnvironmentProblem(
            f"tracking server {shown} does not answer as MLflow ({type(error).__name__}); check MLFLOW_TRACKING_URI"
        ) from None
    return shown


def _schema_locked(uri: str) -> AbstractContextManager[object]:
    parts = urlsplit(uri)
    if parts.scheme == "sqlite":
        return filelock.FileLock(f"{parts.path[1:]}.lock", timeout=_SCHEMA_SECONDS, mode=EVERYBODY)
    if parts.scheme.partition("+")[0] == "postgresql":
        return postgresql_locked(uri, _SCHEMA_KEY, _SCHEMA_SECONDS)
    return contextlib.nullcontext()  # a server makes its own


def store_to_be_made() -> str | None:
    """The tracking URI where it is an SQLite file that does not exist yet, else None."""
    uri = mlflow.get_tracking_uri()
    parts = urlsplit(uri)
    return uri if parts.scheme == "sqlite" and not Path(parts.path[1:]).exists() else None


def require_models() -> None:
    """Make sure that there is a store to look for models in; none is made by looking.

    Raises:
        BadInput: the SQLite file that models would be in does not exist.
        EnvironmentProblem: the server or database does not answer.
    """
    if (uri := store_to_be_made()) is not None:
        raise BadInput(f"{uri}: no such model store yet; train first, or set MLFLOW_TRACKING_URI to where models are")
    require_tracking()


def answers() -> bool:
    """Whether the tracking store answers a knock at this moment."""
    try:
        _knock(mlflow.get_tracking_uri())
    except (OSError, ValueError):
        return False
    return True


def _knock(uri: str) -> None:
    """Raise ``OSError`` soon where nobody answers: MLflow's own client would try for minutes."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        with contextlib.suppress(urllib.error.HTTPError):  # an answer, if not a friendly one
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS).close()  # noqa: S310 (the scheme is checked)
    elif parts.scheme.partition("+")[0] in DATABASE_PORTS:
        port = parts.port or DATABASE_PORTS[parts.scheme.partition("+")[0]]
        socket.create_connection((parts.hostname or "localhost", port), timeout=ANSWER_SECONDS).close()


def without_secret(uri: str) -> str:
    """The address ``uri`` for people: its password hidden."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    return uri.replace(f":{parts.password}@", ":***@")


@contextmanager
def bounded_requests() -> Iterator[None]:
    """In the block, MLflow's client asks once and waits ``ANSWER_SECONDS``, unless the environment says otherwise.

    By itself it asks eight times and waits 120 s each time. Trying again is the breaker's business; and a request that
    is sent twice behind our back may be served twice.
    """
    bounds = {
        MLFLOW_HTTP_REQUEST_MAX_RETRIES: 0,
        MLFLOW_HTTP_REQUEST_TIMEOUT: math.ceil(ANSWER_SECONDS),
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR: False,  # other threads ask, too, and the terminal has one line
    }
    ours = [variable for variable in bounds if not variable.is_set()]
    for variable in ours:
        variable.set(bounds[variable])
    try:
        yield
    finally:
        for variable in ours:
            variable.unset()
