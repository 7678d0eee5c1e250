"""A file of rows becomes a file of answers: the same answers, in order, in bounded memory, or nothing at all."""

import gzip
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from henaw.console import ProgressLine
from henaw.errors import BadInput, EnvironmentProblem
from henaw.model.answers import NUMBERS, QUANTILE_COLUMNS, RISKS, answer, output_columns
from henaw.serving import score
from henaw.serving.score import score_file
from tests.conftest import REPOSITORY
from tests.scenarios import blood_clock, blood_rows

CLOCK = blood_clock()
OUTPUTS = output_columns("age")
SECRET = "1987.25"  # planted in every broken file: no message may show it
SUFFIXES = (".csv", ".csv.gz", ".parquet")


def some_rows(people: int = 40) -> pd.DataFrame:
    """Rows of every status, with columns the model does not know."""
    rows = blood_rows(people, 0)
    rows.loc[3::10, "crp_mg_l"] = 9999
    rows.loc[4::10, "rdw_pct"] = np.nan
    rows.loc[5::10, "sex"] = None
    rows.loc[6::10, "hba1c_mmol_mol"] = 150.0
    return rows.assign(sample=[f"00{number}" for number in range(people)], note=['a,"b"\nc'] * people)


def put(rows: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        rows.to_parquet(path, index=False)
    else:
        rows.to_csv(path, index=False)
    return path


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, dtype={"status": str, "flags": str, "sample": str}, keep_default_na=False, na_values=[""])


def scored(
    source: Path, target: Path, *, coverage: float = 0.9, quantiles: bool = False, keep: tuple[str, ...] = ()
) -> int:
    return score_file(CLOCK, source, target, coverage=coverage, quantiles=quantiles, keep=keep, progress=ProgressLine())


def refusal(source: Path, target: Path, **settings: object) -> str:
    """The one line that is said; nothing of the input is in it and nothing is left where the target would be."""
    before = sorted(target.parent.iterdir()) if target.parent.is_dir() else None
    with pytest.raises(BadInput) as raised:
        scored(source, target, **settings)  # type: ignore[arg-type]
    message = str(raised.value)
    assert raised.value.exit_code == 2
    assert "\n" not in message
    assert SECRET not in message
    assert (sorted(target.parent.iterdir()) if target.parent.is_dir() else None) == before
    return message


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_as", SUFFIXES)
@pytest.mark.parametrize("written_as", SUFFIXES)
def test_every_format_holds_the_answers_of_answer_in_order(tmp_path: Path, read_as: str, written_as: str) -> None:
    rows = some_rows()
    target = tmp_path / f"answers{written_as}"
    assert scored(put(rows, tmp_path / f"rows{read_as}"), target, coverage=0.8, quantiles=True) == len(rows)
    found, expected = read(target), answer(CLOCK, rows, 0.8, quantiles=True)
    assert tuple(found.columns) == (*OUTPUTS, *QUANTILE_COLUMNS)
    assert found["status"].tolist() == expected["status"].tolist()
    assert found["flags"].fillna("").tolist() == expected["flags"].tolist()
    assert set(expected["status"]) == {"ok", "warn", "abstain"}
    for name in (*NUMBERS, *QUANTILE_COLUMNS):
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(found[name], expected[name].astype(float), rtol=1e-12, err_msg=name)


