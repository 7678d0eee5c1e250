"""Stage monitor: Watch what a served model receives (not built yet)."""

from __future__ import annotations

import sys

from henaw.config import load_config
from henaw.console import run_stage
from henaw.errors import NotBuiltYet


def main(profile: str = "default", data: str = "", overrides: str = "") -> None:
    """Watch what a served model receives (not built yet)."""
    load_config(profile, data, overrides)
    raise NotBuiltYet("monitor: not built yet in this version")


if __name__ == "__main__":
    sys.exit(run_stage(main))
