"""Which run was trained with whom: pseudonyms in a private local folder, for the day when somebody withdraws.

``trainings/<run>.json`` names the set of people of a run, ``trainings/<digest>.people`` holds one: 16 bytes a person,
in order. Runs with the same people share a set.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.files import create_once, private_folder, write_atomically
from henaw.data.participants import PSEUDONYM_LENGTH
from henaw.errors import BadInput, EnvironmentProblem, IntegrityError

_FOLDER = "trainings"
_WIDTH = PSEUDONYM_LENGTH // 2
_RUN = re.compile(r"[A-Za-z0-9_-]{1,64}")


def record_training(state: Path, run_id: str, people: pd.Series[str]) -> None:
    """Note that ``run_id`` was trained, or calibrated, with ``people`` (pseudonyms, any order, repeats allowed).

    Raises:
        BadInput: no name for a run.
        EnvironmentProblem: the disk does not allow it.
    """
    if not _RUN.fullmatch(run_id):
        raise BadInput(f"{run_id!r}: not the id of a run; expected letters, digits, '_' or '-'")
    content = b"".join(sorted({bytes.fromhex(person) for person in people.unique()}))
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    folder = private_folder(private_folder(state) / _FOLDER)
    create_once(folder / f"{digest}.people", lambda temporary: temporary.write_bytes(content))
    record = json.dumps({"people": digest}) + "\n"
    write_atomically(folder / f"{run_id}.json", lambda temporary: temporary.write_text(record))


def trainings_with(state: Path, people: Iterable[str]) -> list[str]:
    """The runs, by id, that were trained with any of ``people`` (pseudonyms).

    What a registered version was trained with is that of the run in its tag ``henaw.training_run``.

    Raises:
        IntegrityError: a record is damaged.
        EnvironmentProblem: it cannot be read.
    """
    folder, wanted = state / _FOLDER, _rows(b"".join(map(bytes.fromhex, people)))
    held: dict[str, bool] = {}
    found = []
    for record in sorted(folder.glob("*.json")):
        try:
            digest = str(json.loads(record.read_text(encoding="utf-8"))["people"])
            if digest not in held:
                content = (folder / f"{digest}.people").read_bytes()
                if hashlib.blake2b(content, digest_size=16).hexdigest() != digest:
                    raise ValueError
                held[digest] = bool(np.isin(wanted, _rows(content)).any())
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            raise IntegrityError(
                f"{record}: damaged; who that run was trained with is not known any more. Train again, then remove it"
            ) from None
        except OSError as error:
            raise EnvironmentProblem(f"{record}: cannot be read: {error.strerror}") from None
        if held[digest]:
            found.append(record.stem)
    return found


def _rows(content: bytes) -> NDArray[np.bytes_]:
    return np.frombuffer(content, f"S{_WIDTH}")  # trailing zero bytes do not count there, yet all are of one width
