"""Stage cache: the clean cohort is kept under the key of all that it follows from, and read back the next time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd

from henaw.config import Config
from henaw.data.cache import Access, CachedCohort, access, cache_folder, cache_key, store
from henaw.data.panel import Panel
from henaw.errors import BadInput
from henaw.registry import tracking


@contextmanager
def looked_up(config: Config, panel: Panel) -> Iterator[Access]:
    """The clean cohort of these settings, if it is kept whole; if not, other processes wait until the block ends."""
    with access(cache_folder(config), cache_key(config, panel), config.state.lock_seconds) as found:
        yield found


def run(config: Config, panel: Panel, found: Access, cohort: CachedCohort) -> pd.DataFrame:
    """Keep ``cohort`` unless it came from the cache; the table to train on is what the cache gives back.

    Raises:
        BadInput: the source, or who has withdrawn, is not any more what the cohort follows from.
    """
    started = time.perf_counter()
    if found.cohort is None:
        if cache_key(config, panel) != found.key:
            raise BadInput("the source or the list of withdrawn participants changed during the run; run again")
        store(cache_folder(config), found.key, cohort)
    tracking.log_metrics(
        {
            "cache_hit": float(found.cohort is not None),
            "cache_hit_rate": found.hit_rate,
            "cache_lock_seconds": found.lock_seconds,
            "cache_load_seconds": found.load_seconds,
            "cache_seconds": time.perf_counter() - started,
        }
    )
    return cohort.table
