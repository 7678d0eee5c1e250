"""Who trains, calibrates and tests: by participant, so that all visits of a person fall on one side."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.cohort import PARTICIPANT
from henaw.data.disclosure import publishable
from henaw.data.participants import are_among
from henaw.data.selection import rows_with
from henaw.errors import BadInput
from henaw.settings import Split as SplitSettings

logger = logging.getLogger(__name__)

SIDES = ("train", "calibration", "test")

_NONE, _TRAIN, _CALIBRATION, _TEST = -1, 0, 1, 2


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of rows (for ``iloc``), ascending, and the numbers of people; no person is on two sides.

    ``sides`` holds the people (pseudonyms) of each side.
    """

    train: NDArray[np.intp]
    calibration: NDArray[np.intp]
    test: NDArray[np.intp]
    people: dict[str, int]  # train, calibration, test, left_out
    sides: dict[str, pd.Index[str]]

    def to_dict(self) -> dict[str, int | str]:
        """Numbers of people on each side, and left out, as ``published``."""
        return publishable(self.people)


def split(
    table: pd.DataFrame, settings: SplitSettings, seed: int, known: Mapping[str, pd.Index[str]] | None = None
) -> Split:
    """Divide the participants of ``table``.

    By person, a seeded part of the participants tests. By column, the rows with one of ``settings.test`` test; those
    with one of ``settings.train`` (none named: all with another value) train, but not the rows of people who test. By
    date, the rows after ``settings.day`` test and the others train, in the same way. Then a seeded part of the training
    people calibrates. People are drawn in the order in which they first appear, so the split does not depend on the
    pseudonym key.

    Args:
        table: one row a participant and visit.
        settings: the rule.
        seed: of what is drawn.
        known: people (pseudonyms) by side who stay there whatever the rule says; of their rows only those count that
            the rule allows on that side. So many others are drawn that the fractions are those of ``settings``.

    Raises:
        BadInput: a value that no row has, a cell that is no date, or a side without people.
    """
    person, names = pd.factorize(table[PARTICIPANT])
    order = np.random.default_rng(seed).permutation(len(names))
    side = _known_sides(names, known or {})
    fresh = side == _NONE
    if settings.by == "person":
        may_train = may_test = np.ones(len(table), np.bool_)
        side[_first(order, fresh, round(settings.test_fraction * len(order)) - (side == _TEST).sum())] = _TEST
        side[side == _NONE] = _TRAIN
    else:
        may_test, may_train = (_by_column if settings.by == "column" else _by_date)(table, settings)
        for number, allowed in ((_TEST, may_test), (_TRAIN, may_train)):
            side[_among(person[allowed], len(names)) & (side == _NONE)] = number
    calibrates = side == _CALIBRATION
    trains = ((side == _TRAIN) | calibrates) & _among(person[may_train], len(names))
    more = round(settings.calibration_fraction * trains.sum()) - (calibrates & trains).sum()
    side[_first(order, fresh & (side == _TRAIN), more)] = _CALIBRATION

    of_row = side[person]
    if settings.by != "person" and (unused := (may_train & (of_row == _TEST)).sum()):
        logger.info("split: %d training rows are of people who test, and are left out", unused)
    rows = [may_train & (of_row == _TRAIN), may_train & (of_row == _CALIBRATION), may_test & (of_row == _TEST)]
    people = {name: int(_among(person[chosen], len(names)).sum()) for name, chosen in zip(SIDES, rows, strict=True)}
    for name, count in people.items():
        if not count:
            raise BadInput(
                f"split: nobody is left for {name} among {len(order)} participants; see the settings under split"
            )
    people["left_out"] = len(order) - sum(people.values())
    logger.info("split %d participants: %s", len(order), people)
    train, calibration, test = (np.flatnonzero(chosen) for chosen in rows)
    return Split(
        train,
        calibration,
        test,
        people=people,
        sides={name: pd.Index(names[side == number], dtype="str") for number, name in enumerate(SIDES)},
    )


def _known_sides(names: pd.Index[str], known: Mapping[str, pd.Index[str]]) -> NDArray[np.int8]:
    side = np.full(len(names), _NONE, np.int8)
    for name, people in known.items():
        side[are_among(names, people)] = SIDES.index(name)
    return side


def _first(order: NDArray[np.intp], eligible: NDArray[np.bool_], number: int) -> NDArray[np.intp]:
    """The first ``number`` people of ``order`` who are ``eligible``."""
    return order[eligible[order]][: max(0, number)]


def _among(person: NDArray[np.intp], people: int) -> NDArray[np.bool_]:
    """Which of ``people`` numbers occur in ``person``."""
    found = np.zeros(people, np.bool_)
    found[person] = True
    return found


def _by_column(table: pd.DataFrame, settings: SplitSettings) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows that may test, and rows that may train."""
    column = _column(table, settings)
    for side, values in (("test", settings.test), ("train", settings.train)):
        for value in values:
            if not rows_with(column, [value]).any():
                raise BadInput(f"split.{side}: nobody in the selected cohort has {value!r} in column {settings.column}")
    in_test = rows_with(column, settings.test)
    in_train = rows_with(column, settings.train) if settings.train else column.notna().to_numpy() & ~in_test
    return in_test, in_train


def _by_date(table: pd.DataFrame, settings: SplitSettings) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows that may test, and rows that may train; those without a date do neither."""
    column = _column(table, settings)
    dates = pd.to_datetime(column.astype("str"), format="%Y-%m-%d", errors="coerce")
    if wrong := int((dates.isna() & column.notna()).sum()):
        raise BadInput(
            f"split.column: {wrong} of {len(table)} rows have no date in column {settings.column}; expected days as "
            "2022-11-30, or an empty cell"
        )
    assert settings.day is not None  # the settings' own check
    day = pd.Timestamp(settings.day)
    return (dates > day).to_numpy(), (dates <= day).to_numpy()


def _column(table: pd.DataFrame, settings: SplitSettings) -> pd.Series:
    assert settings.column is not None  # the settings' own check
    if settings.column not in table:
        raise BadInput(f"split.column: the cohort has no column {settings.column}")
    return table[settings.column]
