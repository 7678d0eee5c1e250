"""Stage tune: Search for better settings (not built yet)."""

from __future__ import annotations

import sys

from henaw.config import load_config
from henaw.console import run_stage
from henaw.errors import NotBuiltYet


def main(profile: str = "default", data: str = "", overrides: str = "") -> None:
    """Search for better settings (not built yet)."""
    load_config(profile, data, overrides)
    raise NotBuiltYet(
        "tune: not built yet in this version; set network.* and training.* through a profile or overrides"
    )


if __name__ == "__main__":
    sys.exit(run_stage(main))
