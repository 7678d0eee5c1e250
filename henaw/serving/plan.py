"""What the options and settings ask to be compared with the version that answers."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from henaw.errors import BadInput


@dataclass(frozen=True)
class Plan:
    """Whom to compare the champion with, and how.

    Attributes:
        shadow: address of the version that is asked as well, None = none.
        shadow_share: share of requests for which it is.
        split: address of the version that answers instead, None = none.
        split_share: share of request ids for which it does.
    """

    shadow: str | None
    shadow_share: float
    split: str | None
    split_share: float


def as_overrides(shadow: Sequence[str], split: Sequence[str]) -> str:
    """The settings that options of the command line, each given once or not at all, stand for.

    Raises:
        BadInput: one was given twice.
    """
    for option, values in (("shadow", shadow), ("split", split)):
        if len(values) > 1:
            raise BadInput(f"{option}: given {len(values)} times, expected once; there is one challenger")
    named = {"shadow": shadow, "split": split}
    return " ".join(f"serving.{key}={shlex.quote(json.dumps(values[0]))}" for key, values in named.items() if values)


def plan(model: str, shadow: str | None, shadow_share: float, split: str | None) -> Plan:
    """Read what the settings ask for.

    Args:
        model: address of the champion.
        shadow: an alias of the same model, or an address.
        shadow_share: greater than 0, up to 1.
        split: as ``shadow``, then ``=`` and a share.

    Raises:
        BadInput: a share outside (0, 1], no alias or address, or the champion itself.
    """
    share = 0.0
    if split is not None:
        split, _, text = split.rpartition("=")
        share = _share(text)
    return Plan(
        None if shadow is None else _address("shadow", shadow, model),
        shadow_share,
        None if split is None else _address("split", split, model),
        share,
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = float("nan")
    if not 0 < share <= 1:
        raise BadInput(f"split: expected ALIAS=SHARE with a share greater than 0 and up to 1, found the share {text!r}")
    return share


def _address(option: str, named: str, model: str) -> str:
    name = re.match(r"models:/([^/@]+)", model)
    address = named if named.startswith("models:/") else f"models:/{name[1] if name else ''}@{named}"
    if not re.fullmatch(r"models:/[^/@]+(@[A-Za-z0-9_.-]+|/\d+)", address):
        raise BadInput(f"{option} {named!r}: expected an alias such as challenger, or models:/NAME/VERSION")
    if address == model:
        raise BadInput(f"{option} {named!r}: is the version that answers; expected another one to compare it with")
    return address
