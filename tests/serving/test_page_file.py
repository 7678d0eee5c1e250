"""A file of people in a real browser: what leaves it, what comes back, and what is wrong with files."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from henaw.model.answers import answer, input_columns
from tests.scenarios import BLOOD9, blood_rows
from tests.serving.browsing import Browser
from tests.serving.guarded import CLOCK, COLUMNS
from tests.serving.sockets import running
from tests.serving.test_guard import make_key

pytestmark = [pytest.mark.xdist_group("serving"), pytest.mark.slow]


def people_file(path: Path, people: int, **options: Any) -> pd.DataFrame:
    """A file with ids and remarks beside the model's columns."""
    frame = blood_rows(people, seed=2)[list(COLUMNS)[::-1]]
    frame.insert(0, "id", [f'P{number}, "Q"' for number in range(people)])
    frame["remark"] = "Ä; ß\nline"
    frame.to_csv(path, index=False, **options)
    return frame


@pytest.mark.parametrize(
    "form",
    [{}, {"sep": ";", "decimal": ","}, {"sep": "\t", "lineterminator": "\r\n", "encoding": "utf-8-sig"}],
    ids=["comma", "semicolon", "tab"],
)
def test_a_file_comes_back_as_it_was_with_the_answers_after_it(
    page: Browser, tmp_path: Path, form: dict[str, Any]
) -> None:
    path = tmp_path / f"people-{len(form)}.csv"
    frame = people_file(path, 250, **form)
    assert page.choose(path).startswith("Done: 250 rows")
    text = page.download(f"people-{len(form)}-henaw.csv")
    separator, decimal = form.get("sep", ","), form.get("decimal", ".")
    # character by character what it was, as far as it goes
    end = form.get("lineterminator", "\n")
    header, _, rows = path.read_bytes().decode("utf-8").partition(end)
    rest = text
    for record in (header, *(f'{part}line"' for part in rows.split(f'line"{end}')[:-1])):
        assert rest.startswith(record + separator)
        rest = rest[rest.index(end, len(record)) + len(end) :]
    assert rest == ""
    found = pd.read_csv(
        io.StringIO(text.removeprefix("\ufeff")), sep=separator, decimal=decimal, keep_default_na=False, na_values=[""]
    )
    expected = answer(CLOCK, frame[list(COLUMNS)], 0.9).reset_index(drop=True)
    pd.testing.assert_frame_equal(found[frame.columns], frame.reset_index(drop=True), check_dtype=False, rtol=1e-12)
    numbers = expected.columns.drop(["status", "flags"])
    pd.testing.assert_frame_equal(found[numbers].astype(float), expected[numbers].astype(float), atol=1e-9, rtol=0)
    assert found["status"].tolist() == expected["status"].tolist()
    assert found["flags"].astype(object).fillna("").tolist() == expected["flags"].tolist()
    assert set(found["henaw_model"]) == {"henaw/1"}
    # in parts that fit, and without a column that the model does not read
    sent = page.sent()
    assert [len(body["dataframe_split"]["data"]) for _, body in sent] == [100, 100, 50]
    assert {tuple(body["dataframe_split"]["columns"]) for _, body in sent} == {input_columns(BLOOD9)}
    assert '"Q' not in json.dumps(sent)


