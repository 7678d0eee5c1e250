"""A process that helps another one train: ``python -m henaw.training.helper MEETING RANK SIZE``, started by it."""

from __future__ import annotations

import sys
from pathlib import Path

from henaw.console import run_command
from henaw.training.ranks import RankLost
from henaw.training.together import assist


def main(meeting: str, rank: str, size: str) -> int:
    """Help, and be silent about what rank 0 says itself."""

    def help_out() -> None:
        try:
            assist(Path(meeting), int(rank), int(size))
        except RankLost:
            sys.exit(RankLost.exit_code)

    return run_command(help_out)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
