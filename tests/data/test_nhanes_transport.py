"""Transport files: every number survives, and what is damaged is refused."""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from henaw.data.nhanes_transport import read_transport
from henaw.errors import BadInput
from tests.data.nhanes_files import ibm_float, transport

NUMBERS = st.floats(min_value=1e-60, max_value=1e60) | st.floats(min_value=-1e60, max_value=-1e-60) | st.just(0.0)
TABLE = {"SEQN": [101, 102, 103], "LBXCRP": [0.02, None, 1.5], "NOTE$": ["abc", "d", ""]}


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transport") / "A.xpt"


@given(st.lists(NUMBERS | st.none(), min_size=1, max_size=20))
def test_every_number_comes_back_to_the_last_bit(file: Path, values: list[float | None]) -> None:
    put(file, transport({"SEQN": range(1, len(values) + 1), "X": values}))
    found = read_transport(file, ["X"])
    np.testing.assert_array_equal(found["X"], np.array(values, dtype=np.float64))
    assert found.index.tolist() == list(range(1, len(values) + 1))


def test_known_bytes() -> None:
    assert ibm_float(1.0).hex() == "4110000000000000"
    assert ibm_float(-118.625).hex() == "c276a00000000000"
    assert ibm_float(None).hex() == "2e00000000000000"


def test_all_missing_codes_are_missing_and_a_zero_is_none(tmp_path: Path) -> None:
    codes = [None, "_", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    values = [*codes, 0.0, 16.0]
    found = read_transport(put(tmp_path / "a.xpt", transport({"SEQN": range(1, len(values) + 1), "X": values})), ["X"])[
        "X"
    ]
    assert found[:-2].isna().all()
    assert found[-2:].tolist() == [0.0, 16.0]


def test_numbers_may_be_shorter_than_eight_bytes(tmp_path: Path) -> None:
    columns = {"SEQN": [7, 8], "A": [0.5, None], "B": [-3, 1e6], "C": [1 / 3, 2]}
    found = read_transport(
        put(tmp_path / "a.xpt", transport(columns, {"SEQN": 4, "A": 2, "B": 3, "C": 5})), ["A", "B", "C"]
    )
    assert found.index.tolist() == [7, 8]
    assert found["B"].tolist() == [-3, 1e6]
    assert found["A"][7] == 0.5
    assert math.isnan(found["A"][8])
    assert found["C"][7] == pytest.approx(1 / 3, abs=1e-9)


@pytest.mark.parametrize("rows", range(1, 12))
def test_blanks_that_fill_the_last_card_are_no_rows(tmp_path: Path, rows: int) -> None:
    path = put(tmp_path / "a.xpt", transport({"SEQN": range(1, rows + 1), "X": [0.0] * rows}))
    assert len(read_transport(path, ["X"])) == rows


def test_the_shared_files_read_as_pandas_reads_them_but_for_zeros(shared_data: Path) -> None:
    compared = zeros = 0
    for path in sorted((shared_data / "nhanes" / "raw").rglob("*.xpt")):
        expected = pd.read_sas(path, format="xport").set_index("SEQN")
        found = read_transport(path, list(expected))
        tiny = expected.abs() < 1e-70
        assert (found.to_numpy()[tiny.to_numpy()] == 0).all()
        pd.testing.assert_frame_equal(found, expected.mask(tiny, 0.0), check_exact=True, check_index_type=False)
        compared, zeros = compared + expected.size, zeros + int(tiny.to_numpy().sum())
    assert compared > 1_000_000
    assert zeros > 0


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "empty; expected one of NHANES"),
    "csv": (lambda _: b"SEQN,LBXCRP\n1,2\n", "not a SAS transport file"),
    "page": (lambda _: b"\r\n<!DOCTYPE html><html></html>", "a web page; expected a SAS transport file"),
    "version 8": (lambda whole: whole.replace(b"LIBRARY ", b"LIBV8   ", 1), "version 8; expected version 5"),
    "header cut": (lambda whole: whole[:500], "cut short or damaged in its header"),
    "variables cut": (lambda whole: whole[:800], "cut short or damaged in its header"),
    "no count": (lambda whole: whole.replace(b"!!0000000015", b"!!00000000xx"), "cut short or damaged in its header"),
    "row cut": (lambda whole: whole[:-30], "cut short within a row"),
    "card cut": (lambda whole: whole[:-80], "cut short within a row"),
    "no rows": (lambda _: transport({name: [] for name in TABLE}), "no rows; expected one a respondent"),
    "twice": (lambda _: transport({**TABLE, "SEQN": [101, 101, 102]}), "1 of 3 rows repeat a SEQN"),
    "nobody": (lambda _: transport({**TABLE, "SEQN": [101, None, 102.5]}), "2 of 3 rows have no respondent's number"),
    "other": (lambda _: transport({"SEQN": [1], "LBXHSCRP": [1]}), "no numeric variable LBXCRP"),
    "text": (lambda _: transport({"SEQN": [1], "LBXCRP$": ["abc"]}), "no numeric variable LBXCRP"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    change, words = DAMAGES[damage]
    wide = {**TABLE, **{f"V{number}": [1.5, 2.5, 3.5] for number in range(12)}}
    path = put(tmp_path / "CRP_F.xpt", change(transport(wide)))
    with pytest.raises(BadInput) as caught:
        read_transport(path, ["LBXCRP"])
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert words in text
    assert "\n" not in text


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is a folder; expected a SAS transport file"):
        read_transport(tmp_path, [])
    with pytest.raises(BadInput, match=r"none.xpt: no such file"):
        read_transport(tmp_path / "none.xpt", [])


@given(st.binary(max_size=300), st.integers(0, 1500))
def test_whatever_is_overwritten_it_is_read_or_refused(file: Path, noise: bytes, at: int) -> None:
    whole = transport(TABLE)
    put(file, whole[:at] + noise + whole[at + len(noise) :])
    with suppress(BadInput):
        read_transport(file, ["LBXCRP"])
