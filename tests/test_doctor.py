"""The doctor's grades, in situations that are made for it."""

import importlib.metadata
import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import mlflow
import mlflow.projects._project_spec as project_spec
import pytest
import torch

from henaw import doctor
from henaw.doctor import Finding, examine, require_fit, table
from henaw.errors import EnvironmentProblem

DiskUsage = namedtuple("DiskUsage", "total used free")
Version = namedtuple("Version", "major minor micro releaselevel serial")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds both names, and a tracking store that answers, in the environment that runs the tests."""
    (tmp_path / "MLproject").write_text("name: x\n", encoding="utf-8")
    (tmp_path / "mlproject").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("henaw.registry.stores.require_tracking", lambda: "sqlite:///mlflow.db")
    monkeypatch.setattr("henaw.registry.stores.store_to_be_made", lambda: None)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return tmp_path


def finding(folder: Path, name: str) -> Finding:
    (found,) = [one for one in examine(folder) if one.name == name]
    return found


def test_a_machine_that_is_fit(project: Path) -> None:
    findings = examine(project)
    assert [one.name for one in findings] == [
        "python",
        "packages",
        "project files",
        "mlflow plugin",
        "python on PATH",
        "tracking",
        "disk",
        "device",
    ]
    assert {one.name: (one.found, one.advice) for one in findings if one.grade == "fail"} == {}
    assert all(bool(one.advice) == (one.grade != "ok") for one in findings), (
        "advice where it is needed and nowhere else"
    )
    require_fit(findings)


def test_an_old_python_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", Version(3, 10, 12, "final", 0))
    found = doctor._python(project)
    assert (found.grade, found.found) == ("fail", "3.10.12")
    assert "3.11" in found.advice


def test_packages_at_other_versions_are_named_with_their_pins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = ["torch==2.13.0", "numpy==2.4.6", "gone==1.0", "ranged>=3", 'other==9; extra == "dev"']
    installed = {"torch": "2.13.0+cpu", "numpy": "2.4.5", "other": "1"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda _: pins)
    monkeypatch.setattr(importlib.metadata, "version", version)
    found = finding(project, "packages")
    assert (found.grade, found.found) == ("warn", "numpy 2.4.5 (pinned 2.4.6), gone absent (pinned 1.0)")
    installed.update(numpy="2.4.6", gone="1.0")
    assert finding(project, "packages").grade == "ok"


def test_henaw_not_installed_is_a_warning(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    found = finding(project, "packages")
    assert (found.grade, found.found) == ("warn", "henaw is not installed here")


def test_one_of_the_two_names_alone_means_a_disk_that_ignores_case(project: Path) -> None:
    (project / "mlproject").rmdir()
    found = finding(project, "project files")
    assert (found.grade, found.found) == ("fail", "only MLproject of MLproject (a file) and mlproject/ (a folder)")
    assert "case-sensitive" in found.advice
    assert finding(project, "mlflow plugin").grade == "ok", "there is no clash to settle"


def test_a_folder_that_is_no_checkout_is_fine(tmp_path: Path) -> None:
    assert doctor._mlproject(tmp_path).grade == "ok"
    assert doctor._plugin(tmp_path).grade == "ok"


def test_without_the_plugin_the_clash_of_names_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own look-up takes the first entry that the file system lists."""
    monkeypatch.setattr(project_spec, "_find_mlproject", lambda folder: str(Path(folder) / "mlproject"))
    found = finding(project, "mlflow plugin")
    assert found.grade == "fail"
    assert "pip install -e ." in found.advice
    monkeypatch.setattr(project_spec, "_find_mlproject", lambda _: None)
    assert finding(project, "mlflow plugin").grade == "fail"
    monkeypatch.setattr(project_spec, "_find_mlproject", lambda folder: str(Path(folder) / "MLproject"))
    assert finding(project, "mlflow plugin").grade == "ok"


def test_another_python_first_on_path_is_a_warning(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = project / "bin" / "python"
    other.parent.mkdir()
    other.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setenv("PATH", f"{other.parent}{os.pathsep}{os.environ['PATH']}")
    found = finding(project, "python on PATH")
    assert (found.grade, found.found) == ("warn", f"the first `python` is {other}"), (
        "the same binary, another environment"
    )
    monkeypatch.setenv("PATH", str(project / "nothing"))
    assert finding(project, "python on PATH").found == "the first `python` is absent"


def test_looking_makes_no_tracking_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = finding(tmp_path, "tracking")
    assert (found.grade, "will be made" in found.found) == ("ok", True)
    assert not list(tmp_path.iterdir())


def test_a_tracking_server_that_does_not_answer_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> str:
        raise EnvironmentProblem("tracking server http://127.0.0.1:9 does not answer")

    monkeypatch.setattr("henaw.registry.stores.require_tracking", silent)
    found = finding(project, "tracking")
    assert (found.grade, found.found) == ("fail", "tracking server http://127.0.0.1:9 does not answer")
    assert "MLFLOW_TRACKING_URI" in found.advice


@pytest.mark.parametrize(("free", "grade"), [(1.9, "warn"), (2.1, "ok")])
def test_little_disk_is_a_warning(project: Path, monkeypatch: pytest.MonkeyPatch, free: float, grade: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(0, 0, int(free * 2**30)))
    found = finding(project, "disk")
    assert (found.grade, found.found) == (grade, f"{free:.1f} GiB free")


def test_the_device_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert finding(project, "device").found.startswith("CPU, ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    assert finding(project, "device").found == "GPU H200"


def test_only_failures_end_with_an_error_and_every_one_is_named() -> None:
    warned, failed = Finding("disk", "warn", "little", "more"), Finding("tracking", "fail", "silent", "start it")
    require_fit([warned])
    with pytest.raises(EnvironmentProblem, match="doctor: tracking, python: see the advice") as raised:
        require_fit([warned, failed, Finding("python", "fail", "3.9", "newer")])
    assert raised.value.exit_code == 3


def test_the_table_has_a_line_a_finding_and_its_advice_below() -> None:
    lines = list(table([Finding("disk", "ok", "70 GiB free"), Finding("python", "fail", "3.9", "get a newer one")]))
    assert lines == [
        "ok    disk             70 GiB free",
        "fail  python           3.9",
        "                       → get a newer one",
    ]
