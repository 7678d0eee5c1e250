"""The page in a real browser: what a person enters, reads and does wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from henaw.model.attribution import attribute
from tests.scenarios import BLOOD9
from tests.serving.browsing import NUMBERS, Browser, answer_of
from tests.serving.guarded import CLOCK
from tests.serving.sockets import Running
from tests.serving.test_page import arrays_of

pytestmark = pytest.mark.xdist_group("serving")


def test_somebody_is_entered_and_answered(page: Browser, server: Running, row: dict[str, Any]) -> None:
    expected = answer_of(row, 0.8)
    page.fill(row)
    page.click("#coverage option[value='0.8']")
    page.submit()
    assert page.answered("Biological") == f"Biological age {expected['biological_age_years']:.1f} years"
    assert page.focus() == "answer-title"
    assert page.text("#answer .lead strong") == f"{expected['lower_years']:.1f} to {expected['upper_years']:.1f} years"
    picture = page.one("#answer svg.distribution")
    assert f"80 % from {expected['lower_years']:.1f}" in picture.get_attribute("aria-label")
    assert len(page.all("#answer svg .member")) == 3
    assert len(page.all("#answer svg .inside rect")) > 5
    # the table of shares, largest first, is the model's attribution
    shares = dict(zip(BLOOD9.names, attribute(CLOCK, *arrays_of(row)).by_marker[0].tolist(), strict=True))
    titles = {marker.title: marker.name for marker in BLOOD9.biomarkers}
    rows = page.all("#answer .shares:not(details .shares) tbody tr")
    read = {titles[each.text.split("\n")[0]]: each.text.split("\n")[-1].split()[-1] for each in rows}
    assert list(read) == sorted(shares, key=lambda name: -abs(shares[name]))
    assert {name: float(text.replace("−", "-")) for name, text in read.items()} == {
        name: pytest.approx(share, abs=0.0501) for name, share in shares.items()
    }
    # what was entered is in one request's body, and nowhere else
    assert page.sent() == [("page/answer", {"dataframe_records": [row], "params": {"coverage": 0.8}})]
    kept = page.driver.execute_script(
        "return [location.href, history.length, document.cookie, localStorage.length, sessionStorage.length]"
    )
    assert kept[0] == f"http://localhost:{server.port}/"
    assert kept[2:] == ["", 0, 0]
    # times may look like a value
    noted = [json.loads(line) for line in (server.log.parent / "audit.jsonl").read_text().splitlines()]
    written = server.log.read_text() + str([line | {"time": "", "milliseconds": ""} for line in noted])
    assert not [name for name in NUMBERS if str(row[name]) in written and len(str(row[name])) > 4]


def test_what_is_no_number_is_refused_beside_its_field(page: Browser, row: dict[str, Any]) -> None:
    page.fill(row | {"crp_mg_l": "high"})
    page.submit()
    page.until(lambda: page.focus() == "field-crp_mg_l")
    field = page.one("#field-crp_mg_l")
    assert field.get_attribute("aria-invalid") == "true"
    assert "field-crp_mg_l-note" in field.get_attribute("aria-describedby").split()
    assert "not a number" in page.text("#field-crp_mg_l-note")
    assert page.text("#form-status").startswith("Nothing was sent")
    assert page.sent() == []


def test_a_marker_that_is_missing_is_answered_with_a_remark(page: Browser, row: dict[str, Any]) -> None:
    page.fill(row | {"alt_u_l": None})
    page.submit()
    expected = answer_of(row | {"alt_u_l": None})
    assert page.answered("Biological") == f"Biological age {expected['biological_age_years']:.1f} years"
    assert "Alanine aminotransferase was not given" in page.text("#answer .remarks")
    assert "not given" in page.text("#answer .shares")