def test_ten_thousand_rows_are_answered_and_the_tab_stays_alive(page: Browser, tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    people_file(path, 10_000)
    page.driver.execute_script(
        "window.longest = 0; let last = performance.now(); (function tick() { const now = performance.now();"
        "longest = Math.max(longest, now - last); last = now; setTimeout(tick); })()"
    )
    assert page.choose(path).startswith("Done: 10,000 rows")
    assert page.download("many-henaw.csv").count("henaw/1") == 10_000
    print(f"10,000 rows: the tab was busy for at most {page.driver.execute_script('return longest'):.0f} ms at a time")


def test_what_is_wrong_with_a_file_is_said_by_row_and_column_and_nothing_is_sent(page: Browser, tmp_path: Path) -> None:
    path = tmp_path / "wrong.csv"
    frame = blood_rows(30, seed=5)[list(COLUMNS)].astype(object)
    frame.loc[3, "crp_mg_l"], frame.loc[7, "age_years"] = "<61.98765", "SECRET"
    frame.to_csv(path, index=False)
    path.write_text(path.read_text() + "1,2\n")
    assert page.choose(path).startswith("Nothing was sent")
    faults = [each.text for each in page.all("#file-result li")]
    assert [fault.partition(":")[0] for fault in faults] == [
        "Row 4, column crp_mg_l",
        "Row 8, column age_years",
        "Row 31",
    ]
    assert "SECRET" not in page.text("#file")
    assert "61.98765" not in page.text("#file")
    assert page.sent() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "The file is empty."),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (",".join(COLUMNS).encode(), "a header and no rows"),
        (b"crp_mg_l,sex\n1,male\n", "Column hba1c_mmol_mol: is missing"),
        (",".join([*COLUMNS, "sex", "status"]).encode() + b"\n", "Column sex: stands more than once"),
        (",".join([*COLUMNS, "status"]).encode() + b"\n", "Column status: has the name of a column of the answer"),
        (f'{",".join(COLUMNS)}\n"1'.encode(), "A quotation mark is opened and never closed."),
        (f'{",".join(COLUMNS)}\n"1"2'.encode(), "A quotation mark stands where none can be"),
        (f"{';'.join(COLUMNS)}\n1,234{';' * 9}male;50\n".encode(), "could part decimals or thousands"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_file_that_cannot_be_used_is_refused_in_words(
    page: Browser, tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(content)
    assert page.choose(path).startswith("Nothing was sent")
    assert said in page.text("#file-result")


def test_a_file_is_dropped(page: Browser) -> None:
    content = blood_rows(3, seed=6)[list(COLUMNS)].to_csv(index=False)
    script = """
      const transfer = new DataTransfer();
      transfer.items.add(new File([given[0]], "dropped.csv", { type: "text/csv" }));
      const drop = new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
      document.querySelector(".drop").dispatchEvent(drop);
    """
    page.run(script, content)
    page.click("#file-start")
    page.until(lambda: page.text("#file-status").startswith("Done: 3 rows"))


def test_a_busy_server_is_waited_for(tab: Browser, tmp_path: Path) -> None:
    path = tmp_path / "busy.csv"
    people_file(path, 3)
    with running(tmp_path, "serving.page=true serving.max_rows=1 serving.rate=2/second") as server:
        key = make_key(tmp_path)
        tab.until(lambda: server.ask(b"", "/ping")[0] == 401)
        tab.open(server.port)
        tab.until(lambda: tab.one("#key").is_displayed())
        tab.type("#key", f"{key}\n")
        tab.until(lambda: tab.one("#submit").is_displayed())
        assert tab.choose(path).startswith("Done: 3 rows")
        assert any("429" in message for message in tab.console())


def test_records_are_read_as_pythons_csv_reads_them(page: Browser) -> None:
    rng = random.Random(7)
    texts = []
    for _ in range(500):
        quoting, letters = rng.choice([(csv.QUOTE_ALL, 'ab,;"\n\r\t é'), (csv.QUOTE_MINIMAL, 'ab,;"\n\t é')])
        out = io.StringIO()
        writer = csv.writer(out, lineterminator=rng.choice(["\n", "\r\n"]), quoting=quoting)
        for _ in range(rng.randrange(1, 5)):
            writer.writerow(["".join(rng.choices(letters, k=rng.randrange(5))) for _ in range(3)])
        texts.append(out.getvalue())
    script = """
      const { records } = await import("/page/csv.js");
      return given[0].map((text) => [...records(text, ",")].map(({ cells, raw }) => [cells, raw]));
    """
    for text, found in zip(texts, page.run(script, texts), strict=True):
        assert [cells for cells, _ in found] == list(csv.reader(io.StringIO(text, newline="")))
        # a record as it stands is one that reads the same, and all of them are the text but for its line ends
        assert [next(csv.reader(io.StringIO(raw, newline=""))) for _, raw in found] == [cells for cells, _ in found]
        assert len(text) - sum(len(raw) for _, raw in found) in (len(found), 2 * len(found))
