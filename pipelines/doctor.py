"""Stage doctor: is this machine fit for HENAW?"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from henaw import doctor
from henaw.config import load_config
from henaw.console import run_stage


def main(profile: str = "default", data: str = "", overrides: str = "") -> None:
    """Check settings, Python, packages, project files, tracking server, disk and device."""
    load_config(profile, data, overrides)
    findings = doctor.examine(Path.cwd())
    typer.echo("\n".join(doctor.table(findings)))
    doctor.require_fit(findings)


if __name__ == "__main__":
    sys.exit(run_stage(main))
