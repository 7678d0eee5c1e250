"""A PostgreSQL server of the tests' own, from the distribution's packages; where it is absent they skip."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running_server() -> Iterator[str]:
    """The address of an empty database, for the length of the block."""
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL (Debian: apt-get install postgresql), which is absent here")
    user = _user()
    with tempfile.TemporaryDirectory(prefix="henaw-test-") as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        data, log = str(folder / "data"), str(folder / "log")
        started = {"user": user, "cwd": folder, "check": True, "capture_output": True, "timeout": 120}
        subprocess.run([programs / "initdb", "-D", data, "-U", "henaw", "-A", "trust", "--no-sync"], **started)  # type: ignore[call-overload]
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        subprocess.run([programs / "pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "start"], **started)  # type: ignore[call-overload]
        try:
            yield f"postgresql://henaw@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], **started)  # type: ignore[call-overload]


def _programs() -> Path | None:
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), *map(Path, os.get_exec_path())]
    return next((folder for folder in folders if all((folder / name).exists() for name in ("initdb", "pg_ctl"))), None)


def _user() -> str | None:
    """Whom to run it as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    found = next((name for name in ("postgres", "nobody") if name in names), None)
    if found is None:
        pytest.skip("PostgreSQL does not run as root, and there is no other user here")
    return found
