"""What can be read is read exactly; what a person can get wrong ends in one clear line that shows no cell."""

import gzip
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from henaw.data.table import MISSING, read_table, scan_table, table_columns
from henaw.errors import BadInput

HEADER = "participant_id,age_years,sex,crp_mg_l\n"
GOOD = HEADER + "S01,63,female,1.5\nS02,41.25,male,\n"
SECRET = "987.654"  # planted in every broken file: no message may show it


def read(path: Path) -> pd.DataFrame:
    return read_table(path, numbers=["age_years", "crp_mg_l"], texts=["participant_id", "sex"])


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def expected() -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "age_years": [63.0, 41.25],
            "crp_mg_l": [1.5, np.nan],
            "participant_id": ["S01", "S02"],
            "sex": ["female", "male"],
        }
    )
    return frame.astype({"participant_id": "str", "sex": "str"})


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("t.csv", str.encode),
        ("T.CSV", str.encode),
        ("t.csv.gz", lambda text: gzip.compress(text.encode())),
        ("members.csv.gz", lambda text: gzip.compress(text[:50].encode()) + gzip.compress(text[50:].encode())),
        ("t.tsv", lambda text: text.replace(",", "\t").encode()),
        ("t.tab", lambda text: text.replace(",", "\t").encode()),
        ("t.txt", lambda text: text.replace(",", "\t").encode()),
        ("t.tsv.gz", lambda text: gzip.compress(text.replace(",", "\t").encode())),
        ("bom.csv", lambda text: b"\xef\xbb\xbf" + text.encode()),
        ("crlf.csv", lambda text: text.replace("\n", "\r\n").encode()),
        ("unterminated.csv", lambda text: text.rstrip("\n").encode()),
        ("quoted.csv", lambda text: text.replace("S01", '"S01"').replace("63", '" 63 "').encode()),
        ("blank line.csv", lambda text: (text + "\n\n").encode()),
    ],
)
def test_every_form_gives_the_same_table(tmp_path: Path, name: str, encode: Callable[[str], bytes]) -> None:
    found = read(put(tmp_path / name, encode(GOOD)))
    pd.testing.assert_frame_equal(found, expected(), check_exact=True)


