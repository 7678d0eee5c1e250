"""What reading an export of UK Biobank's size costs, beside polars, pandas and the memory they take.

    python benchmarks/bench_ukb.py [--repeats 5] [--people 502000] [--columns 2000] [--folder /tmp] [--keep]
        [--shape wide|long]

Two shapes: "wide", 20,000 people × 10,000 columns, and "long", ``--people`` × ``--columns`` (6 GB); each plain and as
gzip; made by make_ukb_export.py in ``--folder`` and removed afterwards. With ``--keep`` they stay, and are used where
they are there already; ``--repeats 0`` only makes them. HENAW's time is that of the whole reader: folder checks,
headers, the panel's columns, joined, converted and put into the participant table. The others read the same columns
and no more. Runs alternate, so that a busy machine is unfair to nobody; a ratio is the median over rounds. Memory is
the peak of the anonymous pages (what the page cache holds of the file is not counted) of a process on its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from make_ukb_export import CONVENTIONS, write_export

from henaw.config import asset_folder, load_config
from henaw.data.panel import load_panel
from henaw.data.ukb_exports import find_exports
from henaw.data.ukbiobank import read_ukbiobank
from henaw.data.withdrawals import withdrawals

WIDE = (20_000, 10_000)
PANEL = "blood9"


def henaw(path: Path) -> int:
    """The participant table."""
    config = load_config("ukb", data=str(path))
    panel = load_panel(PANEL, asset_folder("mlproject") / "panels")
    return len(read_ukbiobank(config.source, panel.biomarkers, {}, path.parent, withdrawals([], path.parent)))


def columns(path: Path) -> list[str]:
    """What ``henaw`` reads."""
    (export,) = find_exports(path)
    panel = load_panel(PANEL, asset_folder("mlproject") / "panels")
    fields = {31, 34, 52, 53, 21003, *(marker.ukb_field for marker in panel.biomarkers)}
    held = [name for variable, names in export.columns.items() if variable.field in fields for name in names]
    return [export.id_column, *(name for name in held if name.endswith("-0.0"))]


def polars(path: Path) -> int:
    """Its bare lazy scan."""
    import polars as pl

    return pl.scan_csv(path).select(columns(path)).collect().height


def pandas(path: Path) -> int:
    """With ``usecols``."""
    import pandas as pd

    return len(pd.read_csv(path, usecols=columns(path)))


READERS: dict[str, Callable[[Path], int]] = {"henaw": henaw, "polars": polars, "pandas": pandas}


def compare(path: Path, readers: list[str], repeats: int) -> None:
    """Print seconds of each reader, on the wall and of CPU, and HENAW's ratios to the others (of those on the wall)."""
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    work: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(repeats):
        for name in readers:
            start, worked = time.perf_counter(), time.process_time()
            READERS[name](path)
            seconds[name].append(time.perf_counter() - start)
            work[name].append(time.process_time() - worked)
    for name in readers:
        rounds = " ".join(f"{value:.2f}" for value in seconds[name])
        cpu = statistics.median(work[name])
        print(f"  {name:7s} {statistics.median(seconds[name]):7.2f} s   ({rounds}), CPU {cpu:.2f} s")
    for name in readers[1:]:
        ratio = statistics.median(a / b for a, b in zip(seconds["henaw"], seconds[name], strict=True))
        print(
            f"  henaw / {name}: {ratio:.2f}" + (f"   ({1 / ratio:.1f} times as fast)" if ratio < 1 else ""), flush=True
        )


def memory(path: Path, reader: str) -> int:
    """Peak of the anonymous memory, in MiB, of a process that runs ``reader``."""
    command = [sys.executable, __file__, "--measure", reader, "--folder", str(path)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(path: Path, reader: str) -> None:
    """Run ``reader`` and print the peak; Linux alone says what is anonymous."""
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            peak = max(peak, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        READERS[reader](path)
    finally:
        done.set()
        watcher.join()
    print(peak >> 10)


def main() -> None:
    """Print the bars and what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--people", type=int, default=502_000)
    parser.add_argument("--columns", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--keep", action="store_true", help="the made files, and use those that are there")
    parser.add_argument("--shape", choices=["wide", "long"], help="one of the two (default: both)")
    parser.add_argument("--measure", choices=READERS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        measure(chosen.folder, chosen.measure)
        return
    print(f"bars: ≥ 3 times pandas on {WIDE[1]} columns, ≤ 1.2 times polars, ≤ 1024 MiB; {os.cpu_count()} cores")
    shapes = {"wide": WIDE, "long": (chosen.people, chosen.columns)}
    for shape in [chosen.shape] if chosen.shape else shapes:
        people, wide = shapes[shape]
        for suffix in ("", ".gz"):
            path = chosen.folder / f"ukb_{people}_{wide}.csv{suffix}"
            if not (chosen.keep and path.exists()):
                write_export(path.with_name(path.name.replace(".csv", "")), CONVENTIONS["csv"], people, columns=wide)
            try:
                print(f"{people} people × {wide} columns, {path.name}, {path.stat().st_size / 1e9:.2f} GB", flush=True)
                if chosen.repeats:
                    compare(path, ["henaw", "polars", *(["pandas"] if shape == "wide" else [])], chosen.repeats)
                    for reader in ("henaw", "polars"):
                        print(f"  {reader}: peak of anonymous memory {memory(path, reader)} MiB", flush=True)
            finally:
                if not chosen.keep:
                    path.unlink()


if __name__ == "__main__":
    main()
