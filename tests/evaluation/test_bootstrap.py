"""The bootstrap against plain resampling of rows, normal theory, and what pairing promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from henaw.errors import BadInput
from henaw.evaluation import bootstrap as module
from henaw.evaluation.bootstrap import among, bootstrap, correlation_of, mean_of, root_mean_square_of


def one(statistic, scores, **options):
    return bootstrap({"it": statistic}, np.arange(len(scores)), **options)["it"]


@pytest.fixture(scope="module")
def scores():
    random = np.random.default_rng(3)
    return random.gamma(2.0, 4.0, 500), random.normal(50, 9, 500)


@given(st.integers(0, 2**32), st.integers(2, 30))
def test_statistics_of_weights_are_those_of_repeated_rows(seed, people):
    random = np.random.default_rng(seed)
    x, y = random.normal(50, 3, people), random.normal(-1, 2, people)
    drawn = random.integers(people, size=people)
    weights = np.bincount(drawn, minlength=people)[:, None].astype(float)
    assert mean_of(x)(weights) == pytest.approx(x[drawn].mean())
    np.testing.assert_allclose(mean_of(np.stack([x, y], axis=1))(weights)[0], [x[drawn].mean(), y[drawn].mean()])
    assert root_mean_square_of(y)(weights) == pytest.approx(np.sqrt((y[drawn] ** 2).mean()))
    some = x > 50
    if some[drawn].any():
        assert among(some, mean_of(y[some]))(weights) == pytest.approx(y[drawn][some[drawn]].mean())
    if np.ptp(x[drawn]) > 0:
        expected = np.corrcoef(x[drawn], y[drawn])[0, 1]
        assert correlation_of(x, y)(weights) == pytest.approx(expected, abs=1e-8)


def test_interval_of_a_mean_is_that_of_normal_theory(scores):
    errors, _ = scores
    found = one(mean_of(errors), errors, draws=4000).estimate()
    margin = 1.96 * errors.std() / np.sqrt(len(errors))
    assert found.value == pytest.approx(errors.mean())
    assert found.lower == pytest.approx(errors.mean() - margin, abs=0.08 * margin)
    assert found.upper == pytest.approx(errors.mean() + margin, abs=0.08 * margin)


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(300):
        found = one(mean_of(random.exponential(1.0, 150)), range(150), draws=300, seed=seed).estimate()
        hits += found.lower <= 1.0 <= found.upper
    assert 0.90 <= hits / 300 <= 0.97


def test_differences_are_paired(scores):
    ours, noise = scores
    theirs = ours + 0.5 + (noise - 50) / 20
    found = bootstrap({"ours": mean_of(ours), "theirs": mean_of(theirs), "gain": mean_of(ours - theirs)}, range(500))
    difference = found["ours"] - found["theirs"]
    np.testing.assert_allclose(difference.draws, found["gain"].draws, atol=1e-12)
    assert difference.estimate().decided
    single = found["ours"].estimate()
    assert difference.estimate().upper - difference.estimate().lower < (single.upper - single.lower) / 5


def test_a_clock_ties_with_itself(scores):
    found = bootstrap({"one": mean_of(scores[0]), "same": mean_of(scores[0].copy())}, range(500))
    difference = (found["one"] - found["same"]).estimate()
    assert difference.numbers == (0, 0, 0)
    assert not difference.decided


def test_all_rows_of_a_person_are_drawn_together(scores):
    errors, _ = scores
    people = np.arange(500)
    single = bootstrap({"it": mean_of(errors)}, people)["it"]
    visits = np.repeat(np.arange(500), 2)
    shuffled = np.random.default_rng(1).permutation(1000)
    double = bootstrap({"it": mean_of(errors[visits][shuffled])}, visits[shuffled])["it"]
    np.testing.assert_allclose(double.draws, single.draws)


def test_the_seed_alone_decides(scores, monkeypatch):
    errors, _ = scores
    first = one(mean_of(errors), errors, draws=50, seed=4)
    assert not np.array_equal(first.draws, one(mean_of(errors), errors, draws=50, seed=5).draws)
    monkeypatch.setattr(module, "_COHORTS_AT_ONCE", 7)
    np.testing.assert_allclose(one(mean_of(errors), errors, draws=50, seed=4).draws, first.draws, rtol=1e-13)


def test_undefined_draws_are_left_out_of_the_interval():
    few = np.arange(40) < 2  # in one cohort of eight neither is drawn
    scores = np.where(few, [5.0], [1.0])
    found = one(among(few, mean_of(scores[few])), scores)
    assert np.isnan(found.draws).any()
    assert found.estimate().numbers == (5, 5, 5)
    never = one(lambda weights: np.full(weights.shape[1], np.nan), scores).estimate()
    assert np.isnan(never.numbers).all()


@pytest.mark.parametrize(("people", "draws"), [(0, 10), (10, 0)])
def test_nothing_to_draw_is_refused(people, draws):
    with pytest.raises(BadInput, match=rf"{people} people, {draws} draws"):
        bootstrap({}, np.arange(people), draws=draws)
