"""Stage promote: Move the alias champion by evidence (not built yet)."""

from __future__ import annotations

import sys

from henaw.config import load_config
from henaw.console import run_stage
from henaw.errors import NotBuiltYet


def main(profile: str = "default", data: str = "", overrides: str = "", model: str = "") -> None:
    """Move the alias champion by evidence (not built yet)."""
    load_config(profile, data, overrides)
    raise NotBuiltYet("promote: not built yet in this version; aliases can be set by hand in the MLflow UI")


if __name__ == "__main__":
    sys.exit(run_stage(main))
