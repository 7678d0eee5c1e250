"""A verdict: what it publishes, which rows it hands on, and the file of those it does not."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from henaw.errors import BadInput
from henaw.validation.quarantine import write_quarantine
from henaw.validation.verdict import OnFailure, SuiteResult, Verdict, require_passed


def result(
    column: str, on_failure: OnFailure, unexpected: int, checked: int = 20, rule: str = "plausible"
) -> SuiteResult:
    return SuiteResult(
        suite="biomarker_ranges",
        column=column,
        rule=rule,
        on_failure=on_failure,
        expected="1 to 2 g/L",
        success=unexpected == 0,
        checked=checked,
        unexpected=unexpected,
    )


def verdict(*results: SuiteResult, aside: dict[int, int] | None = None, rows: int = 20, limit: float = 0.5) -> Verdict:
    first_rule = np.full(rows, -1, dtype=np.int32)
    for row, position in (aside or {}).items():
        first_rule[row] = position
    return Verdict("blood9", limit, results, first_rule)


@pytest.fixture
def table() -> pd.DataFrame:
    people = [f"{row:032x}" for row in range(20)]
    return pd.DataFrame({"participant": pd.array(people, dtype="str"), "crp_mg_l": np.arange(20) / 3})


def test_kept_and_quarantined_rows_are_the_whole_table(table: pd.DataFrame) -> None:
    judged = verdict(result("crp_mg_l", "set_aside", 2), result("sex", "set_aside", 1), aside={3: 1, 7: 0, 19: 0})
    kept, quarantined = judged.clean(table), judged.quarantined(table)
    assert quarantined["rule"].tolist() == ["sex: plausible", "crp_mg_l: plausible", "crp_mg_l: plausible"]
    assert quarantined["participant"].tolist() == table["participant"].iloc[[3, 7, 19]].tolist()
    assert list(kept.columns) == list(table.columns)
    assert sorted([*kept["participant"], *quarantined["participant"]]) == table["participant"].tolist()
    assert kept.index.equals(pd.RangeIndex(17))


def test_a_verdict_is_about_one_table(table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="20 rows, the table has 19"):
        verdict(result("crp_mg_l", "set_aside", 0)).clean(table.iloc[1:])


def test_only_blocks_and_too_many_rows_refuse() -> None:
    aside = dict.fromkeys(range(10), 0)
    require_passed(verdict(result("a", "set_aside", 10), result("b", "warn", 20), aside=aside))
    with pytest.raises(BadInput, match=r"'b' .*20 of 20 rows fail; expected 1 to 2 g/L"):
        require_passed(verdict(result("a", "set_aside", 10), result("b", "block", 20), aside=aside))
    with pytest.raises(
        BadInput, match=r"11 of 20 rows set aside \(55.0%\), expected at most 50.0%; most by column 'b'"
    ):
        require_passed(verdict(result("a", "set_aside", 4), result("b", "set_aside", 11), aside=aside | {10: 0}))


def test_a_refusal_tells_no_small_count_and_no_rate_that_gives_it_away() -> None:
    few = verdict(result("a", "set_aside", 3), aside=dict.fromkeys(range(3), 0), limit=0.1)
    with pytest.raises(BadInput, match=r": <5 rows set aside, expected at most 10.0%; .*: <5 of 20 rows"):
        require_passed(few)


@pytest.mark.parametrize(("count", "published", "fraction"), [(0, 0, 0.0), (1, "<5", "<5 rows"), (4, "<5", "<5 rows")])
def test_counts_of_one_to_four_people_are_not_published(count: int, published: object, fraction: object) -> None:
    judged = verdict(result("crp_mg_l", "set_aside", count), aside=dict.fromkeys(range(count), 0))
    document = json.loads(json.dumps(judged.to_dict(), allow_nan=False))
    assert (document["set_aside"], document["results"][0]["unexpected"]) == (published, published)
    assert document["results"][0]["fraction"] == fraction
    assert f"; {published} rows set aside" in judged.markdown()


def test_five_people_are_published() -> None:
    judged = verdict(result("crp_mg_l", "set_aside", 5), aside=dict.fromkeys(range(5), 0))
    document = judged.to_dict()
    assert (document["set_aside"], document["results"][0]["unexpected"]) == (5, 5)
    assert document["results"][0]["fraction"] == 0.25
    row = "| biomarker_ranges | crp_mg_l | plausible | 1 to 2 g/L |  | 5 | 25.00% | set aside |"
    assert row in judged.markdown().splitlines()


def test_markdown_of_a_clean_table_has_no_table() -> None:
    judged = verdict(result("crp_mg_l", "set_aside", 0))
    assert "passed" in judged.markdown()
    assert "1 of 1 expectations hold" in judged.markdown()
    assert "|" not in judged.markdown()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("aside", [{3: 0, 7: 0}, {}], ids=["some", "none"])
def test_quarantine_is_private_and_reads_back(
    table: pd.DataFrame, tmp_path: Path, suffix: str, aside: dict[int, int]
) -> None:
    judged = verdict(result("crp_mg_l", "set_aside", len(aside)), aside=aside)
    path = tmp_path / f"quarantine{suffix}"
    write_quarantine(path, table, judged)
    assert path.stat().st_mode & 0o777 == 0o600
    if suffix == ".csv":
        read = pd.read_csv(path, dtype={"participant": "str", "rule": "str"})
    else:
        read = pd.read_parquet(path)
    pd.testing.assert_frame_equal(read, judged.quarantined(table), check_dtype=bool(aside))


def test_another_quarantine_format_is_refused(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"rows\.xlsx"):
        write_quarantine(tmp_path / "rows.xlsx", table, verdict(result("crp_mg_l", "set_aside", 0)))
    assert list(tmp_path.iterdir()) == []
