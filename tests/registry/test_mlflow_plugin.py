"""``mlflow run`` finds the file MLproject beside the folder mlproject/ in whichever order a file system lists them."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from mlflow.projects import _project_spec
from mlflow.tracking.context.registry import resolve_tags

import henaw
from henaw.registry import mlflow_plugin
from henaw.registry.mlflow_plugin import find_project_file

ORDERS = [("MLproject", "mlproject", "README.md"), ("README.md", "mlproject", "MLproject")]
PROJECT = "name: tiny\nentry_points:\n  main:\n    command: echo {text}\n    parameters: {text: {default: found}}\n"

# A child process in which the file system lists a folder's entries in the order of the environment variable ORDER, and
# which has MLflow without HENAW's plugin where PLUGIN is "no".
CHILD = """
import os, importlib.metadata
names, entry_points = os.environ["ORDER"].split(), importlib.metadata.entry_points
if os.environ["PLUGIN"] == "no":
    def without_henaw(**wanted):
        found = entry_points(**wanted)
        return type(found)(point for point in found if point.name != "henaw")
    importlib.metadata.entry_points = without_henaw
import mlflow
from mlflow.projects import _project_spec
os.listdir = lambda folder=".": list(names)
print(*_project_spec.load_project(os.environ["PROJECT"])._entry_points)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "mlproject").mkdir()
    (tmp_path / "MLproject").write_text(PROJECT)
    if len(list(tmp_path.iterdir())) != 2:
        pytest.skip("this disk does not tell MLproject from mlproject")
    return tmp_path


def load_in_child(project: Path, order: tuple[str, ...], plugin: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ORDER": " ".join(order), "PLUGIN": plugin, "PROJECT": str(project)}
    command = [sys.executable, "-c", CHILD]
    return subprocess.run(command, env=environment, cwd=project, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("order", ORDERS)
def test_importing_mlflow_is_enough_in_either_order(project, order):
    done = load_in_child(project, order, plugin="yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "main\n"


def test_without_the_plugin_the_order_decides(project):
    """What the plugin is for: should MLflow mend its look-up, this test says that the plugin may go."""
    file_first, folder_first = (load_in_child(project, order, plugin="no") for order in ORDERS)
    assert file_first.stdout == "main\n"
    assert "IsADirectoryError" in folder_first.stderr


def test_look_up_is_replaced_in_this_process():
    assert _project_spec._find_mlproject is find_project_file


def test_folder_alone_is_no_project_file(tmp_path):
    (tmp_path / "mlproject").mkdir()
    assert find_project_file(str(tmp_path)) is None


def test_other_letter_case_is_found_and_the_exact_name_preferred(project):
    for name in ("MLPROJECT", "mlProject"):
        (project / name).write_text(PROJECT)
    assert find_project_file(str(project)) == str(project / "MLproject")
    (project / "MLproject").unlink()
    assert find_project_file(str(project)) == str(project / "MLPROJECT")


def test_a_changed_mlflow_is_a_warning_and_breaks_nothing(caplog):
    changed = type(sys)("mlflow.projects._project_spec")
    mlflow_plugin._insist_on_a_file(changed)
    assert "mistake the folder mlproject/" in caplog.text
    assert not hasattr(changed, "_find_mlproject")


def test_new_runs_are_tagged_with_the_version():
    assert resolve_tags()["henaw.version"] == henaw.__version__


def test_plugin_imports_nothing_heavy():
    """It is loaded at every ``import mlflow``."""
    script = (
        "import sys, mlflow.tracking.context.registry\n"
        "print(*sorted(name for name in sys.modules if name.partition('.')[0] in ('henaw', 'torch')))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["henaw", "henaw.registry", "henaw.registry.mlflow_plugin"]


def outside_any_run() -> dict[str, str]:
    """The environment without what MLflow leaves in it for the runs of this process."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}


def test_mlflow_run_in_a_clone_on_a_tmpfs():
    """A tmpfs lists new entries first, and git writes MLproject before mlproject/: the folder comes first."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("needs a tmpfs at /dev/shm, which is absent here")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="henaw-test-") as folder:
        origin, clone = Path(folder, "origin"), Path(folder, "clone")
        (origin / "mlproject").mkdir(parents=True)
        (origin / "MLproject").write_text(PROJECT)
        (origin / "mlproject" / "default.yaml").write_text("{}\n")
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"]
        for command in ([*git, "init"], [*git, "add", "."], [*git, "commit", "-m", "x"]):
            subprocess.run(command, cwd=origin, check=True, capture_output=True)
        subprocess.run([*git, "clone", str(origin), str(clone)], check=True, capture_output=True)
        mlflow = shutil.which("mlflow", path=str(Path(sys.executable).parent))
        assert mlflow
        done = subprocess.run(
            [mlflow, "run", ".", "--env-manager", "local", "-P", "text=it works"],
            cwd=clone,
            env=outside_any_run() | {"MLFLOW_TRACKING_URI": f"sqlite:///{clone}/runs.db"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "it works\n" in done.stdout
