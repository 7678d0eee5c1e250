"""Recalibration of a registered mortality clock: a version and a cohort in, the next version out."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from henaw.config import Config
from henaw.data.cohort import PARTICIPANT
from henaw.data.splits import split
from henaw.data.stored_splits import kept_split
from henaw.data.trainings import record_training
from henaw.errors import BadInput
from henaw.evaluation.recalibration import Recalibration, recalibrate
from henaw.model.storage import CLOCK_FOLDER, save_clock
from henaw.registry import tracking
from henaw.registry.lineage import RECALIBRATED_TAG
from henaw.registry.versions import Version, exact_version, load_version, register
from henaw.validation.clean import clean, judge

logger = logging.getLogger(__name__)


def recalibrate_version(config: Config, model: str) -> tuple[Recalibration, Version]:
    """Refit registered mortality clock ``model`` to the cohort of ``config``, and register the result beside it.

    The target cohort are the people whom ``cohort`` selects; where ``split.by`` is ``column`` or ``date``, those of
    them held out for testing, as the others may have trained the clock. ``split.test_fraction`` of the cohort's
    participants, drawn with the seed, judge; the rest fit.

    Raises:
        BadInput: no such model, an age clock, another panel than that of ``config``, or a cohort that cannot be used.
    """
    config = config.model_copy(update={"target": "mortality"})  # who has no follow-up is left out
    with tracking.parent_run(config, "recalibrate") as run_id:
        name, number = exact_version(model)
        clock = load_version(f"models:/{name}/{number}")
        if clock.panel.name != config.panel:
            raise BadInput(
                f"panel: the model reads {clock.panel.name}, the settings name {config.panel}; "
                f"set panel={clock.panel.name}"
            )
        judged = judge(config, clock.panel)
        table, _ = clean(judged, config, clock.panel)
        if config.split.by != "person":
            table = table.iloc[kept_split(table, config).test].reset_index(drop=True)
        parts = split(table, config.split.model_copy(update={"by": "person"}), config.seed)
        held_out = table.index.isin(parts.test)
        record_training(Path(config.state.folder), run_id, table.loc[~held_out, PARTICIPANT])
        cap_years = config.mortality.recalibration_cap_years
        found = recalibrate(clock, table[~held_out], table[held_out], cap_years, config.seed)
        tracking.log_metrics(found.metrics)
        tracking.log_text(found.markdown(), "recalibration.md")
        tags = {
            RECALIBRATED_TAG: str(number),
            "henaw.recalibrated_people": str(found.fitted),
            "henaw.recalibrated_cap_years": f"{cap_years:g}",
            "henaw.source_digest": judged.cohort.digest,
        }
        with tempfile.TemporaryDirectory(prefix="henaw-") as temporary:
            folder = Path(temporary) / CLOCK_FOLDER
            save_clock(found.clock, folder)
            tracking.log_folder(folder, CLOCK_FOLDER)
            version = register(folder, name, tags)
        tracking.set_tags(tags | {"henaw.model": model, "henaw.model_version": str(version.number)})
    logger.info("recalibrated %s version %d on %d people", name, number, found.fitted)
    return found, version


def closing_words(found: Recalibration, version: Version) -> str:
    """What a person reads at the end: the figures and the version."""
    return f"{found.markdown()}\nRegistered {version.name} version {version.number} ({', '.join(version.aliases)})."
