"""`mlflow run . -e validate` and `-e train` on every form of data, with real processes: a UK Biobank export in each
convention, the raw folder of NHANES and the participant table made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.make_ukb_export import CONVENTIONS, write_export, write_mixed
from tests.test_end_to_end import project_copy, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.xdist_group("sources")]

SETTINGS = {"NHANES table": "source.id_columns=[cycle,seqn]"}


def written(form: str, folder: Path, shared_data: Path) -> Path:
    if form == "NHANES folder":
        return shared_data / "nhanes" / "raw"
    if form == "NHANES table":
        return shared_data / "nhanes" / "nhanes_adults.csv.gz"
    if form == "mixed":
        write_mixed(folder, 2000, columns=120)
        return folder
    return write_export(folder / "ukb", CONVENTIONS[form], 2000, columns=120)


@pytest.mark.parametrize("form", [*CONVENTIONS, "mixed", "NHANES folder", "NHANES table"])
def test_validate_and_train_on(form: str, tmp_path: Path, shared_data: Path) -> None:
    project = project_copy(tmp_path / "project")
    data = written(form, tmp_path / "export", shared_data)
    options = ["-P", "profile=smoke", "-P", f"data={data}"]
    if form in SETTINGS:
        options += ["-P", f"overrides={SETTINGS[form]}"]
    for stage in ("validate", "train"):
        done = run(project, "mlflow", "run", ".", "-e", stage, "--env-manager", "local", *options)
        assert done.returncode == 0, f"{stage}: {done.stderr[-4000:]}"
    assert "Registered henaw version 1 (challenger, champion)" in done.stdout
