"""Who trains, calibrates and tests: by participant, so that all visits of a person fall on one side."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.cohort import PARTICIPANT, rows_with
from henaw.data.participants import publishable
from henaw.errors import BadInput
from henaw.settings import Split as SplitSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of rows (for ``iloc``), ascending, and the numbers of people; no person is on two sides."""

    train: NDArray[np.intp]
    calibration: NDArray[np.intp]
    test: NDArray[np.intp]
    people: dict[str, int]  # train, calibration, test, left_out

    def to_dict(self) -> dict[str, int | str]:
        """Numbers of people on each side, and left out; one to four stand as ``"<5"``."""
        return publishable(self.people)


def split(table: pd.DataFrame, settings: SplitSettings, seed: int) -> Split:
    """Divide the participants of ``table``.

    By person, a seeded part of the participants tests. By column, the rows with one of ``settings.test`` test; those
    with one of ``settings.train`` (none named: all with another value) train, but not the rows of people who test.
    Then a seeded part of the training people calibrates. People are drawn in the order in which they first appear, so
    the split does not depend on the pseudonym key.

    Raises:
        BadInput: a value that no row has, or a side without people.
    """
    person = pd.factorize(table[PARTICIPANT])[0]
    order = np.random.default_rng(seed).permutation(person.max() + 1) if len(person) else person
    if settings.by == "person":
        tests = order[: round(settings.test_fraction * len(order))]
        in_test = np.isin(person, tests)
        in_train = ~in_test
    else:
        in_test, in_train = _by_column(table, settings)
        tests = np.unique(person[in_test])
        of_testers = in_train & np.isin(person, tests)
        in_train = in_train & ~of_testers
        if of_testers.any():
            logger.info("split: %d training rows are of people who test, and are left out", of_testers.sum())
    trains = order[np.isin(order, person[in_train])]
    calibrates = trains[: round(settings.calibration_fraction * len(trains))]
    in_calibration = in_train & np.isin(person, calibrates)
    sides = {"train": in_train & ~in_calibration, "calibration": in_calibration, "test": in_test}
    people = {name: len(np.unique(person[side])) for name, side in sides.items()}
    for name, count in people.items():
        if not count:
            raise BadInput(
                f"split: nobody is left for {name} among {len(order)} participants; see the settings under split"
            )
    people["left_out"] = len(order) - sum(people.values())
    logger.info("split %d participants: %s", len(order), people)
    return Split(**{name: np.flatnonzero(side) for name, side in sides.items()}, people=people)


def _by_column(table: pd.DataFrame, settings: SplitSettings) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    assert settings.column is not None  # the settings' own check
    if settings.column not in table:
        raise BadInput(f"split.column: the cohort has no column {settings.column}")
    column = table[settings.column]
    for side, values in (("test", settings.test), ("train", settings.train)):
        for value in values:
            if not rows_with(column, [value]).any():
                raise BadInput(f"split.{side}: nobody in the selected cohort has {value!r} in column {settings.column}")
    in_test = rows_with(column, settings.test)
    in_train = rows_with(column, settings.train) if settings.train else column.notna().to_numpy() & ~in_test
    return in_test, in_train
