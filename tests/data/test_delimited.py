"""The cells found are those that Python's csv module finds, wherever blocks end."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from henaw.data import delimited
from henaw.data.delimited import delimited_batches
from henaw.data.text_index import WORD, places_of
from henaw.errors import BadInput

CELLS = st.text(alphabet='ab,;"\n\t é', max_size=6) | st.sampled_from(["", "NA", "1.5", '"', '""', ",", "x" * 70])


def write(rows: list[list[str]], *, delimiter: str, ending: str, quote_all: bool, end: bool) -> bytes:
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=delimiter, lineterminator=ending, quoting=quoting).writerows(rows)
    return (text.getvalue() if end else text.getvalue().removesuffix(ending)).encode()


def read(path: Path, columns: list[str], delimiter: str = ",") -> list[list[str]]:
    batches = list(delimited_batches(path, delimiter, columns, gzipped=path.suffix == ".gz"))
    return [[cell for batch in batches for cell in batch.column(name).to_pylist()] for name in columns]


@settings(max_examples=100)
@given(data=st.data())
def test_cells_are_those_of_the_csv_module(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    width = data.draw(st.integers(2, 9) | st.just(200))
    drawn = data.draw(st.lists(st.lists(CELLS, min_size=2, max_size=9), min_size=1, max_size=8))
    rows = [(row * width)[:width] for row in drawn]
    header = [f"c{number}" for number in range(width)]
    form = {
        "delimiter": data.draw(st.sampled_from(",\t")),
        "ending": data.draw(st.sampled_from(["\n", "\r\n"])),
        "quote_all": data.draw(st.booleans()),
        "end": data.draw(st.booleans()),
    }
    content = write([header, *rows], **form)
    path = tmp_path_factory.getbasetemp() / ("t.csv.gz" if data.draw(st.booleans()) else "t.csv")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    wanted = data.draw(st.permutations(range(width)).map(lambda order: list(order[: min(width, 5)])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "_BLOCK_BYTES", data.draw(st.sampled_from([4 * WORD, 8 * WORD, 1 << 20])))
        patch.setattr(delimited, "_BATCH_ROWS", data.draw(st.integers(1, 4)))
        found = read(path, [header[column] for column in wanted], form["delimiter"])
    oracle = list(csv.reader(io.StringIO(content.decode(), newline=""), delimiter=form["delimiter"]))[1:]
    assert found == [[row[column] for row in oracle] for column in wanted]


@pytest.mark.parametrize("blocks", [4 * WORD, 1 << 20])
def test_ragged_lines_are_counted_and_the_first_is_named(
    tmp_path: Path, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", blocks)
    lines = ["a,b,c", *["1,2,3"] * 40, '"1\n1",2,3', "", "1,2", *["1,2,3"] * 40, "1,2,3,4", '"1,2",3']
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(BadInput, match=r"t.csv: 3 rows have more or fewer .* \(line 45: 2, expected 3\)$"):
        read(tmp_path / "t.csv", ["a"])


def test_one_more_field_does_not_make_up_for_one_fewer(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b,c\n1,2,3,4\n1,2\n"1,1",2\n')
    with pytest.raises(BadInput, match=r"3 rows have more or fewer"):
        read(tmp_path / "t.csv", ["a"])


def test_lines_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", 4 * WORD)
    rows = [[str(number), "x" * size, str(size)] for number, size in enumerate([1, 5000, 3, 100, 20_000, 0])]
    (tmp_path / "t.csv").write_bytes(
        write([["a", "b", "c"], *rows], delimiter=",", ending="\n", quote_all=False, end=True)
    )
    assert read(tmp_path / "t.csv", ["c", "b", "a"]) == [[row[column] for row in rows] for column in (2, 1, 0)]


def test_a_file_whose_header_alone_is_read_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 500_000))
    batches = delimited_batches(tmp_path / "t.csv.gz", ",", ["b"], gzipped=True)
    assert next(batches).num_rows >= 65_536
    batches.close()  # ResourceWarning is an error


def test_a_line_feed_is_missing_in_a_long_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"name," * 1_000_000)
    with pytest.raises(BadInput, match="a header of more than 4 MiB"):
        read(tmp_path / "t.csv", ["name"])


@given(places=st.sets(st.integers(0, 10 * WORD - 1)))
def test_places_of_bits(places: set[int]) -> None:
    mask = np.zeros(10 * WORD, np.bool_)
    mask[sorted(places)] = True
    bits = np.packbits(mask, bitorder="little").view(np.uint64)
    assert places_of(bits).tolist() == sorted(places)
