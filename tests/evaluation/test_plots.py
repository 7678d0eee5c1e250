"""Figures: what they show, what they must not show, and that they leave nothing behind."""

import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from scipy.stats import norm

from henaw.data.disclosure import SMALLEST_CELL
from henaw.evaluation import plots, style, training_plots


def cohort(people, seed=0):
    random = np.random.default_rng(seed)
    age = random.integers(20, 80, people).astype(float)
    sd = 6 + 0.05 * age
    return age, random.normal(50 + 0.7 * (age - 50), sd), sd


def history(epochs, **changes):
    record = {"train_loss": 8.0, "validation_loss": 8.5, "gradient_norm": 0.7, "clipped_fraction": 0.25}
    return [{"epoch": epoch, **record, **changes} for epoch in range(epochs)]


def every_figure(people, epochs):
    age, predicted, sd = cohort(people)
    return {
        "predicted_against_true": plots.predicted_against_true(age, predicted),
        "calibration": plots.calibration(norm.cdf(age, predicted, sd)),
        "loss": training_plots.loss_curves(history(epochs), "CRPS (years)"),
        "gradients": training_plots.gradient_norms(history(epochs), clip_norm=1.0),
        "age_gap": plots.age_gap_by_age(age, predicted, predicted - age),
    }


def text_of(figure):
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def hexagons(figure):
    (collection,) = [found for found in figure.axes[0].collections if hasattr(found, "get_offsets")]
    return collection


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


@pytest.mark.parametrize(("people", "epochs"), [(1, 1), (8, 1), (60, 2), (3_000, 40)])
def test_every_figure_draws_and_is_saved_in_both_formats(tmp_path, people, epochs):
    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, figure in every_figure(people, epochs).items():
            paths = style.save(figure, tmp_path, name)
            assert [path.name for path in paths] == [f"{name}.png", f"{name}.svg"]
            assert paths[0].read_bytes().startswith(b"\x89PNG")
            assert ET.parse(paths[1]).getroot().tag.endswith("svg")
    assert dict(mpl.rcParams) == before


def test_every_axis_is_labelled_and_every_figure_says_how_many():
    for name, figure in every_figure(1_500, 5).items():
        panels = [axes for axes in figure.axes if axes.get_title(loc="left") or axes.get_xlabel()]
        assert all(axes.get_ylabel() for axes in panels)
        assert panels[-1].get_xlabel()
        assert ("5 epochs" if name in {"loss", "gradients"} else "1,500 held-out people") in text_of(figure)
    figures = every_figure(1_500, 5)
    for name in ("predicted_against_true", "age_gap"):
        axes = figures[name].axes[0]
        assert axes.get_xlabel() == "Chronological age (years)"
        assert axes.get_ylabel().endswith("(years)")
    assert figures["loss"].axes[0].get_ylabel() == "Loss: CRPS (years)"


