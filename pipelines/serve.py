"""Stage serve: a registered model behind the guard, until a signal ends it."""

from __future__ import annotations

import sys

from henaw.config import load_config
from henaw.console import run_stage
from henaw.errors import BadInput
from henaw.serving.plan import as_overrides
from henaw.serving.server import serve


def main(
    profile: str = "default",
    data: str = "",
    overrides: str = "",
    model: str = "models:/henaw@champion",
    host: str = "127.0.0.1",
    port: int = 5001,
    page: str = "false",
    shadow: str = "",
    split: str = "",
) -> None:
    """Serve MODEL on HOST and PORT, with a PAGE for people, and SHADOW or SPLIT to compare with (docs/serving.md)."""
    if page.lower() not in ("true", "false"):
        raise BadInput(f"page: expected true or false, found {page!r}")
    wanted = f"{overrides} serving.page=true" if page.lower() == "true" else overrides
    compared = as_overrides([shadow] if shadow else [], [split] if split else [])
    serve(load_config(profile, data, f"{wanted} {compared}"), model, host, port)


if __name__ == "__main__":
    sys.exit(run_stage(main))