@pytest.mark.parametrize("ids", [pa.array(["S01", "S02"]), pa.array(["S01", "S02"]).dictionary_encode()])
def test_parquet_gives_the_same_table(tmp_path: Path, ids: pa.Array) -> None:
    table = pa.table(
        {
            "unused": [[1], [2]],
            "participant_id": ids,
            "age_years": pa.array([63, 41.25], pa.float32()),
            "sex": pa.array(["female", "male"], pa.large_string()),
            "crp_mg_l": ["1.5", "NA"],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read(tmp_path / "t.parquet"), expected(), check_exact=True)


def test_parquet_numbers_of_every_kind(tmp_path: Path) -> None:
    kinds = [pa.int8(), pa.uint64(), pa.float32(), pa.float64(), pa.decimal128(25, 2), pa.bool_()]
    table = pa.table({str(kind): pa.array([0, 1, None]).cast(kind) for kind in kinds} | {"null": pa.nulls(3)})
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet", numbers=table.column_names)
    assert (found.dtypes == np.float64).all()
    for name in table.column_names:
        np.testing.assert_array_equal(found[name], [np.nan] * 3 if name == "null" else [0, 1, np.nan])


def test_parquet_numbers_read_as_text_are_their_digits(tmp_path: Path) -> None:
    pq.write_table(pa.table({"whole": [7, None], "float": [7.0, np.nan]}), tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet", numbers=[], texts=["whole", "float"])
    assert found["whole"][0] == found["float"][0] == "7"
    assert found.isna().loc[1].all()


def test_leading_zeros_and_case_of_text_survive(tmp_path: Path) -> None:
    path = put(tmp_path / "t.csv", "id,x\n007,1\nAb,2\n7,3\n")
    assert read_table(path, numbers=["x"], texts=["id"])["id"].tolist() == ["007", "Ab", "7"]


@pytest.mark.parametrize("word", [*MISSING, "  ", " NA "])
def test_missing_words(tmp_path: Path, word: str) -> None:
    assert np.isnan(read(put(tmp_path / "t.csv", GOOD.replace("1.5", word)))["crp_mg_l"][0])


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_numbers_survive_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = put(tmp_path_factory.getbasetemp() / "t.csv", "x,y\n" + "".join(f"{value!r},\n" for value in values))
    assert read_table(path, numbers=["x"])["x"].tolist() == values


@pytest.mark.parametrize("word", ["1e5", "1E+5", "100000.", "+100000", "1e05", "0100000"])
def test_notations_of_a_number(tmp_path: Path, word: str) -> None:
    assert read(put(tmp_path / "t.csv", GOOD.replace("1.5", word)))["crp_mg_l"][0] == 1e5


def test_what_was_not_asked_for_is_not_judged(tmp_path: Path) -> None:
    path = put(tmp_path / "t.csv", 'note,x,note 2\n"a, ""b""\nc",1,<5\n1,2,é\n')
    assert read_table(path, numbers=["x"])["x"].tolist() == [1.0, 2.0]


def test_optional_columns_may_be_absent(tmp_path: Path) -> None:
    path = put(tmp_path / "t.csv", "x,y\n1,2\n")
    assert list(read_table(path, numbers=["x", "y", "z"], optional=["y", "z"]).columns) == ["x", "y"]


def test_batches_keep_order_and_bound_memory(tmp_path: Path) -> None:
    rows = 1_000_000
    numbers = np.arange(rows)
    path = tmp_path / "t.csv"
    pd.DataFrame({"x": numbers, "unused": "u" * 30}).to_csv(path, index=False)
    pq.write_table(pa.table({"x": numbers}), tmp_path / "t.parquet")
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    for each in (path, tmp_path / "t.parquet"):
        position = 0
        for batch in scan_table(each, numbers=["x"]):
            assert len(batch) < rows / 3
            np.testing.assert_array_equal(batch["x"], numbers[position : position + len(batch)])
            position += len(batch)
            assert pa.total_allocated_bytes() - before < 64 << 20
        assert position == rows
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


BAD_FILES: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("t.csv", "", "is empty; expected a header and rows"),
    "empty gzip": ("t.csv.gz", gzip.compress(b""), "is empty or starts with an empty line"),
    "only an end of line": ("t.csv", "\n", "is empty or starts with an empty line"),
    "only a BOM": ("t.csv", b"\xef\xbb\xbf", "is empty or starts with an empty line"),
    "header only": ("t.csv", HEADER, "no rows after the header"),
    "header only, unterminated": ("t.csv", HEADER.strip(), "no rows after the header"),
    "no header": ("t.csv", f"7,{SECRET},male,1.5\n8,63,male,2\n", "first line holds numbers; expected the names"),
    "semicolons": (
        "t.csv",
        GOOD.replace(",", ";"),
        "separated by ';'; expected ',' (.csv: commas, .tsv and .tab: tabs)",
    ),
    "semicolons, quoted": ("t.csv", '"a";"b"\n"1";"2"\n', "separated by ';'; expected ','"),
    "commas in a .tsv, quoted": ("t.tsv", '"a","b""c"\n1,2\n', "separated by ','; expected '\\t'"),
    "no header, few values": ("t.csv", f"S03,,,,,{SECRET},{SECRET},,,\n" * 3, "first line holds numbers"),
    "no header, dates": ("t.csv", "S03,1987-06-54,2008-01-01,2009-01-01,male\n" * 3, "first line holds numbers"),
    "no header, texts": ("t.csv", f"a,b{SECRET},b{SECRET},c,c\n" * 3, "columns 2 and 3 have the same name, and 1 "
                         "more names occur twice; expected each name once"),
    "tabs in a .csv": ("t.csv", GOOD.replace(",", "\t"), "columns separated by '\\t'; expected ','"),
    "commas in a .tsv": ("t.tsv", GOOD, "columns separated by ','; expected '\\t'"),
    "UTF-16": ("t.csv", GOOD.encode("utf-16"), "is UTF-16 or not text at all; expected text in UTF-8"),
    "UTF-16 without BOM": ("t.csv", GOOD.encode("utf-16-le"), "is UTF-16 or not text at all"),
    "Latin-1 header": ("t.csv", (HEADER.strip() + ",ä\n").encode("latin-1"), "is not UTF-8; expected text in UTF-8"),
    "Latin-1 cell": ("t.csv", GOOD.replace("S02", "Sä").encode("latin-1"), "is not UTF-8; expected text in UTF-8"),
    "too few fields": ("t.csv", GOOD + f"S03,{SECRET}\nS04\n", "2 rows have more or fewer fields than the header "
                       "(line 4: 2, expected 4)"),
    "too many fields": ("t.csv", GOOD + f"S03,63,male,{SECRET},1\n", "1 rows have more or fewer fields than the header "
                        "(line 4: 5, expected 4)"),
    "decimal comma, unquoted": ("t.csv", GOOD.replace("1.5", "987,654"), "1 rows have more or fewer fields"),
    "decimal comma": ("t.csv", GOOD.replace("1.5", '"987,654"'), "not a number in column crp_mg_l (1 rows); the first "
                      "in row 1 after the header, column crp_mg_l: a decimal comma; expected a point"),
    "below detection": ("t.csv", GOOD + f"S03,63,male,<{SECRET}\n", "the first in row 3 after the header, column "
                        "crp_mg_l: a limit like '<' or '>'; expected a number or an empty cell"),
    "text in a number": ("t.csv", GOOD + f"S03,{SECRET}x,male,\n" * 7, "not a number in column age_years (7 rows); the "
                         "first in row 3 after the header, column age_years: text; expected a number"),
    "faults in two columns": ("t.csv", GOOD + f"S03,1,male,{SECRET}x\nS04,{SECRET}y,male,?\n",
                              "in column age_years (1 rows), crp_mg_l (2 rows); the first"),
    "infinite": ("t.csv", GOOD.replace("1.5", "-Inf"), "column crp_mg_l: not finite; expected a number"),
    "too large for a number": ("t.csv", GOOD.replace("1.5", "987.654e999"), "column crp_mg_l: not finite"),
    "a date in a number": ("t.csv", GOOD.replace("1.5", "1987-06-54"), "column crp_mg_l: text; expected a number"),
    "hexadecimal": ("t.csv", GOOD.replace("1.5", "0x10"), "not a number in column crp_mg_l"),
    "thousands": ("t.csv", GOOD.replace("1.5", "1_000"), "not a number in column crp_mg_l"),
    "missing column": ("t.csv", GOOD.replace("crp_mg_l", "crp_mg_dl"), "no column crp_mg_l (nearest: crp_mg_dl); "
                       "expected the participant table's names, with their units"),
    "repeated column": ("t.csv", GOOD.replace("sex", "crp_mg_l"), "columns 3 and 4 have the same name; expected"),
    "open quotation at the end": ("t.csv", GOOD + f'S03,63,male,"{SECRET}\n' + "S04,63,male,1\n" * 9,
                                  "a quotation mark is opened and never closed"),
    "open quotation in the middle": ("t.csv", GOOD + f'"S03,63,male,{SECRET}\nS04,63,male,1\n',
                                     "a quotation mark is opened and never closed"),
    "stray quotation marks": ("t.csv", GOOD + f'S03,6"3,male,1\nS04,63,male,{SECRET}"\n', "1 rows have more or fewer "
                              "fields than the header (line 4: 2, expected 4)"),
    "carriage returns alone": ("t.csv", GOOD.replace("\n", "\r"), "lines end in a carriage return alone"),
    "open quotation in the header": ("t.csv", 'a,"b\n', "header with a quotation mark that is not closed"),
    "endless line": ("t.csv", HEADER + "x" * (18 << 20), "a line of more than 8 MiB, or a quotation mark"),
    "gzip cut short": ("t.csv.gz", gzip.compress(GOOD.encode() * 9)[:-12], "gzip file is cut short"),
    "gzip without its end": ("t.csv.gz", gzip.compress(GOOD.encode())[:-4], "gzip file is cut short"),
    "gzip damaged": ("t.csv.gz", gzip.compress(GOOD.encode())[:-8] + b"\0" * 8, "not a gzip file, or a damaged one"),
    "not gzip": ("t.csv.gz", GOOD, "not a gzip file, or a damaged one"),
    "gzip under another name": ("t.csv", gzip.compress(GOOD.encode()), "is compressed; expected plain text, or a name"),
    "a zip archive": ("t.csv", b"PK\x03\x04\x14\0\0\0", "is UTF-16 or not text at all"),
    "not Parquet": ("t.parquet", GOOD, "not a Parquet file, or a damaged one"),
    "unknown kind": ("t.xlsx", GOOD, "unknown kind of file; expected a file whose name ends in .csv, .csv.gz"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_one_clear_line_without_any_cell(tmp_path: Path, case: str) -> None:
    name, content, message = BAD_FILES[case]
    path = put(tmp_path / name, content)
    with pytest.raises(BadInput) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "\n" not in text
    for cell in (SECRET, "987", "654", "S03", "63"):
        assert cell not in text.removeprefix(str(path))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_faults_are_counted_over_the_whole_file_though_batches_have_gone_out(tmp_path: Path) -> None:
    good = "1.25\n" * 1_000_000  # 5 MB: more than one batch
    path = put(tmp_path / "t.csv", "x\n" + good + "?\n" + good + "?\n")
    seen = 0
    with pytest.raises(BadInput, match=r"column x \(2 rows\); the first in row 1000001 after the header"):  # noqa: PT012
        for batch in scan_table(path, numbers=["x"]):
            seen += len(batch)
    assert 0 < seen < 3_000_000


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": np.arange(1000.0)}), path, write_page_checksum=True)
    whole = path.read_bytes()
    flipped = whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]
    for broken in (whole[:-20], whole[:4], b"", flipped):
        put(path, broken)
        with pytest.raises(BadInput, match=r"not a Parquet file, or a damaged one|is empty"):
            read_table(path, numbers=["x"])


def test_parquet_whose_text_is_not_utf_8(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([b"male", b"m\xe4le"]).view(pa.string())}), tmp_path / "t.parquet")
    with pytest.raises(BadInput, match=r"/t.parquet: not a Parquet file, or a damaged one"):
        read_table(tmp_path / "t.parquet", numbers=[], texts=["x"])


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.list_(pa.int8()), pa.binary()])
def test_parquet_columns_of_another_kind(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"x": pa.nulls(3, kind)}), tmp_path / "t.parquet")
    with pytest.raises(BadInput, match=r"column x holds .*; expected numbers"):
        read_table(tmp_path / "t.parquet", numbers=["x"])


