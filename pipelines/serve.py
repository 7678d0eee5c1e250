"""Stage serve: a registered model behind the guard, until a signal ends it."""

from __future__ import annotations

import sys

from henaw.config import load_config
from henaw.console import run_stage
from henaw.serving.server import serve


def main(
    profile: str = "default",
    data: str = "",
    overrides: str = "",
    model: str = "models:/henaw@champion",
    host: str = "127.0.0.1",
    port: int = 5001,
) -> None:
    """Serve MODEL on HOST and PORT (docs/serving.md)."""
    serve(load_config(profile, data, overrides), model, host, port)


if __name__ == "__main__":
    sys.exit(run_stage(main))
