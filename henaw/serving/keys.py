"""Keys of those who may ask: made by ``henaw keys``, kept as hashes in the state folder, checked for every request.

A key is ``henaw_<id>_<secret>``; the id names it in logs and rates, and 256 random bits of secret need no slow hash.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
from pydantic import TypeAdapter

from henaw.data.files import private_folder, write_atomically
from henaw.errors import BadInput, EnvironmentProblem
from henaw.serving.refusals import Refusal

logger = logging.getLogger(__name__)

KEYS_FILE = "serving-keys.json"
SCOPES = {
    "score": "rows to /invocations, and the description of what it takes",
    "metrics": "figures of the service at /metrics",
}
_FORM = re.compile(rb"(?i:bearer) henaw_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9 ._-]{1,64}")
_LOOK_AGAIN_SECONDS = 1.0
_LOCK_SECONDS = 30.0
_MOST_DAYS = 36_500
_NOBODY = "0" * 64
_CHALLENGE = ((b"www-authenticate", b'Bearer realm="henaw"'),)


@dataclass(frozen=True)
class Key:
    """What is kept of a key: never the key itself.

    Attributes:
        id: 12 hexadecimal digits, public.
        name: what its maker called it.
        digest: SHA-256 of the secret, hexadecimal.
        scopes: names in ``SCOPES``.
        created: day and time, UTC, ISO.
        expires: the same, or None for never.
    """

    id: str
    name: str
    digest: str
    scopes: tuple[str, ...]
    created: str
    expires: str | None


def create_key(folder: Path, name: str, scopes: Sequence[str], days: int | None, now: dt.datetime) -> tuple[Key, str]:
    """Add a key to those kept in ``folder``; returns it and its text, which is kept nowhere.

    Raises:
        BadInput: a name or scope that is none, or a time to live that is over.
        EnvironmentProblem: the file cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise BadInput("name: expected 1 to 64 letters, digits, spaces, dots, hyphens or underscores")
    if not scopes or (unknown := sorted(set(scopes) - SCOPES.keys())):
        raise BadInput(f"scope: expected some of {', '.join(SCOPES)}, found {', '.join(unknown) if scopes else 'none'}")
    if days is not None and not 1 <= days <= _MOST_DAYS:
        raise BadInput(f"days: expected 1 to {_MOST_DAYS}")
    secret = secrets.token_urlsafe(32)
    expires = None if days is None else _text(now + dt.timedelta(days=days))
    key = Key(secrets.token_hex(6), name, _digest(secret), tuple(sorted(set(scopes))), _text(now), expires)
    _change(folder, lambda kept: [*kept, key])
    return key, f"henaw_{key.id}_{secret}"


def revoke_key(folder: Path, id: str) -> None:
    """Forget the key ``id``; a running server refuses it within a second.

    Raises:
        BadInput: there is no such key.
        EnvironmentProblem: the file cannot be read or written.
    """

    def without(kept: list[Key]) -> list[Key]:
        left = [key for key in kept if key.id != id]
        if len(left) == len(kept):
            raise BadInput(f"no key with the id {id!r}; `henaw keys list` shows them")
        return left

    _change(folder, without)


def read_keys(folder: Path) -> list[Key]:
    """The keys kept in ``folder``; none where there is no file.

    Raises:
        EnvironmentProblem: the file cannot be read, or is not what ``henaw keys`` writes.
    """
    path = folder / KEYS_FILE
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(list[Key]).validate_python(kept["keys"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EnvironmentProblem(
            f"{path}: cannot be read as keys ({type(error).__name__}); restore or remove it"
        ) from None


def _change(folder: Path, change: Callable[[list[Key]], list[Key]]) -> None:
    path = private_folder(folder) / KEYS_FILE
    try:
        with filelock.FileLock(f"{path}.lock", timeout=_LOCK_SECONDS, mode=0o600):
            kept: dict[str, Any] = {"keys": [asdict(key) for key in change(read_keys(folder))]}
            write_atomically(path, lambda temporary: temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8"))
    except filelock.Timeout:
        raise EnvironmentProblem(f"{path}: another process has held it for {_LOCK_SECONDS:g} s; try again") from None
    except OSError as error:
        raise EnvironmentProblem(f"{path}: cannot be written: {error.strerror}") from None


class Keyring:
    """The keys as a running server sees them: changes of the file count within a second, without a restart.

    Without any key everybody is let in. A file that breaks, or disappears once there were keys, opens nothing.
    """

    def __init__(self, folder: Path) -> None:
        """Read the keys.

        Raises:
            EnvironmentProblem: the file cannot be read.
        """
        self._folder = folder
        self._keys = {key.id: key for key in read_keys(folder)}
        self._closed = bool(self._keys)
        self._state, self._looked = self._file_state(), time.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether everybody is let in."""
        self._look_again()
        return not self._closed

    def admit(self, authorization: bytes | None) -> Key | None:
        """The key in the header ``Authorization``, or None where everybody is let in.

        Raises:
            Refusal: ``UNAUTHENTICATED``.
        """
        if self.is_open:
            return None
        form = _FORM.fullmatch(authorization or b"")
        key = self._keys.get(form[1].decode()) if form else None
        # as much work for an id that nobody has: its time tells nothing
        same = hmac.compare_digest(_digest(form[2].decode() if form else ""), key.digest if key else _NOBODY)
        if key is None or not same or (key.expires is not None and key.expires <= _text(dt.datetime.now(dt.UTC))):
            message = "expected the header Authorization: Bearer KEY with a key that is valid now"
            raise Refusal("UNAUTHENTICATED", message, headers=_CHALLENGE)
        return key

    def _look_again(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_AGAIN_SECONDS:
            return
        self._looked = now
        state = self._file_state()
        if state == self._state:
            return
        self._state = state
        try:
            self._keys = {key.id: key for key in read_keys(self._folder)}
        except EnvironmentProblem as error:
            logger.error("%s; the keys of before stay in force", error)
            return
        self._closed = self._closed or bool(self._keys)
        logger.info("keys read again: %d", len(self._keys))

    def _file_state(self) -> tuple[int, int, int] | None:
        try:
            found = (self._folder / KEYS_FILE).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _text(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat(timespec="seconds")