def test_without_quantiles_the_columns_are_the_models_outputs(tmp_path: Path) -> None:
    scored(put(some_rows(), tmp_path / "rows.csv"), tmp_path / "answers.csv")
    assert (tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()[0].replace('"', "").split(",") == list(
        OUTPUTS
    )


def test_the_quantiles_hold_the_interval(tmp_path: Path) -> None:
    scored(put(some_rows(), tmp_path / "rows.csv"), tmp_path / "answers.csv", coverage=0.9, quantiles=True)
    found = read(tmp_path / "answers.csv").dropna(subset="q05")
    np.testing.assert_allclose(found["q05"], found["lower_years"], atol=1e-9)
    np.testing.assert_allclose(found["q95"], found["upper_years"], atol=1e-9)
    np.testing.assert_allclose(found["q50"], found["biological_age_years"], atol=1e-9)


def test_a_row_that_abstains_has_empty_cells_and_not_nan(tmp_path: Path) -> None:
    rows = some_rows().iloc[[3]]
    scored(put(rows, tmp_path / "rows.csv"), tmp_path / "answers.csv")
    line = (tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()[1].replace('"', "")
    assert line == ",,,,,,,,abstain,implausible:crp_mg_l"
    scored(tmp_path / "rows.csv", tmp_path / "answers.parquet")
    column = pq.read_table(tmp_path / "answers.parquet")["biological_age_years"]
    assert (column.type, column.null_count) == (pa.float64(), 1)


@pytest.mark.parametrize("read_as", SUFFIXES)
@pytest.mark.parametrize("pieces", [1, 7, 64])
def test_pieces_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_as: str, pieces: int) -> None:
    """Rows of one status in one piece, and all of another in the next, still make one table."""
    rows = some_rows(100).sort_values("sex", na_position="last", ignore_index=True)
    source = put(rows, tmp_path / f"rows{read_as}")
    scored(source, tmp_path / "whole.parquet", keep=("sample",))
    monkeypatch.setattr(score, "_ANSWERED_AT_ONCE", pieces)
    assert scored(source, tmp_path / "pieces.parquet", keep=("sample",)) == 100
    whole, found = read(tmp_path / "whole.parquet"), read(tmp_path / "pieces.parquet")
    assert found["sample"].tolist() == rows["sample"].tolist()
    pd.testing.assert_frame_equal(found, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("written_as", SUFFIXES)
def test_the_mortality_clocks_risks_are_in_the_file(tmp_path: Path, written_as: str) -> None:
    clock, rows, target = blood_clock(target="mortality"), some_rows(), tmp_path / f"answers{written_as}"
    source = put(rows, tmp_path / "rows.csv")
    assert score_file(clock, source, target, coverage=0.9, progress=ProgressLine()) == len(rows)
    found, expected = read(target), answer(clock, rows, 0.9)
    assert tuple(found.columns) == output_columns("mortality")
    for name in RISKS:
        np.testing.assert_allclose(found[name], expected[name].astype(float), rtol=1e-12)
        np.testing.assert_array_equal(found[name].isna(), expected["status"] == "abstain")
    with pytest.raises(BadInput, match=r"^keep: risk_5y is the name"):
        score_file(clock, source, target, coverage=0.9, keep=("risk_5y",), progress=ProgressLine())


# --- columns that are kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written_as", SUFFIXES)
def test_kept_columns_come_as_they_were(tmp_path: Path, written_as: str) -> None:
    """Text keeps its leading zeros, commas, quotation marks and line ends; the model's numbers stay numbers."""
    rows, target = some_rows(), tmp_path / f"answers{written_as}"
    scored(put(rows, tmp_path / "rows.csv"), target, keep=("sample", "age_years", "sex", "note", "sample", "rdw_pct"))
    found = read(target)
    assert found.columns.tolist()[:6] == ["sample", "age_years", "sex", "note", "rdw_pct", OUTPUTS[0]]
    for name in ("sample", "note"):
        assert found[name].tolist() == rows[name].tolist()
    assert found["sex"].fillna("?").tolist() == rows["sex"].fillna("?").tolist()
    for name in ("age_years", "rdw_pct"):
        np.testing.assert_array_equal(found[name], rows[name])


def test_numbers_that_the_model_does_not_know_are_kept_as_their_digits(tmp_path: Path) -> None:
    rows = some_rows(3).assign(count=[1, 2, 2**60])
    scored(put(rows, tmp_path / "rows.parquet"), tmp_path / "answers.csv", keep=("count",))
    cells = [line.split(",")[0].strip('"') for line in (tmp_path / "answers.csv").read_text().splitlines()]
    assert cells == ["count", "1", "2", str(2**60)]


def test_a_kept_column_may_not_have_the_name_of_an_answer(tmp_path: Path) -> None:
    source = put(some_rows().assign(status="x", q07=1), tmp_path / "rows.csv")
    assert refusal(source, tmp_path / "a.csv", keep=("sample", "status")).startswith("keep: status is the name")
    assert refusal(source, tmp_path / "a.csv", keep=("q07",), quantiles=True).startswith("keep: q07 is the name")
    assert scored(source, tmp_path / "a.csv", keep=("q07",)) == 40


def test_a_kept_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    message = refusal(put(some_rows(), tmp_path / "rows.csv"), tmp_path / "a.csv", keep=("sampel",))
    assert message.startswith(f"{tmp_path / 'rows.csv'}: no column sampel (nearest: sample)")


# --- bad input -------------------------------------------------------------------------------------------------------


def broken(tmp_path: Path, what: str) -> Path:
    rows, path = some_rows(), tmp_path / "rows.csv"
    if what == "no such file":
        return tmp_path / "nothing.csv"
    if what == "empty":
        path.touch()
        return path
    if what == "header alone":
        return put(rows[:0], path)
    if what == "column missing":
        return put(rows.drop(columns="crp_mg_l"), path)
    if what == "text in a number":
        return put(rows.astype({"crp_mg_l": object}).assign(crp_mg_l=[*["1"] * 39, f"<{SECRET}"]), path)
    if what == "text in an age":
        return put(rows.astype({"age_years": object}).assign(age_years=[*["60"] * 39, f"{SECRET} y"]), path)
    if what == "a row too short":
        path.write_text(put(rows, path).read_text(encoding="utf-8") + f"{SECRET},1\n", encoding="utf-8")
        return path
    if what == "another ending":
        return put(rows, tmp_path / "rows.xlsx")
    if what == "gzip cut short":
        gz = tmp_path / "rows.csv.gz"
        gz.write_bytes(gzip.compress(rows.to_csv(index=False).encode())[:-20])
        return gz
    if what == "no parquet":
        bad = tmp_path / "rows.parquet"
        bad.write_text(SECRET, encoding="utf-8")
        return bad
    assert what == "a folder"
    (tmp_path / "folder.csv").mkdir()
    return tmp_path / "folder.csv"


BROKEN = {
    "no such file": "no such file",
    "empty": "is empty",
    "header alone": "no rows after the header",
    "column missing": "no column crp_mg_l",
    "text in a number": "not a number in column crp_mg_l (1 rows); the first in row 40",
    "text in an age": "not a number in column age_years (1 rows); the first in row 40",
    "a row too short": "more or fewer fields than the header",
    "another ending": "unknown kind of file",
    "gzip cut short": "rows.csv.gz: ",
    "no parquet": "not a Parquet file",
    "a folder": "is a folder",
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_bad_input_is_one_line_and_leaves_the_target_as_it_was(tmp_path: Path, what: str, existing: bool) -> None:
    source, target = broken(tmp_path, what), tmp_path / "out" / "answers.csv"
    target.parent.mkdir()
    if existing:
        target.write_text("answers of yesterday", encoding="utf-8")
    message = refusal(source, target)
    assert message.startswith(f"{source}: ")
    assert BROKEN[what] in message
    assert target.exists() == existing
    if existing:
        assert target.read_text(encoding="utf-8") == "answers of yesterday"


def test_a_fault_after_pieces_were_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "_ANSWERED_AT_ONCE", 3)
    calls = iter(range(100))

    def fail(*arguments: object, **settings: object) -> pd.DataFrame:
        if next(calls) == 5:
            raise BadInput("column crp_mg_l: expected numbers")
        return answer(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(score, "answer", fail)
    refusal(put(some_rows(), tmp_path / "rows.csv"), tmp_path / "answers.parquet")
    assert next(calls) == 6


@pytest.mark.parametrize("name", ["answers.txt", "answers", "answers.csv.zip", "answers.json"])
def test_an_output_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    message = refusal(put(some_rows(), tmp_path / "rows.csv"), tmp_path / name)
    assert message.endswith("expected an output name that ends in .csv, .csv.gz, .parquet")


def test_an_output_without_folder_is_refused(tmp_path: Path) -> None:
    message = refusal(put(some_rows(), tmp_path / "rows.csv"), tmp_path / "nowhere" / "answers.csv")
    assert message == f"{tmp_path / 'nowhere' / 'answers.csv'}: its folder does not exist"


def test_the_input_is_never_written_over(tmp_path: Path) -> None:
    source = put(some_rows(), tmp_path / "rows.csv")
    before = source.read_bytes()
    link = tmp_path / "link.csv"
    link.symlink_to(source)
    for target in (source, link):
        assert refusal(source, target).endswith("is the input; expected another file")
    (tmp_path / "folder.csv").mkdir()
    assert refusal(source, tmp_path / "folder.csv").endswith("is a folder; expected another file")
    assert source.read_bytes() == before


@pytest.mark.parametrize("coverage", [0, 1, -1, 90, float("nan")])
def test_an_impossible_coverage_is_refused_before_anything_is_read(tmp_path: Path, coverage: float) -> None:
    assert refusal(tmp_path / "nothing.csv", tmp_path / "a.csv", coverage=coverage).startswith("coverage: ")


def test_a_full_disk_is_an_environment_problem_and_leaves_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = put(some_rows(), tmp_path / "rows.csv"), tmp_path / "answers.csv"
    target.write_text("answers of yesterday", encoding="utf-8")

    def full(*_: object, **__: object) -> io.BytesIO:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa, "output_stream", full)
    with pytest.raises(EnvironmentProblem, match="No space left on device") as raised:
        scored(source, target)
    assert raised.value.exit_code == 3
    assert target.read_text(encoding="utf-8") == "answers of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "rows.csv"]


def test_answers_are_for_their_owner_alone_and_replace_older_ones(tmp_path: Path) -> None:
    target = tmp_path / "answers.csv"
    target.write_text("answers of yesterday", encoding="utf-8")
    target.chmod(0o644)
    scored(put(some_rows(), tmp_path / "rows.csv"), target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert len(read(target)) == 40


# --- memory ----------------------------------------------------------------------------------------------------------


PROGRAM = """
import re, sys
from pathlib import Path
from henaw.console import ProgressLine
from henaw.serving.score import score_file
from tests.scenarios import blood_clock, blood_rows
from henaw.model.answers import answer

def peak():  # of this process alone; ru_maxrss would begin with that of the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

clock = blood_clock()
answer(clock, blood_rows(100, 0), 0.9)
before = peak()
rows = score_file(clock, Path(sys.argv[1]), Path(sys.argv[2]), coverage=0.9, progress=ProgressLine())
print(rows, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize("few", [20_000, pytest.param(70_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, few: int) -> None:
    """The peak of a process that scores eight times the rows; what grew with the file would be eight times as much."""
    grown = []
    for people in (few, 8 * few):
        source = tmp_path / f"rows{people}.parquet"
        pd.concat([some_rows(10_000)] * (people // 10_000)).to_parquet(source, index=False, row_group_size=few)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(source), str(tmp_path / "answers.parquet")],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        rows, kilobytes = map(int, done.stdout.split())
        assert rows == people
        grown.append(kilobytes)
    assert grown[1] < 3 * grown[0]
