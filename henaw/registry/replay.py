"""What earlier runs could not write to the tracking store, and writing it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from henaw.errors import BadInput, EnvironmentProblem
from henaw.registry.spool import Spool
from henaw.registry.stores import bounded_requests, require_tracking
from henaw.registry.writer import sending


@dataclass(frozen=True)
class Unsent:
    """What a run has left behind: its folder, its id, its stage, and the address of the store it belongs to."""

    folder: Path
    run: str
    stage: str
    store: str


def spool_folder(state: Path, run: str) -> Path:
    """Where what run ``run`` has still to write waits, below the folder of local state."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", run):
        raise BadInput(f"run {run!r}: expected the id of a run")
    return state / "spool" / run


def unsent(state: Path) -> list[Unsent]:
    """What runs have left behind below ``state``, in the order in which they began; those still at it included."""
    found = []
    for path in sorted((state / "spool").glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime):
        with path.open(encoding="utf-8") as file:
            first = file.readline()
        try:
            header = json.loads(first)["header"]
            found.append(Unsent(path.parent, header["run"], header["stage"], header["store"]))
        except (ValueError, KeyError):  # nothing was ever written after it
            continue
    return found


def replay(left: Unsent, store: str) -> int:
    """Write what ``left`` holds to ``store``, the one MLflow is set to; returns how many entries that were.

    Raises:
        BadInput: it belongs to another store.
        EnvironmentProblem: its run is still going on, or the store does not take it; what was not written stays.
    """
    if left.store != store:
        raise BadInput(f"run {left.run} belongs to {left.store}: set MLFLOW_TRACKING_URI to it, and again")
    spool = Spool(left.folder)
    try:
        pending = spool.pending
        for call in sending(spool, MlflowClient()):
            call()
        return pending
    except Exception as error:
        raise EnvironmentProblem(
            f"run {left.run}: {spool.pending} of {pending} entries are still to be written ({type(error).__name__})"
        ) from error
    finally:
        spool.close()


def replay_all(state: Path) -> Iterator[str]:
    """Write all that runs have left behind below ``state``; yields a line about each run.

    Raises:
        EnvironmentProblem: the store does not answer, or, when all have been tried, some are not whole yet.
    """
    left = unsent(state)
    if not left:
        yield "Nothing is waiting: the tracking store has all that was logged on this machine."
        return
    store, failed = require_tracking(), 0
    for each in left:
        try:
            with bounded_requests():
                written = replay(each, store)
            refused = "; what it refuses is kept in " + str(each.folder) if each.folder.exists() else ""
            yield f"run {each.run} ({each.stage}): {written} entries written{refused}"
        except (BadInput, EnvironmentProblem) as error:
            failed += 1
            yield str(error)
    if failed:
        raise EnvironmentProblem(
            f"{failed} of {len(left)} runs are not whole in the tracking store yet; nothing is lost"
        )
