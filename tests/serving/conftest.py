"""A server with the page, and a browser in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from henaw.model.answers import answer
from tests.scenarios import blood_rows
from tests.serving.browsing import Browser, browser
from tests.serving.guarded import CLOCK, COLUMNS
from tests.serving.sockets import Running, running

CHUNK = 100  # rows a request


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("downloads")) as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = f"serving.page=true serving.max_rows={CHUNK} serving.audit=audit.jsonl"
    folder = tmp_path_factory.mktemp("page")
    with running(folder, settings.replace("audit.jsonl", str(folder / "audit.jsonl"))) as found:
        yield found


@pytest.fixture
def page(tab: Browser, server: Running) -> Iterator[Browser]:
    """The page, with its form and nothing in it; nothing may go wrong in its console."""
    tab.open(server.port)
    tab.until(lambda: tab.one("#submit").is_displayed())
    tab.watch()
    tab.console()  # what was said before
    yield tab
    assert tab.console() == []


@pytest.fixture(scope="module")
def row() -> dict[str, Any]:
    """Somebody whom the model answers without a remark."""
    people = blood_rows(50, seed=1)
    answers = answer(CLOCK, people[list(COLUMNS)], 0.9)
    first = people[(answers["status"] == "ok") & (answers["flags"] == "")].iloc[0]
    return {name: first[name] if name == "sex" else round(float(first[name]), 2) for name in COLUMNS}
