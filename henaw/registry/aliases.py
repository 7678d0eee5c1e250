"""Which version is ``champion``, ``challenger`` and ``previous``: moved so that there is always a champion.

Every single move is one transaction of MLflow's store. Killed between two of them, the champion is the old one or the
new one, and a rollback still finds a version that was champion.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from henaw.errors import BadInput, Refused
from henaw.registry.lineage import RECALIBRATED_TAG, is_withdrawn
from henaw.registry.locking import aliases_locked
from henaw.registry.stores import require_models
from henaw.registry.versions import ABSENT, CHALLENGER, CHAMPION

logger = logging.getLogger(__name__)

PREVIOUS = "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)


def version_with(name: str, alias: str) -> int | None:
    """Number of the version of ``name`` that has ``alias``, None where none has."""
    try:
        return int(MlflowClient().get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code in ABSENT:  # anything else must not pass for "there is none"
            return None
        raise


def move_champion(name: str, number: int, judged_against: int | None) -> None:
    """Make version ``number`` champion, and the one that was, ``previous``.

    Raises:
        Refused: the champion is not the one that it was judged against any more: another promotion was faster.
    """
    client = MlflowClient()
    with aliases_locked(name):
        now = version_with(name, CHAMPION)
        if now != judged_against:
            raise Refused(
                f"promote: another promotion moved champion from {_shown(judged_against)} to {_shown(now)} meanwhile; "
                f"version {number} was judged against the wrong one; nothing was moved, promote again"
            )
        if now is not None:
            client.set_registered_model_alias(name, PREVIOUS, str(now))
        client.set_registered_model_alias(name, CHAMPION, str(number))
        if version_with(name, CHALLENGER) == number:
            client.delete_registered_model_alias(name, CHALLENGER)
    logger.info("%s: champion is version %d, was %s", name, number, _shown(now))


def rollback(name: str, state: Path) -> tuple[int, int]:
    """Make the previous champion the champion again; returns the version that is champion now, and the one that was.

    Who has withdrawn, the version's tag and the local folder ``state`` say.

    Raises:
        BadInput: no such model, or none that was champion before.
        Refused: the previous one was trained with people who have withdrawn since.
        IntegrityError: a record in ``state`` is damaged.
    """
    require_models()
    client = MlflowClient()
    with aliases_locked(name):
        champion, previous = version_with(name, CHAMPION), version_with(name, PREVIOUS)
        if champion is None or previous is None or previous == champion:
            raise BadInput(f"rollback: model {name!r} has no previous champion to go back to; see henaw models list")
        if is_withdrawn(state, name, previous):
            raise Refused(f"rollback: {name} version {previous} was trained with people who have withdrawn since")
        client.set_registered_model_alias(name, CHAMPION, str(previous))
        client.delete_registered_model_alias(name, PREVIOUS)
    logger.info("%s: champion is version %d again, was %d", name, previous, champion)
    return previous, champion


def delete_version(name: str, number: int) -> None:
    """Delete a version that has no alias; MLflow itself would delete a champion without a word.

    Raises:
        BadInput: no such version, it has an alias, or another was recalibrated from it.
    """
    require_models()
    client = MlflowClient()
    with aliases_locked(name):
        try:
            found = client.get_model_version(name, str(number))
        except MlflowException:
            raise BadInput(f"{name} version {number}: no such version") from None
        if found.aliases:
            raise BadInput(
                f"{name} version {number} is {', '.join(sorted(found.aliases))}: a version with an alias is not deleted"
            )
        for other in client.search_model_versions(f"name='{name}'"):
            if other.tags.get(RECALIBRATED_TAG) == str(number):  # by it we know whose people are in the other one
                raise BadInput(
                    f"{name} version {number}: version {other.version} was recalibrated from it; delete that one first"
                )
        client.delete_model_version(name, str(number))


def _shown(number: int | None) -> str:
    return "none" if number is None else f"version {number}"
