"""What MLflow learns from HENAW in every process that imports it: a tag, and which project file to read.

MLflow takes for the project file the first entry of ``os.listdir`` whose lower-case name is ``mlproject``, file or
folder. This repository has both ``MLproject`` and ``mlproject/``, so without help the order in which the file system
lists them decides whether ``mlflow run .`` works (on a tmpfs it ends with ``IsADirectoryError``). Here the look-up
insists on a file.

MLflow loads the entry point ``mlflow.run_context_provider`` while it is itself being imported. ``mlflow.projects``
cannot be imported then (a circle), so MLflow's own post-import hook replaces the look-up when its module is first
needed. This module must stay light and may not break MLflow: what goes wrong here is a warning in the log.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mlflow.tracking.context.abstract_context import RunContextProvider
from mlflow.utils.import_hooks import register_post_import_hook

from henaw import __version__

_logger = logging.getLogger(__name__)
_PROJECT_SPEC = "mlflow.projects._project_spec"


class HenawRunContext(RunContextProvider):
    """Tags every run that MLflow's fluent API creates with the version of HENAW."""

    def in_context(self) -> bool:
        """Whether the tags apply: always, where HENAW is installed."""
        return True

    def tags(self) -> dict[str, str]:
        """The tags of a new run."""
        return {"henaw.version": __version__}


def find_project_file(directory: str) -> str | None:
    """Path of the project file in ``directory``: ``MLproject``, else the first file of that name in other case."""
    named = [entry for entry in Path(directory).iterdir() if entry.name.lower() == "mlproject" and entry.is_file()]
    named.sort(key=lambda entry: (entry.name != "MLproject", entry.name))
    return str(named[0]) if named else None


def _insist_on_a_file(project_spec: Any) -> None:
    """Replace the look-up in ``mlflow.projects._project_spec``."""
    if hasattr(project_spec, "_find_mlproject"):
        project_spec._find_mlproject = find_project_file
    else:
        _logger.warning(
            "this version of MLflow looks its project file up in another way than %s._find_mlproject: "
            "`mlflow run .` may mistake the folder mlproject/ for MLproject",
            _PROJECT_SPEC,
        )


try:
    register_post_import_hook(_insist_on_a_file, _PROJECT_SPEC)
except Exception:
    _logger.warning("no hook on %s: `mlflow run .` may mistake mlproject/ for MLproject", _PROJECT_SPEC, exc_info=True)
