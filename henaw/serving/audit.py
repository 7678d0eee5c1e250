"""Who asked when, and what became of it: a line of JSON a request, never a value of it."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import threading
import time
from functools import lru_cache
from pathlib import Path

from henaw.errors import EnvironmentProblem
from henaw.serving.asgi import Request

logger = logging.getLogger(__name__)

_QUIET_SECONDS = 60.0


class Audit:
    """Appends lines to a file (mode 0600) that several workers may share, or does nothing without one.

    A disk that is full stops no request: lines that are lost are counted and said to be.
    """

    def __init__(self, path: Path | None) -> None:
        """Open the file.

        Raises:
            EnvironmentProblem: it cannot be opened: better now than when the first request comes.
        """
        self._file: int | None = None
        self._torn, self._said = False, -_QUIET_SECONDS
        self._access = threading.Lock()
        if path is not None:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise EnvironmentProblem(f"{path}: cannot be written: {error.strerror}") from error

    def write(self, request: Request, status: int, code: str, seconds: float) -> bool:
        """Write the line of an answered request; False where it is lost."""
        if self._file is None:
            return True
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        rows = "null" if request.rows is None else request.rows
        line = (  # json.dumps takes four times as long; only a key and a model have names of somebody's choice
            f'{{"time": "{now}", "request_id": "{request.id}", "route": "{request.route}", '
            f'"key": {_json(request.key)}, "model": {_json(request.model)}, "rows": {rows}, "status": {status}, '
            f'"code": "{code}", "milliseconds": {seconds * 1000:.3f}}}\n'
        )
        with self._access:
            return self._append(line.encode())

    def _append(self, line: bytes) -> bool:
        assert self._file is not None
        whole = b"\n" + line if self._torn else line  # what a full disk cut short ends here
        try:
            written = os.write(self._file, whole)  # one call: lines of several workers do not mix
        except OSError as error:
            self._lost(error.strerror or type(error).__name__)
            return False
        if written < len(whole):
            self._torn = True
            self._lost("a line was cut short")
            return False
        self._torn = False
        return True

    def _lost(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._said >= _QUIET_SECONDS:
            self._said = now
            logger.error("the audit file cannot be written (%s): requests go on, their lines are lost", reason)


@lru_cache
def _json(text: str | None) -> str:
    return json.dumps(text)
