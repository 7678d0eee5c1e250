"""What the cache costs: a lock, the checksum, a warm cohort of UK Biobank's size.

    python benchmarks/bench_cache.py [--people 502000] [--markers 12] [--repeats 5] [--folder /tmp]

Bars: a lock, taken and given back, ≤ 1 ms; BLAKE2b of 100,000 people ≤ 100 ms; from a warm cache of 502,000 people to a
table that is ready to train ≤ 1 s. What a stored split adds has no bar. Median of the rounds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from henaw.config import load_config
from henaw.data import cache
from henaw.data.cache import CachedCohort, access
from henaw.data.cohort_image import encode
from henaw.data.files import digest_file
from henaw.data.locks import locked
from henaw.data.stored_splits import kept_split

KEY = "0123456789abcdef" * 2


def table(people: int, markers: int) -> pd.DataFrame:
    """A clean participant table of random numbers."""
    rng = np.random.default_rng(0)
    pseudonyms = rng.bytes(16 * people).hex()
    columns: dict[str, object] = {
        "participant": pd.Series([pseudonyms[32 * row : 32 * row + 32] for row in range(people)], dtype="str"),
        "age_years": rng.uniform(40, 70, people),
        "sex": pd.Series(rng.choice(["female", "male"], people), dtype="str"),
    }
    columns |= {f"marker_{number}": rng.lognormal(size=people) for number in range(markers)}
    return pd.DataFrame(columns)


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each round."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


def show(what: str, found: list[float], bar: float | None) -> None:
    """Print the median against its bar, and the rounds."""
    rounds = " ".join(f"{1e3 * value:.2f}" for value in found)
    promised = "" if bar is None else f", bar {1e3 * bar:.0f} ms"
    print(f"  {what:40s} {1e3 * statistics.median(found):9.2f} ms{promised}   ({rounds})")


def main() -> None:
    """Print what each takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=502_000)
    parser.add_argument("--markers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="henaw-bench-", dir=options.folder))
    try:
        measure(folder, options.people, options.markers, options.repeats)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, people: int, markers: int, repeats: int) -> None:
    """All of it in ``folder``."""

    def lock() -> None:
        for _ in range(100):
            with locked(folder / "lock", 10):
                pass

    show("lock, taken and given back", [value / 100 for value in seconds(lock, repeats)], 1e-3)
    (folder / "image").write_bytes(encode(table(100_000, markers), {}))
    show("checksum of 100,000 people", seconds(lambda: digest_file(folder / "image"), repeats), 0.1)

    cache.store(folder / "cache", KEY, CachedCohort(table(people, markers), {}))
    config = load_config(data="people.csv", overrides=f"source.kind=table state.folder={folder / 'state'}")

    def look_up() -> pd.DataFrame:
        with access(folder / "cache", KEY, 10) as found:
            assert found.cohort is not None
            return found.cohort.table

    warm = look_up()
    kept_split(warm, config)
    show(f"a warm cache of {people:,} people", seconds(look_up, repeats), 1.0)
    show("the same, split by a stored split", seconds(lambda: kept_split(look_up(), config), repeats), None)


if __name__ == "__main__":
    main()
