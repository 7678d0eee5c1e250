"""A registry of two versions; a server with the page, and a browser in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from henaw.model.answers import answer
from henaw.model.storage import CLOCK_FOLDER, save_clock
from henaw.registry import versions
from tests.scenarios import blood_clock, blood_rows
from tests.serving.browsing import Browser, browser
from tests.serving.guarded import CLOCK, COLUMNS
from tests.serving.sockets import Running, running
from tests.stores import tracking_store

CHUNK = 100  # rows a request


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two versions in a store: the first is champion, the second challenger."""
    folder = tmp_path_factory.mktemp("store")
    with tracking_store(folder, "here"):
        for seed in (0, 1):
            save_clock(blood_clock(seed), folder / str(seed) / CLOCK_FOLDER)
            with mlflow.start_run():
                versions.register(folder / str(seed) / CLOCK_FOLDER, "henaw", {})
        yield folder


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
