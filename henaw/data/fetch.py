"""One file from a web server, over connections that break: continued where it stopped, and tried again."""

from __future__ import annotations

import email.utils
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from henaw import __version__
from henaw.errors import BadInput, EnvironmentProblem

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Is told how many bytes there are, and how many there will be where the server said so."""

_BLOCK_BYTES = 1 << 16
_WORTH_ANOTHER_TRY = (408, 425, 429)  # and all from 500
_RANGE_NOT_THERE = 416


@dataclass(frozen=True)
class Patience:
    """Tries of a download, the pause before the second (it doubles with each), and how long a server may be silent."""

    tries: int = 5
    pause_seconds: float = 1.0
    silence_seconds: float = 60.0


PATIENT = Patience()


class _Interrupted(Exception):
    """The transfer stopped; another try may go on."""


def fetch_file(address: str, part: Path, progress: Progress, patience: Patience) -> None:
    """Bring the file at ``address`` to ``part``; what an earlier try or run left there is continued.

    Only bytes of the same version of the file are joined: the server's time of its last change is kept as that of
    ``part``. Where the server gives none, or sends the whole file each time, the download begins anew.

    Raises:
        BadInput: ``address`` is none of the web.
        EnvironmentProblem: the server cannot be reached, refuses, sends a web page or breaks off each time; or the disk
            does not take the file. What came is kept.
    """
    require_web_address(address)
    for tried in range(1, patience.tries + 1):
        try:
            _continue(address, part, progress, patience.silence_seconds)
        except _Interrupted as fault:
            if tried == patience.tries:
                raise EnvironmentProblem(
                    f"{address}: {fault}, in the last of {tried} tries; run again to go on"
                ) from None
            pause = patience.pause_seconds * 2 ** (tried - 1)
            logger.warning("%s: %s; trying again in %g s", address, fault, pause)
            time.sleep(pause)
        else:
            return


def require_web_address(address: str) -> None:
    """Check that ``address`` may be one of the web.

    Raises:
        BadInput: it is none.
    """
    try:
        scheme = urllib.parse.urlsplit(address).scheme
    except ValueError:
        scheme = ""
    if scheme not in ("http", "https"):
        raise BadInput(f"{address}: expected an address that begins with https:// or http://")


def _continue(address: str, part: Path, progress: Progress, silence_seconds: float) -> None:
    """One try.

    Raises:
        _Interrupted: it stopped before the end.
    """
    have, changed = (part.stat().st_size, int(part.stat().st_mtime)) if part.exists() else (0, 0)
    headers = {"User-Agent": f"henaw/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": email.utils.formatdate(changed, usegmt=True)}
    with _opened(urllib.request.Request(address, headers=headers), part, silence_seconds) as reply:  # noqa: S310
        if reply.headers.get_content_type() == "text/html":
            raise EnvironmentProblem(f"{address}: the server sent a web page in place of the file; is it still there?")
        last_changed = _last_changed(reply)
        begin = 0
        if reply.status == 206:  # some servers heed Range but not If-Range, and some send another range
            if last_changed != changed or _first_byte(reply) != have:
                part.unlink()
                raise _Interrupted("the file is another one than what came before")
            begin = have
        length = reply.headers.get("Content-Length", "")
        end = begin + int(length) if length.isdigit() else None
        try:
            there = _receive(reply, part, begin, lambda count: progress(count, end))
        finally:
            if last_changed is None:
                _forget_unless_complete(part, end)
            elif part.exists():
                os.utime(part, (last_changed, last_changed))
    if end is not None and there < end:
        raise _Interrupted(f"the connection ended after {there:,} of {end:,} bytes")


def _opened(request: urllib.request.Request, part: Path, silence_seconds: float) -> HTTPResponse:
    try:
        reply: HTTPResponse = urllib.request.urlopen(request, timeout=silence_seconds)  # noqa: S310 - its scheme is checked
    except urllib.error.HTTPError as error:
        with error:
            answer = f"the server answers {error.code} {error.reason}"
            if error.code == _RANGE_NOT_THERE:
                part.unlink(missing_ok=True)
                raise _Interrupted("the file is shorter than what came before") from None
            if error.code in _WORTH_ANOTHER_TRY or error.code >= 500:
                raise _Interrupted(answer) from None
            raise EnvironmentProblem(f"{request.full_url}: {answer}") from None
    except (OSError, HTTPException) as error:
        raise _Interrupted(f"no answer ({_reason(error)})") from None
    return reply


def _receive(reply: HTTPResponse, part: Path, begin: int, progress: Callable[[int], None]) -> int:
    """Put what comes into ``part`` from byte ``begin`` on; the number of bytes that are then there."""
    there = begin
    try:
        file = part.open("ab" if begin else "wb")
    except OSError as error:
        raise EnvironmentProblem(f"{part}: cannot be written: {error.strerror}") from None
    with file:
        while True:
            try:
                block = reply.read(_BLOCK_BYTES)
            except (OSError, HTTPException) as error:
                raise _Interrupted(f"the connection broke after {there:,} bytes ({_reason(error)})") from None
            if not block:
                return there
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                raise EnvironmentProblem(f"{part}: cannot be written: {error.strerror}") from None
            there += len(block)
            progress(there)


def _last_changed(reply: HTTPResponse) -> int | None:
    try:
        return int(email.utils.parsedate_to_datetime(reply.headers["Last-Modified"]).timestamp())
    except (TypeError, ValueError):
        return None


def _first_byte(reply: HTTPResponse) -> int | None:
    found = re.match(r"bytes ([0-9]+)-", reply.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _forget_unless_complete(part: Path, end: int | None) -> None:
    """Bytes of which nobody knows from which version of the file they are cannot be continued."""
    if end is not None and part.exists() and part.stat().st_size < end:
        part.unlink()


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", error)
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
