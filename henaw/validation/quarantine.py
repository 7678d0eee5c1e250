"""The rows that validation set aside, kept in a local file for the person who must look into them.

The file holds individual-level data: mode 0600, beside the cache, never logged to MLflow.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from henaw.data.files import write_atomically
from henaw.errors import BadInput
from henaw.validation.verdict import Verdict


def write_quarantine(path: Path, table: pd.DataFrame, verdict: Verdict) -> None:
    """Write the rows of the judged ``table`` that ``verdict`` sets aside to ``path`` (.csv or .parquet).

    A last column ``rule`` names the first rule that set the row aside. With no such row the file has a header alone.

    Raises:
        BadInput: another suffix.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise BadInput(f"{path}: a quarantine file ends in .csv or .parquet")
    rows = verdict.quarantined(table)

    def write(temporary: Path) -> None:
        if path.suffix == ".csv":
            rows.to_csv(temporary, index=False)
        else:
            rows.to_parquet(temporary, index=False)

    write_atomically(path, write, mode=0o600)
