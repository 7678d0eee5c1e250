"""JSON as RFC 8259 has it, and stricter: an object, no key twice, finite numbers of sane length, nesting that ends."""

from __future__ import annotations

import json
import re
from typing import Any

from henaw.serving.refusals import Refusal

MOST_NESTING = 32
MOST_DIGITS = 64  # characters of a number

# Characters of numbers as "1", all others as "0": a number that is too long is then a text that is found at once.
_NUMBERS = bytes(b"1"[0] if character in b"-+.0123456789eE" else b"0"[0] for character in range(256))
_LONG_NUMBER = b"1" * (MOST_DIGITS + 1)
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


class _Malformed(ValueError):
    """Raised inside the decoder's hooks; its text is the reason."""


def decode_object(body: bytes) -> dict[str, Any]:
    """The object that ``body`` holds; a number too large for a double comes out infinite: the schema refuses it.

    Raises:
        Refusal: ``MALFORMED_REQUEST``, whatever is wrong with it.
    """
    # Python's own float and int are parsed in C; only where a long number may be is every number looked at.
    decoder = _COUNTING if _LONG_NUMBER in body.translate(_NUMBERS) else _PLAIN
    try:
        value = decoder.decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise malformed("the body is not UTF-8") from None
    except RecursionError:
        raise malformed(f"the body is nested deeper than {MOST_NESTING}") from None
    except _Malformed as error:
        raise malformed(str(error)) from None
    except json.JSONDecodeError as error:
        raise malformed(f"the body is not JSON: fault at character {error.pos}") from None
    if type(value) is not dict:
        raise malformed("the body is not a JSON object")
    return value


def malformed(message: str) -> Refusal:
    """The refusal of a body that is not the JSON asked for."""
    return Refusal("MALFORMED_REQUEST", message)


def require_shallow(value: dict[str, Any] | list[Any]) -> None:
    """Refuse ``value`` where it is nested too deep: asked only of what the schema does not know, which is never deep.

    Raises:
        Refusal: ``MALFORMED_REQUEST``.
    """
    level: list[Any] = [value]
    depth = 1
    while level := [
        part
        for outer in level
        for part in (outer.values() if isinstance(outer, dict) else outer)
        if isinstance(part, dict | list)
    ]:
        depth += 1
        if depth > MOST_NESTING:
            raise malformed(f"the body is nested deeper than {MOST_NESTING}")


def is_too_deep(body: bytes) -> bool:
    """Whether the bytes of a body open more than ``MOST_NESTING`` brackets, found without parsing it."""
    depth = 0
    for found in _STRUCTURE.finditer(body):
        first = found[0][:1]
        if first in b"[{":
            depth += 1
            if depth > MOST_NESTING:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Malformed("a key stands twice in one object")
    return found


def _constant(_: str) -> Any:
    raise _Malformed("NaN and Infinity are not JSON; a missing value is null")


def _counted_float(text: str) -> float:
    return float(_of_sane_length(text))


def _counted_int(text: str) -> int:
    return int(_of_sane_length(text))


def _of_sane_length(text: str) -> str:
    if len(text) > MOST_DIGITS:
        raise _Malformed(f"a number is longer than {MOST_DIGITS} characters")
    return text


_PLAIN = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)
_COUNTING = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_counted_float, parse_int=_counted_int
)
