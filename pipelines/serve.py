"""Stage serve: Serve a registered model behind the guard (not built yet)."""

from __future__ import annotations

import sys

from henaw.config import load_config
from henaw.console import run_stage
from henaw.errors import NotBuiltYet


def main(
    profile: str = "default",
    data: str = "",
    overrides: str = "",
    model: str = "models:/henaw@champion",
    host: str = "127.0.0.1",
    port: int = 5001,
) -> None:
    """Serve a registered model behind the guard (not built yet)."""
    load_config(profile, data, overrides)
    raise NotBuiltYet(
        "serve: not built yet in this version; use mlflow models serve -m models:/henaw@champion --env-manager local"
    )


if __name__ == "__main__":
    sys.exit(run_stage(main))
