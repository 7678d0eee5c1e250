"""MLproject, the stages of pipelines/ and the shell between them mean the same by each parameter."""

import importlib
import inspect
import shlex
import subprocess
from pathlib import Path

import pytest
from mlflow.exceptions import ExecutionException
from mlflow.projects import _project_spec, env_type

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = _project_spec.load_project(str(REPOSITORY))
STAGES = sorted(set(PROJECT._entry_points) - {"main"})
HOSTILE = """ two words; 'single' "double" $HOME $(id) `id` * {x} \\ ~ ünïcödé=1\t"""


def test_every_stage_has_an_entry_point():
    expected = {path.stem for path in (REPOSITORY / "pipelines").glob("*.py")} - {"__init__", "cache", "fit"}
    assert set(STAGES) == expected


def test_mlflow_builds_the_environment_of_conda_yaml():
    assert PROJECT.name == "henaw"
    assert PROJECT.env_type == env_type.CONDA
    assert Path(PROJECT.env_config_path).samefile(REPOSITORY / "conda.yaml")


def test_main_is_train():
    main, train = PROJECT.get_entry_point("main"), PROJECT.get_entry_point("train")
    assert main.command == train.command
    assert main.parameters.keys() == train.parameters.keys()


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_takes_the_parameters_that_its_entry_point_names(name):
    """The same names with the same defaults; what MLproject demands, the stage checks for itself."""
    stage = inspect.signature(importlib.import_module(f"pipelines.{name}").main).parameters
    entry_point = PROJECT.get_entry_point(name)
    assert stage.keys() == entry_point.parameters.keys()
    for parameter in entry_point.parameters.values():
        expected = "" if parameter.default is None else parameter.default
        assert stage[parameter.name].default == expected, parameter.name


@pytest.mark.parametrize("name", STAGES)
def test_every_value_reaches_the_stage_as_it_was_given(name):
    """Through MLflow's quoting and the shell that MLflow starts; an empty value stays an argument of its own."""
    entry_point = PROJECT.get_entry_point(name)
    for value in (HOSTILE, ""):
        command = entry_point.compute_command(dict.fromkeys(entry_point.parameters, value), None)
        arguments = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
        ).stdout.split("\0")[:-1]
        options = [option for key in entry_point.parameters for option in (f"--{key.replace('_', '-')}", value)]
        assert arguments == ["python", "-m", f"pipelines.{name}", *options]


def test_an_unknown_parameter_becomes_an_option_that_the_stage_refuses():
    command = PROJECT.get_entry_point("train").compute_command({"profil": "smoke"}, None)
    assert shlex.split(command)[-2:] == ["--profil", "smoke"]


@pytest.mark.parametrize(("name", "missing"), [("register", "run_id"), ("score", "input")])
def test_what_has_no_default_must_be_given(name, missing):
    with pytest.raises(ExecutionException, match=missing):
        PROJECT.get_entry_point(name)._validate_parameters({})