def test_parquet_infinity_is_found(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, np.inf, np.nan, -np.inf]}), tmp_path / "t.parquet")
    with pytest.raises(BadInput, match=r"column x \(2 rows\); the first in row 2 .*: not finite"):
        read_table(tmp_path / "t.parquet", numbers=["x"])


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nowhere.csv")
    for name, message in {
        "none.csv": "no such file",
        "dangling.csv": "no such file",
        "folder.csv": "is a folder",
        "fifo.csv": "is a pipe or device",
    }.items():
        with pytest.raises(BadInput, match=f"/{name}: {message}"):
            table_columns(tmp_path / name)
    with pytest.raises(BadInput, match="is a pipe or device"):
        table_columns(Path("/dev/null"))


def test_no_column_of_a_table_on_its_side_is_named(tmp_path: Path) -> None:
    people = ",".join(f"crp_mg_{number}" for number in range(6))
    path = put(tmp_path / "t.csv", f"name,{people}\nage_years,1,2,3,4,5,6\n")
    with pytest.raises(BadInput) as caught:
        read(path)
    assert "no column" in str(caught.value)
    assert "nearest" not in str(caught.value)


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "t.csv", GOOD)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(BadInput, match=r"/t.csv: cannot be read: Permission denied$"):
        table_columns(path)


def test_nhanes_equals_pandas(nhanes_table: Path) -> None:
    numbers = ["age_years", "crp_mg_l", "hba1c_mmol_mol", "died", "creatinine_umol_l"]
    texts = ["sex", "cycle", "seqn", "pregnant"]
    found = read_table(nhanes_table, numbers=numbers, texts=texts)
    oracle = pd.read_csv(nhanes_table, usecols=[*numbers, *texts], dtype=dict.fromkeys(texts, "str"))
    assert len(found) == 48_142
    for name in [*numbers, *texts]:
        pd.testing.assert_series_equal(found[name], oracle[name], check_dtype=False, rtol=1e-15, atol=0)