def test_importing_the_room_loads_no_matplotlib():
    code = "import sys, henaw.evaluation.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_drawing_never_loads_pyplot():
    code = (
        "import sys, numpy as np; from henaw.evaluation import plots\n"
        "plots.calibration(np.linspace(0, 1, 99)); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("people", [50, 400, 3_000, 20_000])
def test_no_hexagon_holds_fewer_than_five(people):
    age, predicted, _ = cohort(people, seed=people)
    figure = plots.predicted_against_true(age, predicted)
    counts = hexagons(figure).get_array()
    assert counts.min() >= SMALLEST_CELL
    assert len(counts) == len(hexagons(figure).get_offsets())
    blank = people - counts.sum()
    assert blank >= SMALLEST_CELL
    assert f"{100 * blank / people:.1f} % of people in all" in text_of(figure)


def test_ages_in_whole_years_leave_no_stripes():
    age = np.repeat(np.arange(20.0, 80.0), 1_000)
    figure = plots.predicted_against_true(age, np.tile(np.linspace(20.001, 79.999, 1_000), 60))
    centers, counts = hexagons(figure).get_offsets(), hexagons(figure).get_array()
    inside = counts[((centers > 26) & (centers < 74)).all(axis=1)]
    assert inside.max() / inside.min() < 1.1


def test_nobody_stands_out(tmp_path):
    age, predicted, _ = cohort(2_000)
    age[0], predicted[0] = 97.03125, 141.28125

    def gaps(age, predicted):
        return plots.age_gap_by_age(age, predicted, predicted - age)

    for name, draw in {"density": plots.predicted_against_true, "gap": gaps}.items():
        alone = draw(age, predicted)
        assert alone.axes[0].get_xlim() == draw(age[1:], predicted[1:]).axes[0].get_xlim()
        assert alone.axes[0].get_ylim()[1] < 130
        assert "97.03" not in style.save(alone, tmp_path, name)[1].read_text()


def test_quantiles_of_the_age_gap_are_those_of_each_band():
    age = np.repeat([22.0, 33.0], 101)
    gap = np.concatenate([np.linspace(-10, 10, 101), np.linspace(0, 20, 101)])
    before, axes = plots.age_gap_by_age(age, age + 2 * gap, gap).axes
    assert [bar.get_y() for bar in before.containers[0]] == [-16, 4]
    outer, inner = axes.containers
    assert [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in outer] == [(-8, 8), (2, 18)]
    assert [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in inner] == [(-5, 5), (5, 15)]
    assert [segment[0, 1] for segment in axes.collections[0].get_segments()] == [0, 10]
    assert axes.get_xlim() == (20, 35)


@pytest.mark.parametrize(("people", "drawn"), [(4, 0), (9, 0), (10, 1), (19, 1), (20, 3), (49, 3), (50, 5)])
def test_a_quantile_needs_five_people_on_either_side(people, drawn):
    quantiles = plots._supported_quantiles(np.arange(float(people)))
    assert np.isfinite(quantiles).sum() == drawn


def test_a_band_of_few_people_is_left_out_and_said_so():
    age = np.array([22.0] * 60 + [68.0] * 4)
    figure = plots.age_gap_by_age(age, age + np.arange(64.0), np.arange(64.0))
    assert len(figure.axes[0].containers[0]) == 1
    assert figure.axes[0].get_xlim() == (20, 25)
    assert "Left out" in text_of(figure)


def test_calibrated_predictions_lie_on_the_diagonal():
    reliability, histogram = plots.calibration((np.arange(1_000) + 0.5) / 1_000).axes
    drawn = lines(reliability)
    for label in ("inside the central interval", "at or below the quantile"):
        np.testing.assert_allclose(drawn[label].get_ydata(), drawn[label].get_xdata(), atol=1e-12)
    np.testing.assert_allclose([bar.get_height() for bar in histogram.patches[:20]], 1)


def test_predictions_that_are_too_sure_lie_below_the_diagonal():
    random = np.random.default_rng(2)
    reliability = plots.calibration(norm.cdf(random.normal(0, 2, 4_000))).axes[0]
    line = lines(reliability)["inside the central interval"]
    assert (line.get_ydata() < line.get_xdata()).all()


def test_parts_of_the_pit_with_few_people_are_left_blank():
    pit = np.concatenate([np.full(4, 0.95), np.linspace(0.01, 0.89, 196)])
    reliability, histogram = plots.calibration(pit).axes
    assert histogram.patches[9].get_height() == 0
    assert "Left blank: parts of fewer than 5 people" in text_of(histogram)
    assert np.isnan(lines(reliability)["at or below the quantile"].get_ydata()[-1])


@pytest.mark.parametrize("people", [1, SMALLEST_CELL - 1])
def test_figures_of_very_few_are_withheld(people):
    for name, figure in every_figure(people, 1).items():
        if name not in {"loss", "gradients"}:
            assert "fewer than 5 held-out people" in text_of(figure)
            assert all("withheld" in text_of(axes) for axes in figure.axes)
            assert not any(line.get_xdata().size for axes in figure.axes for line in axes.lines)


def test_the_best_epoch_is_that_of_the_lowest_validation_loss():
    losses = [9.0, 7.25, float("nan"), 7.5]
    records = [record | {"validation_loss": loss} for record, loss in zip(history(4), losses, strict=True)]
    axes = training_plots.loss_curves(records, "CRPS (years)").axes[0]
    (mark,) = [line for label, line in lines(axes).items() if label.startswith("lowest")]
    assert mark.get_label() == "lowest validation loss: 7.25 (epoch 2)"
    assert list(mark.get_xdata()) == [2, 2]


def test_a_run_without_a_finite_loss_still_draws():
    axes = training_plots.loss_curves(history(3, validation_loss=float("nan")), "CRPS (years)").axes[0]
    assert not any(label.startswith("lowest") for label in lines(axes))


def test_gradients_show_norm_limit_and_clipped_share():
    norms, clipped = training_plots.gradient_norms(history(3), clip_norm=1.5).axes
    assert list(lines(norms)["mean over steps and members"].get_ydata()) == [0.7] * 3
    assert list(lines(norms)["clipped above 1.5"].get_ydata()) == [1.5, 1.5]
    assert [bar.get_height() for bar in clipped.patches] == [25.0] * 3
