"""Sums that can be added up, files that outlive a server, and what a report may say of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from henaw.data.disclosure import SMALLEST_CELL
from henaw.errors import BadInput
from henaw.serving.compared_figures import shadow_figures, split_figures
from henaw.serving.compared_report import report
from henaw.serving.ledger import FOLDER, Ledger, Subject, read_ledgers
from henaw.serving.tallies import Bins, Tally

CHAMPION, CHALLENGER = (Subject("split", "henaw/1", "henaw/2", arm) for arm in ("champion", "challenger"))
SHADOW = Subject("shadow", "henaw/1", "henaw/2", "both")


def tally_of(requests: list[NDArray[np.float64]], statuses: str = "ok") -> Tally:
    found = Tally()
    for gaps in requests:
        found.requests += 1
        found.add_status([statuses] * len(gaps))
        found.add_years("gap", gaps)
        found.add_seconds("answer", 0.002)
    return found


def gaps(requests: int, rows: int, seed: int, mean: float = 0.0, shared: float = 0.0) -> list[NDArray[np.float64]]:
    """Gaps of requests of up to ``rows`` rows, with a part that the rows of a request share."""
    rng = np.random.default_rng(seed)
    return [mean + shared * rng.normal() + rng.normal(0, 3, rng.integers(1, rows + 1)) for _ in range(requests)]


# --- sums ------------------------------------------------------------------------------------------------------------


def test_sums_of_single_rows_are_those_of_the_textbook() -> None:
    requests = gaps(200, 1, 0)
    values = np.concatenate(requests)
    sums = tally_of(requests).figure("gap")
    assert sums.mean == pytest.approx(values.mean())
    assert sums.sd == pytest.approx(values.std(ddof=1))
    assert sums.variance == pytest.approx(values.var(ddof=1) / len(values))


def test_the_difference_of_single_rows_is_welchs() -> None:
    first, second = gaps(300, 1, 1), gaps(60, 1, 2, mean=0.7)
    expected = stats.ttest_ind(np.concatenate(second), np.concatenate(first), equal_var=False)
    interval = expected.confidence_interval(0.95)
    found = split_figures(tally_of(first), tally_of(second)).differences["gap_years"]
    middle = np.concatenate(second).mean() - np.concatenate(first).mean()
    assert found == pytest.approx((middle, interval.low, interval.high))


def test_intervals_hold_what_they_should_though_rows_of_a_request_are_alike() -> None:
    """Taken for independent, the rows would give intervals that hold the truth two times in three."""
    held = 0
    for seed in range(400):
        spread = split_figures(tally_of(gaps(60, 12, seed, shared=2.0)), Tally()).champion.gap
        assert spread.interval is not None
        held += spread.interval[0] <= 0.0 <= spread.interval[1]
    assert 0.91 <= held / 400 <= 0.98


def test_sums_in_parts_add_up_and_survive_json() -> None:
    requests = gaps(50, 9, 3)
    whole, parts = tally_of(requests), Tally()
    for start in range(0, 50, 7):
        parts.merge(Tally.from_json(json.loads(json.dumps(tally_of(requests[start : start + 7]).to_json()))))
    assert parts.requests == whole.requests
    assert parts.counts == whole.counts
    assert (parts.years["gap"].counts == whole.years["gap"].counts).all()
    assert vars(parts.figure("gap")) == pytest.approx(vars(whole.figure("gap")))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_quantiles_are_right_to_the_width_of_a_bin(share: float) -> None:
    values = np.random.default_rng(4).normal(1, 3, 5000)
    bins = Bins("years")
    bins.add(values)
    assert bins.quantile(share) == pytest.approx(np.quantile(values, share), abs=0.11)
    seconds = Bins("seconds")
    seconds.add(np.exp(values / 3 - 6))
    assert seconds.quantile(share) == pytest.approx(np.quantile(np.exp(values / 3 - 6), share), rel=0.06)


def test_no_difference_is_a_median_of_zero_and_bins_hold_every_value() -> None:
    bins = Bins("years")
    bins.add(np.zeros(20))
    assert bins.quantile(0.5) == 0.0
    assert bins.quantile(0.05) is None  # one of twenty would be it
    bins.add(np.array([-1e300, 1e300, 5.0, -5.0]))
    assert bins.counts.sum() == 24
    assert (bins.between(float("-inf"), -5), bins.between(-5, 5), bins.between(5, float("inf"))) == (1, 21, 2)


# --- what may be said ------------------------------------------------------------------------------------------------


def test_no_cell_under_five_and_none_to_work_out() -> None:
    tally = tally_of(gaps(100, 3, 5))
    tally.add_status(["abstain"] * 3)
    figures = split_figures(tally, Tally()).champion
    assert figures.status == {"ok": None, "warn": 0, "abstain": None}  # the rows less the others would give it away
    assert figures.rows == tally.counts.total()
    for seed in range(50):
        arm = split_figures(tally_of(gaps(4, 4, seed)), Tally()).champion
        counts = [round(share * 1e6) for share in arm.gap.shares.values() if share]
        rows = sum(len(each) for each in gaps(4, 4, seed))
        assert all(count * rows / 1e6 >= SMALLEST_CELL - 0.01 for count in counts)


def test_a_shadow_shows_agreement_in_cells_of_five() -> None:
    tally = Tally(requests=9)
    tally.counts.update({"ok/ok": 900, "ok/warn": 6, "warn/ok": 4, "abstain/abstain": 7})
    tally.figure("rows").add(917, 0, 0)
    found = shadow_figures(tally).agreement
    assert found["warn/ok"] is None
    assert found["ok/warn"] is None  # with it hidden, four cannot be worked out
    assert (found["ok/ok"], found["abstain/abstain"], found["warn/warn"]) == (900, 7, 0)


def test_the_report_reads_at_a_terminal_and_as_json(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, today=lambda: "2026-11-20")
    ledger.add(CHAMPION, lambda tally: tally.merge(tally_of(gaps(900, 3, 6))))
    ledger.add(CHALLENGER, lambda tally: tally.merge(tally_of(gaps(100, 3, 7, mean=1.0))))
    ledger.flush()
    text = report(tmp_path, "", as_json=False)
    assert "| requests " in text
    assert "900 (90.0 %)" in text
    assert all(
        len({line.count("|") for line in block.splitlines()}) == 1 for block in text.split("\n\n") if "|" in block
    )
    document = json.loads(report(tmp_path, "", as_json=True))
    value, low, high = document["splits"][0]["differences"]["gap_years"]
    assert low < 1.0 < high
    assert low < value < high
    with pytest.raises(BadInput, match="nothing to compare since 2026-11-21"):
        report(tmp_path, "2026-11-21", as_json=False)
    with pytest.raises(BadInput, match="expected a day"):
        report(tmp_path, "yesterday", as_json=False)


# --- files -----------------------------------------------------------------------------------------------------------


def test_two_states_of_a_file_differ_by_five_rows_or_none(tmp_path: Path) -> None:
    ledger, before = Ledger(tmp_path), 0
    for request in gaps(60, 3, 8):
        ledger.add(CHAMPION, lambda tally, request=request: tally.merge(tally_of([request])))  # type: ignore[misc]
        ledger.flush()
        rows = sum(tally.figure("gap").rows for tally in read_ledgers(tmp_path).tallies.values())
        assert rows == before or rows - before >= SMALLEST_CELL
        before = rows
    assert before > 50


def test_processes_and_days_add_up(tmp_path: Path) -> None:
    day = ["2026-11-20"]
    ledgers = [Ledger(tmp_path, today=lambda: day[0]) for _ in range(3)]
    for ledger in ledgers:
        ledger.add(SHADOW, lambda tally: tally.merge(tally_of(gaps(10, 1, 9))))
        ledger.flush()
    day[0] = "2026-11-21"
    for ledger in ledgers:
        ledger.flush()  # the day ends
        ledger.add(SHADOW, lambda tally: tally.merge(tally_of(gaps(10, 1, 9))))
        ledger.flush()
    assert len(list((tmp_path / FOLDER).iterdir())) == 6
    assert read_ledgers(tmp_path).tallies[SHADOW].requests == 60
    assert read_ledgers(tmp_path, since="2026-11-21").tallies[SHADOW].requests == 30


def test_a_disk_that_is_full_is_said_once_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("henaw.data.files.os.fsync", full)
        for _ in range(3):
            ledger.add(CHAMPION, lambda tally: tally.merge(tally_of(gaps(10, 1, 10))))
            assert ledger.flush()[1] is False
    assert not list((tmp_path / FOLDER).glob("*.json"))
    assert len([record for record in caplog.records if "not written" in record.getMessage()]) == 1
    assert ledger.flush()[1] is True
    assert read_ledgers(tmp_path).tallies[CHAMPION].requests == 30


def test_a_file_that_is_none_of_ours_is_counted_and_passed_over(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(CHAMPION, lambda tally: tally.merge(tally_of(gaps(10, 1, 11))))
    ledger.flush()
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"format": 1, "day": "x", "records": [{}]}'), ("d", "{}")):
        (tmp_path / FOLDER / f"{name}.json").write_text(text)
    assert read_ledgers(tmp_path).unreadable == 4
    assert "4 file(s) could not be read" in report(tmp_path, "", as_json=False)
