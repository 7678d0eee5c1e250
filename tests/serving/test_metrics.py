"""Figures of several workers, which are counted in files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from henaw.serving.metrics import Metrics
figures = Metrics()
figures.serves("henaw", 1)
figures.serves("henaw", 2)
print(figures.text().decode())
"""


def test_a_version_that_no_worker_answers_with_any_more_is_not_said_to(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}  # read when the library is imported
    text = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert 'henaw_model_info{name="henaw",version="1"} 0.0' in text
    assert 'henaw_model_info{name="henaw",version="2"} 1.0' in text
