"""The benchmark that the documents quote: its pieces against known answers, and the whole of it once, small."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SCRIPTS = REPOSITORY / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    """The scripts import each other by their bare names."""
    monkeypatch.syspath_prepend(str(SCRIPTS))


def followed(seed):
    """Scores, and years of follow-up with ties, negative where nobody died."""
    random = np.random.default_rng(seed)
    years = random.integers(1, 8, 60).astype(float)
    return random.normal(size=60), np.where(random.random(60) < 0.4, years, -years)


def test_gradient_of_the_partial_likelihood_is_that_of_its_loss(scripts):
    from boosted import cox_gradient, cox_loss

    score, signed_years = followed(seed=0)
    deaths = (signed_years > 0).sum()
    gradient, curvature = cox_gradient(score, signed_years)
    for person in range(0, 60, 7):
        step = np.zeros(60)
        step[person] = 1e-4
        below, middle, above = (cox_loss(score + sign * step, signed_years) * deaths for sign in (-1, 0, 1))
        assert gradient[person] == pytest.approx((above - below) / 2e-4, abs=1e-5)
        assert curvature[person] == pytest.approx((above - 2 * middle + below) / 1e-8, abs=1e-4)


def test_partial_likelihood_by_hand(scripts):
    from boosted import cox_loss

    # two die, after 1 and 2 years; of three people, then of two, with hazards 1, 2 and 4
    found = cox_loss(np.log([1.0, 2.0, 4.0]), np.array([1.0, 2.0, -3.0]))
    assert found == pytest.approx((np.log(7) + np.log(3)) / 2)


def test_markers_are_missing_uniformly(scripts):
    from missing_markers import MISSING, _hidden

    hidden = _hidden((3000, 9), seed=0)
    assert (hidden.sum(axis=1) == MISSING).all()
    assert np.abs(hidden.mean(axis=0) - MISSING / 9).max() < 0.05
    assert (hidden == _hidden((3000, 9), seed=0)).all()
    assert (hidden != _hidden((3000, 9), seed=1)).any()


def test_a_section_is_rewritten_and_nothing_else(scripts, tmp_path):
    from bars import rewrite_section

    document = tmp_path / "benchmarks.md"
    document.write_text("# Benchmarks\n\nBefore.\n", encoding="utf-8")
    rewrite_section(document, "one", "first")
    rewrite_section(document, "two", "other")
    rewrite_section(document, "one", "second")
    blocks = [
        f"<!-- {name}:begin -->\n{text}\n<!-- {name}:end -->" for name, text in (("one", "second"), ("two", "other"))
    ]
    expected = "\n\n".join(["# Benchmarks", "Before.", *blocks]) + "\n"
    assert document.read_text(encoding="utf-8") == expected


def test_without_a_table_it_says_what_to_name(tmp_path):
    command = [sys.executable, str(SCRIPTS / "bench_clocks.py"), str(tmp_path / "absent.csv")]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "no such file" in found.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quick_run_judges_every_bar_and_writes_both_sections(nhanes_table, tmp_path):
    document = tmp_path / "benchmarks.md"
    command = [sys.executable, "benchmarks/bench_clocks.py", str(nhanes_table), "--quick", "--docs", str(document)]
    found = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    text = document.read_text(encoding="utf-8")
    for name in ("bench-clocks", "bench-clocks-cost"):
        assert f"<!-- {name}:begin -->" in text
    for bar in (
        "A: MAE",
        "A: CRPS",
        "A: 3 markers missing",
        "extended: MAE",
        "S1: C",
        "S1: HR",
        "S3: C",
        "S3: 10-year O/E",
    ):
        assert f"| {bar}" in text
    for bar in ("training blood9", "scoring 100,000", "evaluation"):
        assert f"| cost: {bar}" in text
    assert str(nhanes_table) not in text
