"""The page says what failed and why, the gravest first; it fetches nothing, and has no value and no small count."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from henaw.validation.page import verdict_page
from henaw.validation.verdict import OnFailure, SuiteResult, Verdict, verdict_metrics


def result(column: str, how: OnFailure, unexpected: int, **changes: object) -> SuiteResult:
    known = {
        "suite": "biomarker_ranges",
        "column": column,
        "rule": "plausible",
        "on_failure": how,
        "expected": "1 to 2 g/L",
        "success": unexpected == 0,
        "checked": 200,
        "unexpected": unexpected,
    }
    return SuiteResult(**(known | changes))


def judged(*results: SuiteResult, aside: int = 0, most: float = 0.2) -> dict[str, object]:
    first = np.full(200, -1, dtype=np.int32)
    first[:aside] = 0
    return Verdict("blood9", most, results, first).to_dict()


class _Tags(HTMLParser):
    """Opening and closing tags, and what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "data")]
        if tag in ("script", "link", "iframe", "img"):
            self.fetched.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


DOCUMENT = judged(
    result("rdw_pct", "warn", 0),
    result("crp_mg_l", "set_aside", 3),
    result("albumin_g_l", "warn", 150, suite="cohort", rule="usual_median", found="the median lies below"),
    result("creatinine_umol_l", "set_aside", 120),
    result("sex", "block", 200, found="type int64", suite="schema", rule="text", expected="type str"),
    aside=120,
)


def test_it_fetches_nothing_and_is_well_formed() -> None:
    page = verdict_page(DOCUMENT, "table")
    tags = _Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    assert tags.fetched == []
    for word in ("http", "url(", "@import", "<script"):
        assert word not in page


def test_the_gravest_failure_stands_first_and_in_the_headline() -> None:
    page = verdict_page(DOCUMENT, "table")
    assert "<h1>Validation: refused</h1>" in page
    assert "sex: type int64; expected type str" in page
    listed = re.findall(r"<tr><td>([a-z_]+)</td><td>", page.partition("What failed")[2].partition("What holds")[0])
    assert listed == ["sex", "creatinine_umol_l", "crp_mg_l", "albumin_g_l"]
    assert "the median lies below" in page
    assert page.index("rdw_pct") > page.index("What holds")


def test_few_people_are_no_number() -> None:
    page = verdict_page(DOCUMENT, "table")
    assert "&lt;5 of 200 rows fail" in page
    assert "<td>3 " not in page
    assert "1.50%" not in page


def test_a_refusal_by_too_many_rows_says_which_column_and_which_unit() -> None:
    unit = result(
        "creatinine_umol_l",
        "warn",
        200,
        suite="units",
        rule="unit",
        found="the column as a whole: values look like mg/dL",
    )
    page = verdict_page(judged(result("creatinine_umol_l", "set_aside", 120), unit, aside=120), "ukbiobank")
    headline = page.partition("</section>")[0]
    for words in (
        "120 of 200 rows are set aside; at most 20.0% may be",
        "Most by creatinine_umol_l",
        "look like mg/dL",
    ):
        assert words in headline


def test_a_clean_table_says_so() -> None:
    page = verdict_page(judged(result("rdw_pct", "warn", 0)), "synthetic")
    assert "Validation: passed" in page
    assert "Nothing failed" in page


def test_what_stands_in_a_verdict_is_text_and_not_html() -> None:
    page = verdict_page(judged(result("<script>x", "block", 9, found="<b>&")), "<i>")
    assert "<script>" not in page
    assert "&lt;script&gt;x" in page
    assert "<b>&amp;" not in page


def test_metrics_have_counts_and_rates_but_no_small_ones() -> None:
    metrics = verdict_metrics(DOCUMENT)
    assert metrics["validation/rows"] == 200
    assert metrics["validation/fraction_set_aside"] == pytest.approx(0.6)
    assert metrics["validation/biomarker_ranges/creatinine_umol_l.plausible/rows"] == 120
    assert metrics["validation/biomarker_ranges/creatinine_umol_l.plausible/fraction"] == pytest.approx(0.6)
    assert (metrics["validation/expectations_block"], metrics["validation/expectations_warn"]) == (1, 1)
    assert not [name for name in metrics if "crp" in name]
    assert all(re.fullmatch(r"[\w/.-]+", name) for name in metrics)
