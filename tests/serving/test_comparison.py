"""Which arm answers, what is counted of it, and that nothing about a challenger reaches a caller."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from henaw.errors import BadInput, EnvironmentProblem, IntegrityError, NoSuchVersion
from henaw.model.clock import Clock
from henaw.serving import application
from henaw.serving.comparison import in_challenger
from henaw.serving.guard import Guard
from henaw.serving.ledger import FOLDER, Subject, read_ledgers
from henaw.serving.lifecycle import Served
from henaw.serving.plan import as_overrides, plan
from tests.scenarios import blood_clock
from tests.serving.guarded import CLOCK, FAILING_AGE, TRYING, Response, ask, guard, ready, run, served, split

OTHER = blood_clock(1)
CHAMPION, CHALLENGER = "models:/henaw@champion", "models:/henaw@challenger"
ARMS = [Subject("split", "henaw/1", "henaw/2", arm) for arm in ("champion", "challenger")]


def challengers(
    monkeypatch: pytest.MonkeyPatch, *found: Served | Exception
) -> Callable[[str], Callable[[int | None], Served | None]]:
    """The registry has ``found`` one after the other under any other alias; the last stays."""
    waiting = list(found)

    def loader(_: str) -> Callable[[int | None], Served | None]:
        def load(current: int | None) -> Served | None:
            now = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            if isinstance(now, Exception):
                raise type(now)(*now.args)
            return None if now.number == current else now

        return load

    monkeypatch.setattr(application, "registry_loader", loader)
    return loader


def with_split(folder: Path, share: float = 0.5, clock: Clock = CLOCK, settings: str = "") -> Guard:
    return guard(folder, f"serving.split=challenger={share} {settings}", load=lambda _: served(clock=clock))[0]


async def answers(application: Guard, count: int, body: object = None) -> list[Response]:
    return [
        await ask(application, body=body or split(1), headers={"x-request-id": f"visit-{number}"})  # type: ignore[arg-type]
        for number in range(count)
    ]


# --- who answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_shares_of_ids_are_as_asked_for(share: float) -> None:
    drawn = sum(in_challenger(f"id-{number}".encode(), share) for number in range(10_000))
    assert abs(drawn - 10_000 * share) <= 3.5 * (10_000 * share * (1 - share)) ** 0.5


def test_an_arm_is_the_same_everywhere_and_a_larger_share_keeps_those_it_had() -> None:
    ids = [f"id-{number}".encode() for number in range(1000)]
    few, many = ({one for one in ids if in_challenger(one, share)} for share in (0.1, 0.3))
    assert few < many
    # known answers: a worker of another release must draw the same arms
    assert [in_challenger(one, 0.5) for one in ids[:8]] == [True, True, False, True, True, False, True, True]


def test_each_arm_answers_its_ids_and_says_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    challengers(monkeypatch, served(2, OTHER))

    async def main() -> list[list[Response]]:
        first = await ready(with_split(tmp_path / "a"))
        second = await ready(with_split(tmp_path / "b"))  # another worker
        return [await answers(one, 40) for one in (first, second, first)]

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    found = run(main())
    models = [[reply.headers["henaw-model"] for reply in replies] for replies in found]
    assert models[0] == models[1] == models[2]
    assert set(models[0]) == {"henaw/1", "henaw/2"}
    drawn = [in_challenger(f"visit-{number}".encode(), 0.5) for number in range(40)]
    assert models[0] == [f"henaw/{1 + one}" for one in drawn]
    bodies = {model: reply.body for model, reply in zip(models[0], found[0], strict=True)}
    assert bodies["henaw/1"] != bodies["henaw/2"]


@pytest.mark.parametrize("sent", ["", "a b", "\t", "x" * 129, '"; drop', "-", "é"])
def test_an_id_that_is_none_is_replaced_by_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: str) -> None:
    challengers(monkeypatch, served(2, OTHER))

    async def main() -> set[str]:
        one = await ready(with_split(tmp_path))
        replies = [await ask(one, body=split(1), headers={"x-request-id": sent}) for _ in range(40)]
        return {reply.headers["henaw-model"] for reply in replies}

    assert run(main()) == {"henaw/1", "henaw/2"}  # the same id would go to the same arm each time


def test_the_callers_id_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    challengers(monkeypatch, served(2, OTHER))

    async def main() -> list[Response]:
        one = await ready(with_split(tmp_path, settings=f"serving.audit={tmp_path}/audit"))
        found = await answers(one, 30)
        return [*found, await ask(one, "/metrics")]

    replies = run(main())
    said = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"visit-" not in said + b"".join(reply.body + repr(reply.headers).encode() for reply in replies)
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [line["model"] for line in lines[:30]] == [reply.headers["henaw-model"] for reply in replies[:30]]
    metrics = replies[-1].body.decode()
    for arm, model in (("champion", "henaw/1"), ("challenger", "henaw/2")):
        count = sum(line["model"] == model for line in lines[:30])
        assert f'henaw_arm_requests_total{{arm="{arm}",model="{model}"}} {count}.0' in metrics


# --- what may go wrong with a challenger -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "found",
    [
        NoSuchVersion("none"),
        IntegrityError("flipped"),
        EnvironmentProblem("away"),
        ZeroDivisionError("61.98765"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_challenger_that_cannot_be_had_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, found: Exception
) -> None:
    challengers(monkeypatch, found)

    async def main() -> list[Response]:
        one = await ready(with_split(tmp_path, settings="serving.reload_seconds=0.01"))
        await asyncio.sleep(0.1)
        return [*await answers(one, 20), await ask(one, "/ping"), await ask(one, "/metrics")]

    *replies, ping, metrics = run(main())
    assert {reply.headers["henaw-model"] for reply in replies} == {"henaw/1"}
    assert ping.status == 200
    said = [record.getMessage() for record in caplog.records if "challenger" in record.getMessage()]
    assert len(said) == 1  # once, however often it is tried
    assert "the champion answers all" in said[0]
    assert "61.98765" not in said[0]
    (count,) = [
        line for line in metrics.body.decode().splitlines() if line.startswith("henaw_challenger_failures_total")
    ]
    assert 'at="load"' in count
    assert float(count.split()[-1]) > 1


def test_an_alias_is_followed_when_it_comes_moves_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = NoSuchVersion("none")
    stages = [gone, served(2, OTHER), IntegrityError("flipped"), served(3, blood_clock(2)), gone, served(1)]
    challengers(monkeypatch, *stages)

    async def main() -> list[str]:
        one = await ready(with_split(tmp_path, share=1.0))
        follower = one.lifecycle.before_ready.__self__._follower  # type: ignore[attr-defined]
        found = []
        for _ in stages:
            found.append((await ask(one, body=split(1))).headers["henaw-model"])
            follower.refresh()
        return found

    assert run(main()) == ["henaw/1", "henaw/2", "henaw/2", "henaw/3", "henaw/1", "henaw/1"]


def test_where_the_challenger_raises_the_champion_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    challengers(monkeypatch, served(2, TRYING))
    body = split(1)
    body["dataframe_split"]["data"][0][-1] = FAILING_AGE

    async def main() -> tuple[list[Response], bytes]:
        one = await ready(with_split(tmp_path, share=1.0))
        replies = [await ask(one, body=body) for _ in range(5)]
        await one.lifecycle.at_stop()
        return replies, (await ask(one, "/metrics")).body

    replies, metrics = run(main())
    assert {(reply.status, reply.headers["henaw-model"]) for reply in replies} == {(200, "henaw/1")}
    assert 'henaw_challenger_failures_total{at="answer"} 5.0' in metrics.decode()
    assert len([record for record in caplog.records if "answered instead" in record.getMessage()]) == 1
    assert read_ledgers(tmp_path).tallies[ARMS[1]].counts == {"failed": 5}


def test_a_refusal_is_the_callers_in_either_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    challengers(monkeypatch, served(2, OTHER))

    async def main() -> list[Response]:
        one = await ready(with_split(tmp_path, share=1.0))
        return [await ask(one, body=b"{"), await ask(one, body={"inputs": {}})]

    assert [reply.status for reply in run(main())] == [400, 400]


# --- what is counted -------------------------------------------------------------------------------------------------


def test_what_is_written_agrees_with_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    challengers(monkeypatch, served(2, OTHER))

    async def main() -> list[Response]:
        one = await ready(with_split(tmp_path))
        found = await answers(one, 60, split(3))
        await one.lifecycle.at_stop()
        return found

    replies, tallies = run(main()), read_ledgers(tmp_path).tallies
    assert set(tallies) == set(ARMS)
    for subject, model in zip(ARMS, ("henaw/1", "henaw/2"), strict=True):
        rows = [row for reply in replies if reply.headers["henaw-model"] == model for row in reply.json["predictions"]]
        gaps = [row["age_gap_years"] for row in rows if row["status"] != "abstain"]
        tally = tallies[subject]
        assert tally.requests == len(rows) / 3
        assert sum(tally.counts.values()) == len(rows)
        assert tally.figure("gap").rows == len(gaps)
        assert tally.figure("gap").mean == pytest.approx(sum(gaps) / len(gaps))
        assert int(tally.seconds["answer"].counts.sum()) == tally.requests


def test_fewer_than_five_rows_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    challengers(monkeypatch, served(2, OTHER))

    async def main() -> None:
        one = await ready(with_split(tmp_path, share=1.0))
        await answers(one, 4)
        await one.lifecycle.at_stop()

    run(main())
    assert not (tmp_path / FOLDER).exists()


def test_nothing_is_compared_where_nobody_asked(tmp_path: Path) -> None:
    async def main() -> Response:
        one = await ready(guard(tmp_path)[0])
        replies = await answers(one, 10)
        await one.lifecycle.at_stop()
        return replies[0]

    assert run(main()).headers["henaw-model"] == "henaw/1"
    assert not (tmp_path / FOLDER).exists()


# --- what cannot be meant --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shadow", "split", "said"),
    [
        (None, "challenger=0", "greater than 0 and up to 1"),
        (None, "challenger=1.01", "greater than 0 and up to 1"),
        (None, "challenger=nan", "greater than 0 and up to 1"),
        (None, "challenger=-0.1", "greater than 0 and up to 1"),
        (None, "challenger", "ALIAS=SHARE"),
        (None, "=0.1", "expected an alias"),
        (None, "runs:/abc/model=0.1", "expected an alias"),
        (None, "champion=0.1", "is the version that answers"),
        ("champion", None, "is the version that answers"),
        ("models:/henaw", None, "expected an alias"),
        ("a b", None, "expected an alias"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_said(shadow: str | None, split: str | None, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        plan(CHAMPION, shadow, 0.1, split)


def test_an_alias_is_one_of_the_served_model() -> None:
    found = plan(CHAMPION, "models:/other/3", 0.2, "challenger=0.1")
    assert (found.shadow, found.split, found.split_share) == ("models:/other/3", CHALLENGER, 0.1)


def test_an_option_given_twice_is_said() -> None:
    with pytest.raises(BadInput, match="given 2 times"):
        as_overrides([], ["a=0.1", "b=0.2"])
    assert as_overrides(["it's"], []).startswith("serving.shadow=")


@pytest.mark.parametrize(
    ("address", "found", "said"),
    [
        ("elsewhere", NoSuchVersion("no such model"), "no such model"),
        ("challenger", served(1), "it is the version that answers"),
    ],
)
def test_what_cannot_be_meant_ends_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, found: Served | Exception, said: str
) -> None:
    challengers(monkeypatch, found)

    async def main() -> Exception | None:
        one = guard(tmp_path, f"serving.split={address}=0.1", load=lambda _: served())[0]
        return (await ready(one)).lifecycle.failure

    failure = run(main())
    assert isinstance(failure, BadInput)
    assert said in str(failure)
