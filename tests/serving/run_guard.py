"""``henaw serve`` as a program, with a clock that nobody trained in place of the registry, and short patience."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext

from henaw.config import load_config
from henaw.console import run_command
from henaw.serving import processes, protocol, server
from henaw.serving.lifecycle import Served
from tests.scenarios import blood_clock
from tests.serving.guarded import TRYING, served

HEADER_SECONDS = READING_SECONDS = 0.5


def loader(model: str, *, at_once: bool = True) -> Callable[[int | None], Served | None]:
    clock = blood_clock(target="mortality") if "mortality" in model else TRYING
    return lambda current: served(clock=clock) if current is None else None


if __name__ == "__main__":
    processes.registry_loader = loader  # type: ignore[assignment]
    server.mlflow_beside = nullcontext  # type: ignore[assignment]
    protocol.HEADER_SECONDS, protocol.READING_SECONDS = HEADER_SECONDS, READING_SECONDS
    host, port, overrides = sys.argv[1:]
    config = load_config("default", "", overrides)
    sys.exit(run_command(lambda: server.serve(config, f"models:/{config.model_name}@champion", host, int(port))))
