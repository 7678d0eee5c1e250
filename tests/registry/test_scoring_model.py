"""What the registered model gives MLflow's scoring server, beside what tests of versions and serving show."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from henaw.model.answers import answer
from henaw.registry.scoring_model import Answered
from tests.scenarios import blood_clock, blood_rows

CLOCK = blood_clock()


@pytest.mark.parametrize("abstains", [False, True])
def test_records_are_those_of_pandas(abstains: bool) -> None:
    rows = blood_rows(5, 0)
    if abstains:
        rows.loc[2, "age_years"] = np.nan
    plain = answer(CLOCK, rows, 0.9)
    found, expected = Answered(plain).to_dict(orient="records"), plain.to_dict(orient="records")
    assert found == expected
    assert [[type(value) for value in row.values()] for row in found] == [
        [type(value) for value in row.values()] for row in expected
    ]
    assert Answered(plain).to_dict() == plain.to_dict()
    assert type(Answered(plain)[["status"]]) is pd.DataFrame
