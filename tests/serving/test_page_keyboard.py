"""The whole page by keyboard alone: every stop is seen to have the focus, and nothing needs a mouse."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.browsing import Browser

pytestmark = [pytest.mark.xdist_group("serving"), pytest.mark.slow]


def press(page: Browser, *keys: str, held: str = "") -> str:
    """Press ``keys`` on the keyboard, with ``held`` down; what has the focus then: its id, or else its text."""
    from selenium.webdriver.common.action_chains import ActionChains

    actions = ActionChains(page.driver)
    if held:
        actions.key_down(held).send_keys(*keys).key_up(held).perform()
    else:
        actions.send_keys(*keys).perform()
    found = page.driver.switch_to.active_element
    return str(found.get_attribute("id") or found.text or found.get_attribute("value"))


_FOCUS = """
  const own = document.activeElement, box = own.getBoundingClientRect(), notice = document.querySelector(".notice");
  const top = own.closest(".notice") ? 0 : notice.getBoundingClientRect().bottom;
  return [getComputedStyle(own).outlineStyle, top <= box.top && box.bottom <= innerHeight];
"""


def tab_until(page: Browser, wanted: str, *, back: bool = False) -> list[str]:
    """Tab from one stop to the next until ``wanted``; each shows that it has the focus, not under the notice."""
    from selenium.webdriver.common.keys import Keys

    stops: list[str] = []
    while wanted not in stops:
        stops.append(press(page, Keys.TAB, held=Keys.SHIFT if back else ""))
        assert len(stops) < 100, stops
        outline, in_sight = page.driver.execute_script(_FOCUS)
        assert outline != "none", stops
        assert in_sight, stops
    return stops


def test_everything_can_be_done_by_keyboard(page: Browser, row: dict[str, Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    assert tab_until(page, "A file") == ["One person", "A file"]
    tab_until(page, "female")
    assert press(page, *([Keys.ARROW_RIGHT] if row["sex"] == "male" else [Keys.SPACE])) == row["sex"]
    fields = [field.get_attribute("id") for field in page.all("#form input[type=text]")]  # by system
    for field in fields:
        tab_until(page, field)
        press(page, str(row[field.removeprefix("field-")]))
    tab_until(page, "coverage")
    press(page, Keys.ARROW_UP)
    assert page.one("#coverage").get_attribute("value") == "0.8"
    tab_until(page, "submit")
    press(page, Keys.ENTER)
    assert page.answered("Biological")
    assert page.focus() == "answer-title"
    tab_until(page, "By organ system")
    assert not page.one("#answer details").get_attribute("open")
    press(page, Keys.ENTER)
    assert page.one("#answer details").get_attribute("open")
    assert [stop for stop in tab_until(page, "The columns it needs") if stop in ("csv", "file-start")] == [
        "csv",
        "file-start",
    ]
    # back to the first marker, an entry that is declined, and from the reason to its field
    tab_until(page, "field-crp_mg_l", back=True)
    press(page, "a", held=Keys.CONTROL)
    press(page, "9999", Keys.ENTER)
    assert page.answered("No estimate")
    assert page.focus() == "answer-title"
    tab_until(page, "Go to the field")
    assert press(page, Keys.ENTER) == "field-crp_mg_l"
