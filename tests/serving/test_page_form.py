"""The form, its units, keys and looks, in a real browser."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from henaw.config import asset_folder
from henaw.data.units import load_conversions
from henaw.serving import keys
from tests.scenarios import blood_clock
from tests.serving.browsing import NUMBERS, Browser, answer_of
from tests.serving.sockets import running
from tests.serving.test_guard import make_key

pytestmark = [pytest.mark.xdist_group("serving"), pytest.mark.slow]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("high", "not a number"),
        ("<0.3", "a limit, not a number"),
        ("1,234", "could mean two numbers"),
        ("1.234,5", "not a number"),
        ("1e999", "larger than any number"),
        ("5 mg", "not a number"),
        ("0x10", "not a number"),
        (" 5.1 ", 5.1),
        ("5,1", 5.1),
        ("0,125", 0.125),
        (".5", 0.5),
        ("1e2", 100.0),
        ("-1", -1.0),
        ("", None),
        ("NA", None),
    ],
)
def test_numbers_are_read_or_refused_in_words(page: Browser, text: str, said: str | float | None) -> None:
    found = page.run('return (await import("/page/numbers.js")).parseNumber(given[0])', text)
    if isinstance(said, str):
        assert said in found["fault"]
    else:
        assert found == ({"missing": True} if said is None else {"value": said})


def test_nothing_that_was_entered_is_there_after_a_reload(page: Browser, row: dict[str, Any]) -> None:
    page.fill(row)
    page.driver.refresh()
    page.until(lambda: page.one("#submit").is_displayed())
    assert page.driver.execute_script(
        "return [...document.querySelectorAll('#form input[type=text]')].map((e) => e.value)"
    ) == [""] * len(NUMBERS)
    assert not page.all("[name=sex]:checked")


def test_sex_and_age_are_needed_and_the_first_that_is_missing_is_gone_to(page: Browser, row: dict[str, Any]) -> None:
    page.submit()
    assert page.driver.switch_to.active_element.get_attribute("name") == "sex"
    assert [page.text(f"#field-{name}-note") for name in ("sex", "age_years")] == ["Needed for an answer."] * 2
    page.fill({"sex": row["sex"]})
    page.submit()
    page.until(lambda: page.focus() == "field-age_years")
    assert page.sent() == []


def test_a_decimal_comma_is_understood(page: Browser, row: dict[str, Any]) -> None:
    page.fill({name: value if name == "sex" else str(value).replace(".", ",") for name, value in row.items()})
    page.submit()
    page.answered("Biological")
    assert page.sent()[0][1]["dataframe_records"] == [row]


def test_an_implausible_value_is_explained_and_sent_and_the_model_declines(page: Browser, row: dict[str, Any]) -> None:
    page.fill(row | {"creatinine_umol_l": "0.9"})
    page.click("#field-age_years")
    page.until(lambda: page.text("#field-creatinine_umol_l-note"))
    assert page.text("#field-creatinine_umol_l-note").endswith("the model would decline to answer. Is it in mg/dL?")
    page.submit()
    assert page.answered("No") == "No estimate"
    assert "Creatinine lies outside what is plausible" in page.text("#answer-body")
    page.click("#answer-body button")
    assert page.focus() == "field-creatinine_umol_l"


def test_an_answer_says_when_the_entries_are_others(page: Browser, row: dict[str, Any]) -> None:
    page.fill(row)
    page.submit()
    page.answered("Biological")
    page.type("#field-crp_mg_l", "3")
    assert page.text("#answer-title").endswith("for earlier entries")
    page.click("#form [type=reset]")
    page.until(lambda: page.text("#answer-title") == "Answer")
    assert page.one("#field-crp_mg_l").get_attribute("value") == ""


def test_a_unit_is_chosen_and_its_range_follows(page: Browser, row: dict[str, Any]) -> None:
    conversion = {each.unit: each for each in load_conversions(asset_folder("mlproject") / "panels")["hba1c_mmol_mol"]}[
        "%"
    ]
    page.fill(row)
    page.click("#field-hba1c_mmol_mol-unit option[value='%']")
    assert page.text("#field-hba1c_mmol_mol-hint").startswith("Plausible 3.53 to 20.4")
    percent = round(conversion.from_canonical(row["hba1c_mmol_mol"]), 1)
    page.type("#field-hba1c_mmol_mol", str(percent))
    page.submit()
    page.answered("Biological")
    (sent,) = page.sent()[0][1]["dataframe_records"]
    assert sent["hba1c_mmol_mol"] == conversion.to_canonical(percent)


def test_every_conversion_is_that_of_the_library(page: Browser) -> None:
    values = [random.Random(0).uniform(0.001, 1000) for _ in range(50)]
    units = [
        each for conversions in load_conversions(asset_folder("mlproject") / "panels").values() for each in conversions
    ]
    script = """
      const { toCanonical, fromCanonical } = await import("/page/numbers.js");
      const [units, values] = given;
      return units.map((unit) => values.map((value) => [toCanonical(value, unit), fromCanonical(value, unit)]));
    """
    found = page.run(script, [vars(unit) for unit in units], values)
    assert found == [[[unit.to_canonical(value), unit.from_canonical(value)] for value in values] for unit in units]


def test_a_mortality_clock_has_risks(tab: Browser, tmp_path: Path, row: dict[str, Any]) -> None:
    clock = blood_clock(target="mortality")
    with running(tmp_path, "serving.page=true target=mortality") as server:
        tab.open(server.port)
        tab.until(lambda: tab.one("#submit").is_displayed())
        tab.fill(row)
        tab.submit()
        expected = answer_of(row, clock=clock)
        assert tab.answered("Biological") == f"Biological age {expected['biological_age_years']:.1f} years"
        rows = [each.text for each in tab.all("#answer table:first-of-type tbody tr")][:2]
        for line, years in zip(rows, (5, 10), strict=True):
            risk = 100 * expected[f"risk_{years}y"]
            assert line.startswith(
                f"within {years} years {risk:.1f} %" if risk < 10 else f"within {years} years {risk:.0f} %"
            )


def test_without_a_key_there_is_no_form_and_with_one_there_is(
    tab: Browser, tmp_path: Path, row: dict[str, Any]
) -> None:
    with running(tmp_path, "serving.page=true") as server:
        key = make_key(tmp_path)
        tab.until(lambda: server.ask(b"", "/ping")[0] == 401)
        tab.open(server.port)
        tab.until(lambda: tab.one("#key").is_displayed())
        assert not tab.one("#work").is_displayed()
        tab.type("#key", "henaw-of-nobody\n")
        tab.until(lambda: "does not know this key" in tab.text("#key-fault"))
        tab.type("#key", f"{key}\n")
        tab.until(lambda: tab.one("#submit").is_displayed())
        tab.fill(row)
        tab.click("#field-hba1c_mmol_mol-unit option[value='%']")
        (known,) = keys.read_keys(tmp_path)
        keys.revoke_key(tmp_path, known.id)
        other = make_key(tmp_path)
        # a running server follows within a second
        tab.until(lambda: (tab.submit(), tab.one("#access").is_displayed())[1])
        assert "does not know this key" in tab.text("#form-status")
        assert tab.one("#field-crp_mg_l").get_attribute("value") == str(row["crp_mg_l"])
        tab.type("#key", f"{other}\n")
        tab.until(lambda: not tab.one("#access").is_displayed())
        assert tab.one("#field-hba1c_mmol_mol-unit").get_attribute("value") == "%"
        tab.click("#field-hba1c_mmol_mol-unit option[value='mmol/mol']")
        tab.submit()
        assert tab.answered("Biological")
        kept = tab.driver.execute_script(
            "return document.cookie + JSON.stringify([localStorage, sessionStorage, location.href])"
        )
        assert key not in kept
        assert other not in kept
        tab.click("#forget")
        tab.until(lambda: tab.one("#key").is_displayed() and not tab.one("#work").is_displayed())
        assert other not in server.log.read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 640, 1280])
def test_it_fits_whatever_the_width_and_the_notice_stays_in_sight(
    page: Browser, row: dict[str, Any], width: int, scheme: str
) -> None:
    try:
        page.looks(width, scheme)
        page.fill(row | {"crp_mg_l": "400"})
        page.submit()
        page.answered("Biological")
        page.driver.execute_script("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        for place in (0, 10_000):
            page.driver.execute_script("scrollTo(0, arguments[0])", place)
            assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
            notice = page.one(".notice strong")
            assert notice.text == "Not a medical device."
            assert page.driver.execute_script("return arguments[0].getBoundingClientRect().top", notice) >= 0
        dark = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(18, 23, 28)"
        assert dark == (scheme == "dark")
    finally:
        page.looks(1280, "light")


def test_every_field_has_a_name_and_its_range_is_read_with_it(page: Browser) -> None:
    script = """
      const controls = [...document.querySelectorAll("input, select, button")].filter((each) => each.offsetParent);
      const named = (each) => each.labels?.[0]?.textContent ?? each.getAttribute("aria-label") ?? each.textContent;
      const described = (each) => (each.getAttribute("aria-describedby") ?? "").split(" ").filter((id) => id);
      const lost = (each) => described(each).filter((id) => !document.getElementById(id)).length;
      return controls.map((each) => [each.id, named(each), lost(each)]);
    """
    found = page.run(script)
    assert len(found) > 2 * len(NUMBERS)
    assert not [identity for identity, name, lost in found if not name.strip() or lost]


def test_no_group_stands_alone_in_half_a_row_and_a_long_unit_leaves_room_for_its_number(page: Browser) -> None:
    script = """
      document.querySelector("#field-crp_mg_l-unit").options[0].textContent = "mg/dL of something long";
      const edge = document.querySelector(".groups").getBoundingClientRect().right;
      const ends = {};
      for (const each of document.querySelectorAll(".groups fieldset")) {
        const box = each.getBoundingClientRect();
        ends[box.top] = Math.max(ends[box.top] ?? 0, box.right);
      }
      const rows = Object.values(ends).map((end) => Math.round(edge - end));
      return [rows, document.querySelector("#field-crp_mg_l").getBoundingClientRect().width];
    """
    try:
        for width in (320, 640, 1280):
            page.looks(width, "light")
            rows, room = page.run(script)
            assert set(rows) == {0}
            assert room > 90
    finally:
        page.looks(1280, "light")
        page.driver.refresh()
