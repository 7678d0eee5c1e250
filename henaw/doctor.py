"""``henaw doctor``: is this machine fit for HENAW, and if not, what to do."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from henaw.config import asset_folder
from henaw.errors import EnvironmentProblem

LEAST_FREE_GIB = 2.0

Grade = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """Outcome of one check; ``advice`` says what to do unless all is well."""

    name: str
    grade: Grade
    found: str
    advice: str = ""


def examine(folder: Path) -> list[Finding]:
    """All checks, for a project in ``folder``."""
    checks: tuple[Callable[[Path], Finding], ...] = (
        _python,
        _packages,
        _mlproject,
        _plugin,
        _first_python,
        _tracking,
        _disk,
        _device,
    )
    return [check(folder) for check in checks]


def require_fit(findings: list[Finding]) -> None:
    """Raise where a check failed.

    Raises:
        EnvironmentProblem: at least one finding is graded ``fail``.
    """
    failed = [finding.name for finding in findings if finding.grade == "fail"]
    if failed:
        raise EnvironmentProblem(f"doctor: {', '.join(failed)}: see the advice above")


def table(findings: list[Finding]) -> Iterator[str]:
    """The findings as lines for a terminal."""
    for finding in findings:
        yield f"{finding.grade:<5} {finding.name:<16} {finding.found}"
        if finding.advice:
            yield f"{'':<23}→ {finding.advice}"


def _python(_: Path) -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):
        return Finding("python", "fail", found, "HENAW needs Python 3.11 or newer")
    return Finding("python", "ok", found)


def _packages(_: Path) -> Finding:
    lock = asset_folder("mlproject") / "env" / "requirements.lock"
    try:
        required = importlib.metadata.requires("henaw") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding("packages", "warn", "henaw is not installed here", "run `make setup`, or `pip install -e .`")
    wrong = []
    for requirement in required:
        match = re.match(r"([A-Za-z0-9_.-]+)==([0-9a-z.]+)", requirement)
        if match and "extra ==" not in requirement and _installed(match[1]) != match[2]:
            wrong.append(f"{match[1]} {_installed(match[1])} (pinned {match[2]})")
    if wrong:
        return Finding(
            "packages", "warn", ", ".join(wrong), f"install the pinned set: pip install -r {lock.name}, or `make setup`"
        )
    return Finding("packages", "ok", f"all {len(required)} at their pinned versions")


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _mlproject(folder: Path) -> Finding:
    names = _project_files(folder)
    if not names:
        return Finding("project files", "ok", "no MLproject here; `mlflow run` wants the path of a checkout")
    if names != ["MLproject", "mlproject"]:
        return Finding(
            "project files",
            "fail",
            f"only {names[0]} of MLproject (a file) and mlproject/ (a folder)",
            "this disk ignores case and cannot hold both: clone to a case-sensitive disk, or use "
            "`python -m pipelines.train`",
        )
    return Finding("project files", "ok", "MLproject and mlproject/ are both there")


def _project_files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.lower() == "mlproject")


def _plugin(folder: Path) -> Finding:
    import mlflow.projects._project_spec as project_spec

    if len(_project_files(folder)) < 2:
        return Finding("mlflow plugin", "ok", "not needed in this folder")
    found = project_spec._find_mlproject(str(folder))
    if found is None or not Path(found).is_file():
        return Finding(
            "mlflow plugin",
            "fail",
            "`mlflow run` would take the folder mlproject/ for the project file",
            "install HENAW into the environment that runs mlflow: `pip install -e .` (or `make setup`)",
        )
    return Finding("mlflow plugin", "ok", "`mlflow run` finds the file MLproject")


def _first_python(_: Path) -> Finding:
    first = shutil.which("python")
    if first is None or Path(first).resolve() != Path(sys.executable).resolve() or not _same_folder(first):
        return Finding(
            "python on PATH",
            "warn",
            f"the first `python` is {first or 'absent'}",
            "`--env-manager local` uses it: activate the environment (`source .venv/bin/activate`), or use make",
        )
    return Finding("python on PATH", "ok", "the first `python` is this environment's")


def _same_folder(program: str) -> bool:
    return Path(program).parent == Path(sys.executable).parent


def _tracking(_: Path) -> Finding:
    from henaw.registry.stores import require_tracking, store_to_be_made

    try:
        if (uri := store_to_be_made()) is not None:  # looking must not make it
            return Finding("tracking", "ok", f"{uri} will be made by the first run")
        return Finding("tracking", "ok", f"{require_tracking()} answers")
    except EnvironmentProblem as error:
        return Finding(
            "tracking", "fail", str(error), "start the server, or unset MLFLOW_TRACKING_URI to use a file here"
        )


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 2**30
    if free < LEAST_FREE_GIB:
        return Finding("disk", "warn", f"{free:.1f} GiB free", f"caches and artifacts want {LEAST_FREE_GIB:g} GiB")
    return Finding("disk", "ok", f"{free:.1f} GiB free")


def _device(_: Path) -> Finding:
    import torch

    from henaw.training.device import available_cores

    if torch.cuda.is_available():
        return Finding("device", "ok", f"GPU {torch.cuda.get_device_name()}")
    return Finding("device", "ok", f"CPU, {available_cores()} cores (no GPU: training takes minutes, not seconds)")
