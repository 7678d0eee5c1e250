"""Figures of survival, of the ensemble and of attribution: what they show, and that nobody stands out."""

from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from henaw.evaluation import attribution_plots, ensemble_plots, survival_plots
from henaw.evaluation.survival import kaplan_meier, risk_calibration
from henaw.model.attribution import Attribution
from henaw.model.heads import QuantileHead
from tests.scenarios import BLOOD9, blood_clock, people_of

HEAD = QuantileHead(knots=(), link="identity", center=50.0, scale=10.0, low=0.0, high=0.0)


def followed(people, seed=0):
    rng = np.random.default_rng(seed)
    gap = rng.normal(0, 5, people)
    death, end = rng.exponential(20 * np.exp(-gap / 5)), rng.uniform(8, 15, people)
    return gap, np.minimum(death, end), (death <= end).astype(float)


def text_of(figure):
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


@pytest.mark.parametrize("people", [8, 40, 400, 4_000])
def test_a_curve_steps_only_where_five_have_died_and_goes_no_further_than_five_are_followed(people):
    _, years, died = followed(people)
    points = survival_plots.yearly_points(years, died)
    curve = kaplan_meier(years, died)
    assert points[0, :2].tolist() == [0, 1]
    for before, point in pairwise(points):
        assert point[0] == int(point[0])
        step = (died > 0) & (years > before[0]) & (years <= point[0])
        assert step.sum() >= 5
        assert (years > point[0]).sum() >= 5
        assert point[1] == pytest.approx(float(curve.at([point[0]])[0]))
        assert point[2] < point[1] < point[3]


def test_fifths_of_the_gap_are_drawn_from_young_to_old():
    figure = survival_plots.survival_by_gap(*followed(2_000))
    ends = [line.get_ydata()[-1] for line in figure.axes[0].lines]
    assert len(ends) == 5
    assert ends == sorted(ends, reverse=True)
    assert "2,000 held-out people" in text_of(figure)


def test_survival_of_very_few_is_withheld():
    assert "withheld" in text_of(survival_plots.survival_by_gap(*followed(12)))


def test_calibration_shows_the_tenths_that_may_be_shown():
    gap, years, died = followed(1_500)
    risk = 1 / (1 + np.exp(2 - gap / 5))
    table = risk_calibration(risk, years, died, 5, np.arange(1_500), draws=20)
    figure = survival_plots.risk_calibration_plot({5: table, 8: table.assign(observed=np.nan)})
    (points,) = figure.axes[0].containers
    seen = table[table["observed"].notna()]
    np.testing.assert_allclose(points[0].get_xdata(), 100 * seen["expected"])
    np.testing.assert_allclose(points[0].get_ydata(), 100 * seen["observed"])
    assert "withheld" in text_of(figure.axes[1])


def test_width_is_drawn_where_five_people_are():
    distribution = people_of(HEAD, 205)
    age = np.array([42.0] * 200 + [67.0] * 4 + [52.0])
    widths, sds = ensemble_plots.interval_width_by_age(age, distribution, [0.5, 0.9]).axes
    lower, upper = distribution.interval(0.9)
    assert [line.get_xdata().tolist() for line in widths.lines] == [[42.5], [42.5]]
    assert widths.lines[0].get_ydata()[0] == pytest.approx((upper - lower)[:200].mean())
    assert sds.lines[0].get_ydata()[0] == pytest.approx(distribution.aleatoric_sd[:200].mean())
    assert "Left out" in text_of(widths)
    assert "withheld" in text_of(ensemble_plots.interval_width_by_age(age[200:], people_of(HEAD, 5), [0.9]))


@pytest.mark.parametrize("target", ["age", "mortality"])
def test_the_six_examples_are_nobody(target):
    clock = blood_clock(target=target)
    people = ensemble_plots.examples(clock)
    assert len(people) == 6
    assert [int(np.isnan(person.biomarkers).sum()) for person in people] == [0] * 5 + [3]
    usual = clock.reference.of(np.array([people[0].sex]), np.array([people[0].age]))[0]
    np.testing.assert_allclose(people[0].biomarkers, usual)
    figure = ensemble_plots.barycenter_against_mixture(clock)
    assert len(figure.axes) == 6
    assert all(len(axes.lines) == clock.shape.members + 3 for axes in figure.axes)
    assert "who do not exist" in text_of(figure)


def test_shares_are_averaged_over_people_and_the_largest_stands_on_top():
    organs = tuple(dict.fromkeys(marker.organ for marker in BLOOD9.biomarkers))
    by_marker = np.tile(np.arange(len(BLOOD9.names), dtype=float), (6, 1)) * np.array([[1], [-1]] * 3)
    found = Attribution(by_marker, np.ones((6, len(organs))), organs, by_marker.sum(axis=1), np.zeros(6))
    markers, systems = attribution_plots.attribution_plot(found, BLOOD9).axes
    assert [bar.get_width() for bar in markers.patches] == list(range(len(BLOOD9.names)))
    assert markers.get_yticklabels()[-1].get_text() == BLOOD9.biomarkers[-1].title
    assert len(systems.patches) == len(organs)


def test_attribution_of_very_few_is_withheld():
    clock = blood_clock()
    unknown = np.array([0.0, 1.0, 0.0, 1.0, np.nan])
    figure = attribution_plots.attribution_of_cohort(clock, np.full((5, 9), 10.0), unknown, np.full(5, 50.0))
    assert "withheld" in text_of(figure)


def test_tables_of_one_horizon_make_one_panel():
    table = pd.DataFrame(
        {"n": [50], "expected": [0.1], "observed": [0.12], "observed_lower": [0.0], "observed_upper": [0.2]}
    )
    figure = survival_plots.risk_calibration_plot({10: table})
    assert len(figure.axes) == 1
    assert figure.axes[0].get_ylim()[0] > 0
