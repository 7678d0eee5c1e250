"""Promotion by evidence: the champion and a challenger on the same held-out people, the gates, and the move."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.models import ModelSignature

from henaw.config import Config
from henaw.data.cache import cache_folder, cache_key, load
from henaw.data.cohort import PARTICIPANT
from henaw.data.stored_splits import kept_split
from henaw.data.trainings import trainings_with
from henaw.errors import BadInput, HenawError, IntegrityError, Refused
from henaw.evaluation.latency import latency_ms
from henaw.evaluation.page import page
from henaw.evaluation.pairing import compare, pair_of
from henaw.model.clock import Clock
from henaw.model.storage import CLOCK_FOLDER, load_clock
from henaw.registry import tracking
from henaw.registry.aliases import move_champion
from henaw.registry.decision_text import decision_markdown, reasons, verdict_line
from henaw.registry.gates import Decision, Facts, decide, load_gates, not_moved, to_dict
from henaw.registry.lineage import is_withdrawn, training_runs
from henaw.registry.manifest import fetch_verified
from henaw.registry.signatures import signature_faults
from henaw.registry.versions import CHALLENGER, champion_version, exact_version, load_version
from henaw.validation.clean import clean, judge

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promotion:
    """What became of it.

    Attributes:
        name, number: the challenger.
        champion: it was judged against, None where there was none.
        decision: with its reasons.
        run: where it is written.
        moved: whether the alias was moved.
    """

    name: str
    number: int
    champion: int | None
    decision: Decision
    run: str
    moved: bool

    def words(self) -> str:
        """What a person reads at the end."""
        line = verdict_line(self.decision, self.name, self.number, self.champion)
        if not self.decision.promoted:
            return f"{line}\n{reasons(self.decision)}"
        return f"{line} " + ("It is champion now." if self.moved else "Nothing was moved (dry run).")


def promote(config: Config, model: str, *, dry_run: bool) -> Promotion:
    """Judge ``model`` against the champion by ``mlproject/gates.yaml``, and make it champion if it passes.

    The people of ``config`` who are held out for testing judge. The decision is written to a run of its own (JSON,
    Markdown, HTML) and among the version's tags, for yes and for no.

    Args:
        config: the cohort that judges.
        model: address of the challenger; empty = ``models:/NAME@challenger``.
        dry_run: judge and write, and move nothing.

    Raises:
        BadInput: no such version, it is champion already, or a cohort that cannot be used.
        Refused: another promotion was faster; that is written as a refusal.
    """
    name, number = exact_version(model or f"models:/{config.model_name}@{CHALLENGER}")
    champion = champion_version(name)
    if champion == number:
        raise BadInput(f"promote: {name} version {number} is the champion already; expected another version")
    with tracking.parent_run(config, "promote") as run:
        decision = _judge(config, name, number, champion)
        _write(decision, run, name, number, champion)
        moved = decision.promoted and not dry_run
        if moved:
            try:
                move_champion(name, number, champion)
            except HenawError as error:
                _write(not_moved(decision, str(error)), run, name, number, champion)
                raise
    return Promotion(name, number, champion, decision, run, moved)


def require_promoted(promotion: Promotion) -> None:
    """End with exit code 1 where the gates said no.

    Raises:
        Refused: they did; ``words`` has the failing gates.
    """
    if not promotion.decision.promoted:
        line = verdict_line(promotion.decision, promotion.name, promotion.number, promotion.champion)
        raise Refused(f"promote: {line} The decision is in run {promotion.run}.")


def _write(decision: Decision, run: str, name: str, number: int, champion: int | None) -> None:
    texts = decision_markdown(decision, name, number, champion)
    tracking.log_json(to_dict(decision), "decision.json")
    tracking.log_text(texts, "decision.md")
    tracking.log_text(page(f"Promotion of {name} version {number}", texts), "decision.html")
    said = {"henaw.decision": "passed" if decision.promoted else "refused", "henaw.decision_run": run}
    said["henaw.judged_against"] = "none" if champion is None else str(champion)
    tracking.set_tags(said | {"henaw.model": f"models:/{name}/{number}"})
    for key, value in said.items():
        MlflowClient().set_model_version_tag(name, str(number), key, value)


def _judge(config: Config, name: str, number: int, champion: int | None) -> Decision:
    challenger, fault = _verified(name, number)
    versions = {"challenger": number} | ({} if champion is None else {"champion": champion})
    state = Path(config.state.folder)
    withdrawn = tuple(whose for whose, version in versions.items() if is_withdrawn(state, name, version))
    if challenger is None:
        return decide(None, Facts(manifest_fault=fault, withdrawn=withdrawn), load_gates(config.target))
    if challenger.target != config.target:
        config = config.model_copy(update={"target": challenger.target})
    gates = load_gates(challenger.target)
    before = None if champion is None else load_version(f"models:/{name}/{champion}")
    faults = () if champion is None else signature_faults(*(_signature(name, each) for each in (champion, number)))
    if faults:
        return decide(None, Facts(signature_faults=faults, withdrawn=withdrawn), gates)
    table = _held_out(config, (before or challenger), challenger)
    facts = Facts(
        signature_faults=faults,
        withdrawn=withdrawn,
        trained_on_judges=_has_seen(config, name, number, table),
        latency_ms=latency_ms(challenger),
    )
    return decide(compare(pair_of(before, challenger, table), config.evaluation.draws, config.seed), facts, gates)


def _verified(name: str, number: int) -> tuple[Clock | None, str]:
    """The clock of a version whose every file is as it was registered, or what is wrong with it."""
    try:
        with tempfile.TemporaryDirectory(prefix="henaw-") as temporary:
            return load_clock(fetch_verified(name, number, Path(temporary)) / "artifacts" / CLOCK_FOLDER), ""
    except IntegrityError as error:
        return None, str(error)


def _signature(name: str, number: int) -> ModelSignature | None:
    found: ModelSignature | None = mlflow.models.get_model_info(f"models:/{name}/{number}").signature
    return found


def _held_out(config: Config, champion: Clock, challenger: Clock) -> pd.DataFrame:
    """The people of the cohort who were never trained on, with the columns of both clocks."""
    if champion.panel.name != config.panel:
        raise BadInput(
            f"panel: the champion reads {champion.panel.name}, the settings name {config.panel}; set "
            f"panel={champion.panel.name}"
        )
    kept = load(cache_folder(config), cache_key(config, champion.panel))
    table = clean(judge(config, champion.panel), config, champion.panel)[0] if kept is None else kept.table
    held_out = table.iloc[kept_split(table, config).test]
    missing = held_out[list(challenger.panel.names)].isna().sum(axis=1)
    return held_out[missing <= min(champion.max_missing, challenger.max_missing)]  # whom both would answer


def _has_seen(config: Config, name: str, number: int, table: pd.DataFrame) -> bool | None:
    """Whether the version was trained with people of ``table``; None where this machine does not know its training."""
    state = Path(config.state.folder)
    runs = set(training_runs(name, number))
    known = {path.stem for path in (state / "trainings").glob("*.json")}
    if not runs & known:
        return None
    return bool(runs & set(trainings_with(state, table[PARTICIPANT].unique())))
