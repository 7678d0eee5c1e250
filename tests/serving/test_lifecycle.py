"""Ready as soon as the guard's own answers hold, and gone where MLflow's then do not."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from henaw.errors import EnvironmentProblem, IntegrityError
from henaw.serving import lifecycle
from henaw.serving.guard import Guard
from henaw.serving.lifecycle import Served
from tests.scenarios import blood_rows
from tests.serving.guarded import Response, ask, guard, ready, run, served, split

CSV = {"body": blood_rows(1, 0).to_csv(index=False).encode(), "headers": {"content-type": "text/csv"}}


def unconfirmed(folder: Path, confirm: object) -> Guard:
    """A guard whose version MLflow has not answered for yet."""
    first = replace(served(), confirm=confirm)  # type: ignore[arg-type]

    def load(current: int | None) -> Served | None:
        return first if current is None else None

    return guard(folder, load=load)[0]


def test_json_is_answered_before_mlflow_has_loaded_the_version_and_csv_waits_for_it(tmp_path: Path) -> None:
    loaded = threading.Event()

    async def main() -> tuple[Response, bool, Response]:
        application = await ready(unconfirmed(tmp_path, loaded.wait))
        first = await ask(application, body=split())
        csv = asyncio.ensure_future(ask(application, **CSV))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        waited = not csv.done()
        loaded.set()
        return first, waited, await csv

    first, waited, csv = run(main())
    assert (first.status, waited, csv.status) == (200, True, 200)


def test_csv_is_told_to_come_again_where_mlflow_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_CONFIRMED_SECONDS", 0.01)
    loaded = threading.Event()

    async def main() -> Response:
        application = await ready(unconfirmed(tmp_path, loaded.wait))
        try:
            return await ask(application, **CSV)  # type: ignore[arg-type]
        finally:
            loaded.set()

    response = run(main())
    assert (response.status, response.code, response.headers["retry-after"]) == (503, "NOT_READY", "5")


@pytest.mark.parametrize("error", [IntegrityError("not the same"), ZeroDivisionError()])
def test_a_version_that_mlflow_answers_otherwise_is_not_served_any_more(tmp_path: Path, error: Exception) -> None:
    def confirm() -> None:
        raise error

    closed: list[bool] = []

    async def main() -> tuple[Guard, Response]:
        application = unconfirmed(tmp_path, confirm)
        application.lifecycle.at_closing = lambda: closed.append(True)
        await ready(application)
        async with asyncio.timeout(5):
            while application.lifecycle.failure is None:
                await asyncio.sleep(0.001)
        return application, await ask(application, body=split())

    application, response = run(main())
    assert (response.status, response.code) == (503, "NOT_READY")
    assert application.lifecycle.failure is error
    assert closed == [True]


@pytest.mark.parametrize(("failures", "confirmed"), [(2, True), (3, False)])
def test_a_process_that_ends_meanwhile_is_asked_again_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, confirmed: bool
) -> None:
    monkeypatch.setattr(lifecycle, "_AGAIN_SECONDS", 0.001)
    left = [EnvironmentProblem("it ended")] * failures

    def confirm() -> None:
        if left:
            raise left.pop()

    async def main() -> Guard:
        application = await ready(unconfirmed(tmp_path, confirm))
        async with asyncio.timeout(5):
            while application.lifecycle.failure is None and not application.lifecycle._confirmed.is_set():
                await asyncio.sleep(0.001)
        return application

    found = run(main()).lifecycle
    assert (found.failure is None, found._confirmed.is_set()) == (confirmed, confirmed)
    assert not left
