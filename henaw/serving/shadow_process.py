"""The program that scores samples with the challenger, and keeps sums of how it differs.

``python -m henaw.serving.shadow_process ADDRESS STATE RELOAD_SECONDS DESCRIPTOR``: samples come through the socket
DESCRIPTOR; it ends where that does, which is when the server is gone, however it went.
"""

from __future__ import annotations

import asyncio
import json
import logging
import select
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from henaw.console import set_up_logging
from henaw.errors import trace_without_text
from henaw.serving.challenger import Follower
from henaw.serving.csv_rows import ask_mlflow
from henaw.serving.fast import answer_rows, to_json
from henaw.serving.ledger import FLUSH_SECONDS, Ledger, Subject
from henaw.serving.lifecycle import Load, Served
from henaw.serving.refusals import Refusal
from henaw.serving.schema import read_rows
from henaw.serving.shadow import HEADER
from henaw.serving.strict_json import decode_object
from henaw.serving.tallies import Tally

logger = logging.getLogger(__name__)

AGE = "biological_age_years"


def compare(champion: bytes, challenger: bytes, tally: Tally) -> None:
    """Count how two replies to the same rows differ."""
    mine, theirs = (json.loads(reply)["predictions"] for reply in (champion, challenger))
    pairs = list(zip(mine, theirs, strict=True))
    tally.requests += 1
    tally.counts.update(f"{one['status']}/{other['status']}" for one, other in pairs)
    both = [(one[AGE], other[AGE]) for one, other in pairs if one[AGE] is not None and other[AGE] is not None]
    ages: NDArray[np.float64] = np.array(both, dtype=np.float64).reshape(-1, 2)
    differences = ages[:, 1] - ages[:, 0]
    tally.figure("rows").add(len(pairs), 0.0, 0.0)
    tally.add_years("difference", differences)
    distance = np.abs(differences)
    tally.figure("distance").add(len(both), float(distance.sum()), float(np.square(distance).sum()))


def answer(served: Served, csv: bool, body: bytes) -> bytes:
    """The challenger's reply to a request's body."""
    if csv:
        return asyncio.run(ask_mlflow(served.mlflow_app, body)).body
    return to_json(answer_rows(served.clock, read_rows(served.clock.panel, decode_object(body), sys.maxsize)))


class Scorer:
    """Scores samples, and counts in a ledger."""

    def __init__(self, address: str, load: Load, state: Path) -> None:
        """``load`` finds what ``address`` names."""
        self._samples: Counter[str] = Counter()
        self.follower = Follower("shadow", address, load, lambda: None)
        self._ledger = Ledger(state)

    def score(self, told: dict[str, Any], body: bytes, champion: bytes) -> None:
        """Score one sample; whatever goes wrong is counted, and said once."""
        served = self.follower.served
        if served is None or told["champion"] == f"{served.name}/{served.number}":
            self._samples["skipped"] += 1  # nothing to compare with
            return
        subject = Subject("shadow", told["champion"], f"{served.name}/{served.number}", "both")
        began = time.perf_counter()
        found = Tally()
        try:
            challenger = answer(served, told["csv"], body)
            seconds = time.perf_counter() - began
            compare(champion, challenger, found)
        except Exception as error:  # noqa: BLE001 - the challenger may be broken in any way
            reason = error.code if isinstance(error, Refusal) else trace_without_text(error)
            self.follower.say(f"raised {reason}; the answers are the champion's as ever")
            self._samples["failed"] += 1
            self._ledger.add(subject, lambda tally: tally.counts.update(["failed"]))
            return
        found.add_seconds("champion", told["seconds"])
        found.add_seconds("challenger", seconds)
        self._samples["compared"] += 1
        self._ledger.add(subject, lambda tally: tally.merge(found))

    def flush(self) -> bytes:
        """Write the sums; returns what the server is told of them."""
        left, done = self._ledger.flush()
        distances = [tally.figures["distance"] for tally in left.values() if "distance" in tally.figures]
        said = {
            "samples": dict(self._samples),
            "rows": sum(sums.rows for sums in distances),
            "absolute_years": sum(sums.total for sums in distances),
            "lost": int(not done),
        }
        self._samples.clear()
        return json.dumps(said).encode() + b"\n"


def _received(source: socket.socket, size: int) -> bytes:
    """``size`` bytes; ``EOFError`` where there are fewer."""
    parts = bytearray()
    while len(parts) < size:
        part = source.recv(min(1 << 20, size - len(parts)))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def run(source: socket.socket, scorer: Scorer, reload_seconds: float) -> None:
    """Score what comes until nothing does any more."""
    scorer.follower.refresh()
    now = time.monotonic()
    flush_at, reload_at = now + FLUSH_SECONDS, now + reload_seconds
    with suppress(EOFError, ConnectionError):
        while True:
            due = min(flush_at, reload_at) if reload_seconds else flush_at
            if select.select([source], [], [], max(0.0, due - time.monotonic()))[0]:
                told = json.loads(_received(source, HEADER.unpack(_received(source, HEADER.size))[0]))
                scorer.score(told, _received(source, told["body"]), _received(source, told["answer"]))
            now = time.monotonic()
            if now >= flush_at:
                source.sendall(scorer.flush())
                flush_at = now + FLUSH_SECONDS
            if reload_seconds and now >= reload_at:
                scorer.follower.refresh()
                reload_at = time.monotonic() + reload_seconds
    said = scorer.flush()
    with suppress(OSError):
        source.sendall(said)


def main(address: str, state: str, reload_seconds: str, descriptor: str) -> None:
    """Score until the server is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends when the server has, which ends the socket
    set_up_logging()
    from henaw.serving.application import registry_loader

    with socket.socket(fileno=int(descriptor)) as source:
        run(source, Scorer(address, registry_loader(address), Path(state)), float(reload_seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
