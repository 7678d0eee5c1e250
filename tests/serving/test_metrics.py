"""Figures of several workers, which are counted in files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from henaw.serving.metrics import Metrics
figures = Metrics()
figures.serves("henaw", 1)
figures.serves("henaw", 2)
print(figures.text().decode())
"""


ALL_KINDS = """
import sys
from pathlib import Path
from henaw.serving.metrics import Metrics
sizes = lambda: {path.name: (path.stat().st_size, path.stat().st_blocks) for path in Path(sys.argv[1]).iterdir()}
figures = Metrics()
before = sizes()
figures.in_flight.inc()
figures.serves("henaw", 1)
for number in range(600):
    figures.answered(f"route {number % 20}", 200, f"code {number}", 1.0)
assert sizes() == before and len(before) == 4, before
assert all(blocks * 512 >= size > 0 for size, blocks in before.values()), before
"""


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs a system that takes room on a disk when asked")
def test_room_for_all_figures_is_taken_at_the_start(tmp_path: Path) -> None:
    """On a disk that is full later, a page of a mapped file that has no room yet would end the process (SIGBUS)."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", ALL_KINDS, str(tmp_path)], env=environment, check=True)


def test_a_version_that_no_worker_answers_with_any_more_is_not_said_to(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}  # read when the library is imported
    text = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert 'henaw_model_info{name="henaw",version="1"} 0.0' in text
    assert 'henaw_model_info{name="henaw",version="2"} 1.0' in text
