"""The places that name the environment agree, and an installed wheel carries what the code looks for."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import henaw

REPOSITORY = Path(__file__).resolve().parents[1]
LOCKS = REPOSITORY / "mlproject" / "env"


def pins(requirements: list[str]) -> dict[str, str]:
    """Name → exact version; anything but one ``==`` is an error."""
    found = {}
    for text in requirements:
        requirement = Requirement(text)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{text}: expected an exact pin"
        found[canonicalize_name(requirement.name)] = specifier.version
    return found


def locked(name: str) -> dict[str, str]:
    lines = (LOCKS / name).read_text(encoding="utf-8").splitlines()
    return pins([line for line in lines if not line.startswith("#")])


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def test_conda_and_pyproject_name_the_same_pins(project):
    conda = yaml.safe_load((REPOSITORY / "conda.yaml").read_text(encoding="utf-8"))
    python, pip, listed = conda["dependencies"]
    constraint, *packages = listed["pip"]
    assert pins(packages) == pins(project["project"]["dependencies"])
    assert (REPOSITORY / constraint.removeprefix("-c ")).samefile(LOCKS / "requirements.lock")
    assert pip == "pip"
    assert f">={python.removeprefix('python=')}" == project["project"]["requires-python"]


def test_locks_hold_what_pyproject_pins(project):
    runtime, development = pins(project["project"]["dependencies"]), pins(project["dependency-groups"]["dev"])
    assert runtime.items() <= locked("requirements.lock").items()
    assert development.items() <= locked("dev.lock").items()
    assert locked("requirements.lock").items() <= locked("dev.lock").items()
    assert pins(project["dependency-groups"]["bench"]).items() <= locked("bench.lock").items()
    assert locked("requirements.lock").items() <= locked("bench.lock").items()  # installing it changes nothing else


def test_what_benchmarks_compare_with_is_no_dependency(project):
    assert not pins(project["dependency-groups"]["bench"]).keys() & locked("dev.lock").keys()


def test_build_backend_is_the_locked_one(project):
    assert pins(project["build-system"]["requires"]).items() <= locked("dev.lock").items()


def test_citation_names_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == henaw.__version__


@pytest.mark.parametrize("lock", ["requirements.lock", "dev.lock", "bench.lock"])
def test_locks_name_no_address_and_no_cuda_package(lock):
    text = (LOCKS / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.findall(r"^(nvidia-.*|cuda-.*|triton==.*|.*\+cpu.*|-.*)$", text, flags=re.MULTILINE)


def test_installed_packages_are_the_locked_ones():
    """The environment that runs this test is the one that set-up promises."""
    different = {}
    for name, locked_version in locked("dev.lock").items():
        try:
            found = version(name).partition("+")[0]  # a CPU wheel of torch is 2.13.0+cpu
        except PackageNotFoundError:
            continue  # for another platform or Python
        if found != locked_version:
            different[name] = (found, locked_version)
    assert not different


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_carries_settings_suites_page_and_type_marker(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("mlproject", "expectations"):
        files = [path.relative_to(REPOSITORY) for path in (REPOSITORY / folder).rglob("*.[yj]*")]
        assert files
        assert {f"henaw/_assets/{path}" for path in files} <= names
    page = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "henaw/serving/page/static").iterdir()}
    assert "index.html" in {path.name for path in page}
    assert {str(path) for path in page} <= names
    assert "henaw/py.typed" in names
    assert not {name for name in names if name.startswith(("tests/", "pipelines/", "mlproject/"))}


def test_wheel_reads_its_own_settings(wheel, tmp_path):
    """Installed without a checkout beside it, the package finds profiles and panels in itself."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = "import henaw.config as c; print(c.__file__, c.load_config('smoke').panel, *c.available_profiles())"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True)
    file, panel, *profiles = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert panel == "blood9"
    assert "nhanes" in profiles


def test_wheel_has_the_version_and_the_entry_points(wheel):
    archive = zipfile.ZipFile(wheel)
    folder = f"henaw-{henaw.__version__}.dist-info"
    entry_points = archive.read(f"{folder}/entry_points.txt").decode()
    assert "[mlflow.run_context_provider]\nhenaw = henaw.registry.mlflow_plugin:HenawRunContext" in entry_points
    assert "[console_scripts]\nhenaw = henaw.cli:main" in entry_points


def test_a_leaked_handle_fails_the_tests(tmp_path):
    """The settings of pytest in pyproject.toml do what SECURITY and CONTRIBUTING promise of them."""
    (tmp_path / "pyproject.toml").write_bytes((REPOSITORY / "pyproject.toml").read_bytes())
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_leak.py").write_text(
        "def test_leak():\n    handle = open(__file__)\n\ndef test_tidy():\n    open(__file__).close()\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "ResourceWarning: unclosed file" in done.stdout
