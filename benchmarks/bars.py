"""What a benchmark reports: bars with their verdicts, times, the machine, and its own section of a document."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from henaw.evaluation.bootstrap import Bootstrapped, Estimate

REPOSITORY = Path(__file__).resolve().parent.parent
LIBRARIES = ("numpy", "scipy", "torch", "scikit-learn", "lightgbm", "catboost", "ngboost", "tabm")


@dataclass(frozen=True)
class Bar:
    """What was asked for and what was found.

    Attributes:
        what: is judged.
        figure: found, with its interval.
        required: in words.
        met: whether it is.
        moonshot: a harder bar in words, empty = none.
        moonshot_met: whether that is.
    """

    what: str
    figure: str
    required: str
    met: bool
    moonshot: str = ""
    moonshot_met: bool = False

    @property
    def row(self) -> list[str]:
        """Cells of a table with ``BAR_COLUMNS``."""
        verdicts = [("met" if self.met else "**missed**"), ("met" if self.moonshot_met else "missed")]
        return [self.what, self.figure, self.required, verdicts[0], self.moonshot, verdicts[1] if self.moonshot else ""]


BAR_COLUMNS = ("bar", "figure", "required", "", "moonshot", "")


@dataclass
class Section:
    """Markdown of one part of a benchmark, and its bars."""

    bars: list[Bar] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Add a paragraph or a table, and show it."""
        print(f"{text}\n", flush=True)
        self.parts.append(text)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(estimate: Estimate, digits: int) -> str:
    """Value and 95 % interval."""
    value, lower, upper = (f"{number:.{digits}f}" for number in estimate.numbers)
    return f"{value} [{lower}, {upper}]"


def compared(difference: Bootstrapped, digits: int, better: str) -> str:
    """A paired difference, ours minus theirs, and in one word who wins; ``better`` is ``lower`` or ``higher``."""
    found = difference.estimate()
    word = "tie" if not found.decided else "ours" if (found.value < 0) == (better == "lower") else "theirs"
    return f"{shown(found, digits)} {word}"


@dataclass
class Watch:
    """Seconds on the clock and of the CPU, all threads."""

    wall: float = 0.0
    cpu: float = 0.0

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.cpu:.1f} CPU s)"


@contextmanager
def stopwatch() -> Iterator[Watch]:
    """Filled when the block ends."""
    watch, wall, cpu = Watch(), time.perf_counter(), time.process_time()
    try:
        yield watch
    finally:
        watch.wall, watch.cpu = time.perf_counter() - wall, time.process_time() - cpu


def machine() -> str:
    """Where the figures come from: commit, processor, cores, how busy they are, versions."""
    installed = []
    for name in LIBRARIES:
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    cpu_info = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in _lines(cpu_info) if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"Commit {commit()}; {processor}, {cores} cores (load {os.getloadavg()[0]:.1f}), {platform.system()}, Python "
        f"{platform.python_version()}, {', '.join(installed)}."
    )


def commit() -> str:
    """The commit that is checked out, and whether the code differs from it."""
    where = ["git", "-C", str(REPOSITORY)]
    head = subprocess.run([*where, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    code = ["henaw/model", "henaw/training", "henaw/data/splits.py", "mlproject", "benchmarks"]
    changed = subprocess.run([*where, "status", "--porcelain", *code], capture_output=True, text=True, check=False)
    return (head.stdout.strip() or "unknown") + (" with uncommitted changes" if changed.stdout.strip() else "")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def rewrite_section(document: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name:begin -->`` and ``<!-- name:end -->``, at the end where there are none yet."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = document.read_text(encoding="utf-8") if document.is_file() else "# Benchmarks\n"
    block = f"{begin}\n{text.strip()}\n{end}"
    if begin in old and end in old:
        before, _, rest = old.partition(begin)
        new = before + block + rest.partition(end)[2]
    else:
        new = f"{old.rstrip()}\n\n{block}\n"
    document.write_text(new, encoding="utf-8")
