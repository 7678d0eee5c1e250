"""Stage cache: the clean cohort is kept under the key of all that it follows from, and read back the next time."""

from __future__ import annotations

import time

import pandas as pd

from henaw.config import Config
from henaw.data.cache import CachedCohort, cache_folder, cache_key, load, store
from henaw.data.panel import Panel
from henaw.registry import tracking


def find(config: Config, panel: Panel) -> CachedCohort | None:
    """The clean cohort of these settings, if it is kept whole."""
    return load(cache_folder(config), cache_key(config, panel))


def run(config: Config, panel: Panel, cohort: CachedCohort, *, hit: bool) -> pd.DataFrame:
    """Keep ``cohort`` unless it came from the cache; the table to train on is what the cache gives back."""
    started = time.perf_counter()
    if not hit:
        store(cache_folder(config), cache_key(config, panel), cohort)
    tracking.log_metrics({"cache_hit": float(hit), "cache_rows": float(len(cohort.table))})
    tracking.log_metrics({"cache_seconds": time.perf_counter() - started})
    return cohort.table
