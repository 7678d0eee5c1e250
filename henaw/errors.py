"""The errors HENAW raises on purpose.

Each is one line for a person: what is wrong, where, and what was expected. A message may name files, columns, keys,
rules and counts, never a participant's value or id. The class decides the exit code of ``henaw`` and
``python -m pipelines.…``.
"""

from __future__ import annotations

import traceback
from pathlib import Path


class HenawError(Exception):
    """Base of every error a user is meant to read; its text is the whole message. Raised itself: a fault of HENAW's."""

    exit_code = 70


class Refused(HenawError):
    """A gate said no (exit 1): nothing is broken, the evidence was not good enough."""

    exit_code = 1


class BadInput(HenawError):
    """What the user gave cannot be used (exit 2): a file, column, key, value or parameter."""

    exit_code = 2


class NoSuchVersion(BadInput):
    """The registry has no such model, version or alias (exit 2); it may have one later, as aliases move."""


class NotBuiltYet(BadInput):
    """The stage or option is planned and does not exist in this version (exit 2)."""


class EnvironmentProblem(HenawError):
    """The machine or a service lets us down (exit 3): no disk space, no memory, no tracking server, no such package."""

    exit_code = 3


class IntegrityError(BadInput):
    """Stored files do not match their manifest, or belong to another architecture (exit 2); nothing was loaded."""


def trace_without_text(error: BaseException) -> str:
    """The type of ``error`` and where it was raised, without its text, which may hold a participant's value."""
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__} at {' > '.join(places)}"
