"""Splits that last: whoever was on a side stays there when the cohort grows or is read again.

A file of ``splits/`` in the state folder (mode 0600) holds the pseudonyms of each side. It is known by the settings
that the split and the choice of people follow from, but not by the source's bytes: a newer export of the same study
finds the sides of the older one. An equal source gives the equal split, with the file or without.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Set
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from henaw.config import Config
from henaw.data.cohort import PARTICIPANT, source_kind
from henaw.data.files import digest_values, private_folder, write_atomically
from henaw.data.locks import locked
from henaw.data.participants import PSEUDONYM_LENGTH, are_among, key_fingerprint, load_or_create_key
from henaw.data.splits import SIDES, Split, split
from henaw.errors import EnvironmentProblem, IntegrityError

logger = logging.getLogger(__name__)

_FORMAT = 1
_FOLDER = "splits"


def kept_split(table: pd.DataFrame, config: Config) -> Split:
    """``split`` of ``table`` by ``config``, in which people keep the sides that an earlier run gave them.

    Where rows are people of their own (``source.id_columns: []``) or drawn anew, nobody can be known again, and nothing
    is kept.

    Raises:
        BadInput: as ``split``.
        IntegrityError: the file is damaged.
        EnvironmentProblem: the disk does not allow it.
    """
    kind, state = source_kind(config), Path(config.state.folder)
    if kind == "synthetic" or (kind == "table" and not config.source.id_columns):
        return split(table, config.split, config.seed)
    path = private_folder(private_folder(state) / _FOLDER) / f"{_lineage(config, kind, state)}.json"
    with locked(path.with_suffix(".lock"), config.state.lock_seconds):
        known = _read(path)
        parts = split(table, config.split, config.seed, known)
        new = {side: people[~are_among(people, known[side])] for side, people in parts.sides.items()}
        strangers = sum(map(len, new.values()))
        if strangers:
            _write(path, {side: known[side].append(new[side]) for side in SIDES})
    if strangers < table[PARTICIPANT].nunique():
        logger.info("split: people keep their sides of an earlier run; %d are new", strangers)
    return parts


def remove_people(state: Path, people: Set[str]) -> int:
    """Remove ``people`` (pseudonyms) from all splits that are kept in folder ``state``; returns how many had one.

    Raises:
        IntegrityError: a file is damaged.
        EnvironmentProblem: the disk does not allow it.
    """
    changed = 0
    for path in sorted((state / _FOLDER).glob("*.json")):
        with locked(path.with_suffix(".lock"), 60.0):
            known = _read(path)
            left = {side: members[~are_among(members, people)] for side, members in known.items()}
            if any(len(left[side]) < len(known[side]) for side in SIDES):
                _write(path, left)
                changed += 1
    return changed


def _lineage(config: Config, kind: str, state: Path) -> str:
    reading = config.source.model_dump(mode="json", exclude={"kind", "data", "withdrawals", "people", "ages"})
    return digest_values(
        {
            "format": _FORMAT,
            "kind": kind,
            "source": reading,
            "cohort": config.cohort.model_dump(mode="json"),
            "panel": config.panel,
            "target": config.target,
            "split": config.split.model_dump(mode="json"),
            "seed": config.seed,
            "pseudonyms": key_fingerprint(load_or_create_key(state)),
        }
    )[:32]


def _read(path: Path) -> dict[str, pd.Index[str]]:
    """The people of each side; nobody where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {side: pd.Index([], dtype="str") for side in SIDES}
    except OSError as error:
        raise EnvironmentProblem(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        content = None
    if not _is_whole(content):
        raise IntegrityError(
            f"{path}: damaged; remove it for a split drawn anew, in which people who tested may train, or restore it"
        )
    return {side: _cut(content["sides"][side]) for side in SIDES}


def _write(path: Path, sides: dict[str, pd.Index[str]]) -> None:
    texts = {side: "".join(people) for side, people in sides.items()}
    content = json.dumps({"digest": digest_values(texts), "sides": texts})
    write_atomically(path, lambda temporary: temporary.write_text(content))


def _is_whole(content: Any) -> bool:
    try:
        return bool(content["digest"] == digest_values(content["sides"]) and set(content["sides"]) == set(SIDES))
    except (TypeError, KeyError):
        return False


def _cut(text: str) -> pd.Index[str]:
    fixed, number = pa.binary(PSEUDONYM_LENGTH), len(text) // PSEUDONYM_LENGTH
    people = pa.FixedSizeBinaryArray.from_buffers(fixed, number, [None, pa.py_buffer(text.encode())])
    index: pd.Index[str] = pd.Index(people.cast(pa.binary()).cast(pa.string()).to_pandas(), dtype="str")
    return index
