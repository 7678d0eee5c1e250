"""The era in which a person was examined, told to the network in training so that it answers as of the newest.

Assays and populations drift. Trained on all eras alike, a network answers for their middle; told which era a person is
of, it learns the drift with everything else, from everyone. A fitted clock is asked about today: the newest training
era is 0, and an input that is always 0 is no input, so it is taken away with its weights once training is over.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.errors import BadInput
from henaw.settings import Training

Array = NDArray[np.float64]

STEP = 0.25  # of the input for an era: the larger, the easier the network bends to a single one (docs/model.md)


def eras(people: pd.DataFrame, calibration: pd.DataFrame, settings: Training) -> tuple[Array, Array] | None:
    """The input for each of the training and calibration people, (n,) each: 0 in the newest era, less before it.

    The values of ``training.era_column``, sorted as numbers where all are and as text otherwise (``1999-2000`` before
    ``2001-2002``), are the eras; one that is newer than anybody's who trains counts as the newest of those, because
    nobody would have taught the network what it means. None without a column.

    Raises:
        BadInput: the table has no such column, or somebody has no value in it.
    """
    name = settings.era_column
    if name is None:
        return None
    if name not in people or people[name].isna().any() or calibration[name].isna().any():
        raise BadInput(f"training.era_column: column {name} is missing for somebody; expected it for everyone")
    texts = pd.concat([people[name], calibration[name]])
    numbers = pd.to_numeric(texts, errors="coerce")
    rank = (texts.astype("str") if numbers.isna().any() else numbers).rank(method="dense").to_numpy(np.float64)
    era = STEP * np.minimum(rank - rank[: len(people)].max(), 0.0)
    return era[: len(people)], era[len(people) :]


def without_era(weights: dict[str, Array]) -> dict[str, Array]:
    """``weights`` of a network whose last input was the era, for answers as of the newest."""
    return weights | {"layer0.weight": weights["layer0.weight"][:, :-1]}
