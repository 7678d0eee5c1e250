"""The files in expectations/: up to date with the panels, loadable by Great Expectations, and complete."""

import json
from pathlib import Path

import great_expectations as gx
import pytest

from henaw.config import asset_folder
from henaw.data.panel import Biomarker, load_biomarkers
from henaw.errors import BadInput
from henaw.validation.biomarkers import regenerated
from henaw.validation.definitions import SUITES, load_suite
from henaw.validation.reference import load_reference

REFERENCES = load_reference(asset_folder("mlproject") / "panels")


@pytest.fixture(scope="module")
def markers() -> dict[str, Biomarker]:
    return load_biomarkers(asset_folder("mlproject") / "panels")


def text_of(suite: str) -> str:
    return (asset_folder("expectations") / f"{suite}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("suite", SUITES)
def test_files_are_what_the_command_writes(suite: str, markers: dict[str, Biomarker]) -> None:
    fresh = regenerated(suite, text_of(suite), markers.values(), REFERENCES)
    assert fresh == text_of(suite), "run: python -m henaw.validation.biomarkers"


@pytest.mark.parametrize("suite", SUITES)
def test_great_expectations_loads_every_line(suite: str) -> None:
    document = json.loads(text_of(suite))
    loaded = gx.ExpectationSuite(**document)
    assert len(loaded.expectations) == len(document["expectations"])
    assert loaded.to_json_dict()["name"] == suite


@pytest.mark.parametrize("suite", SUITES)
def test_a_rule_of_a_column_is_named_once_and_no_line_stands_twice(suite: str) -> None:
    expectations = load_suite(suite).expectations
    assert len({(e.columns, e.action.rule) for e in expectations}) == len(expectations)


def test_ranges_are_those_of_the_panels(markers: dict[str, Biomarker]) -> None:
    ranges = {e.columns[0]: e for e in load_suite("biomarker_ranges").expectations if e.action.in_panel}
    assert set(ranges) == set(markers)
    for name, marker in markers.items():
        assert (ranges[name].kwargs["min_value"], ranges[name].kwargs["max_value"]) == marker.plausible
        assert ranges[name].action.on_failure == "set_aside"


def test_writing_follows_the_panels_and_keeps_the_hand_written_lines(markers: dict[str, Biomarker]) -> None:
    old = text_of("biomarker_ranges")
    fewer = {name: marker for name, marker in markers.items() if name != "crp_mg_l"}
    moved = fewer | {"rdw_pct": markers["rdw_pct"].model_copy(update={"plausible": (8.5, 45.0)})}
    new = regenerated("biomarker_ranges", old, moved.values(), REFERENCES)
    assert "crp_mg_l" not in new
    changed = [
        line for line in new.splitlines() if line.rstrip(",") not in {old.rstrip(",") for old in old.splitlines()}
    ]
    assert len(changed) == 1
    assert '"min_value": 8.5' in changed[0]
    assert regenerated("biomarker_ranges", new, markers.values(), REFERENCES) == old


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ('{"name": "schema", "expectations": [{"type": "t", "kwargs": {}}]}', r"expectations\.0\.meta"),
        (
            '{"name": "schema", "expectations": [{"type": "t", "kwargs": {}, "meta": {"henaw": '
            '{"on_failure": "ignore", "rule": "r"}}}]}',
            "on_failure",
        ),
        (
            '{"name": "schema", "expectations": [{"type": "t", "kwargs": {}, "meta": {"henaw": '
            '{"on_failure": "warn", "rule": "r", "in_panels": true}}}]}',
            "in_panels",
        ),
    ],
    ids=["not JSON", "no meta", "unknown action", "unknown key"],
)
def test_a_broken_suite_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "schema.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=message) as caught:
        load_suite("schema", tmp_path)
    assert "schema.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"people\.json: no such suite"):
        load_suite("people", tmp_path)
