"""Figures of subgroups: whom they hold, what they say, and whom they hide."""

import numpy as np
import pytest

from henaw.errors import BadInput
from henaw.evaluation.subgroups import age_bands, figures_by_subgroup, standard_partitions


@pytest.fixture(scope="module")
def people():
    random = np.random.default_rng(2)
    age = np.floor(random.uniform(20, 80, 600))
    predicted = age + random.normal(0, 10, 600)
    sex = random.choice(np.array(["female", "male", None], dtype=object), 600, p=[0.5, 0.45, 0.05])
    missing = random.choice([0, 1, 2], 600, p=[0.7, 0.295, 0.005])
    return age, predicted, sex, missing


def figures(people, **options):
    age, predicted, *_ = people
    scores = {"mae": np.abs(predicted - age), "bias": predicted - age}
    return figures_by_subgroup(scores, standard_partitions(*people), np.arange(len(age)), draws=200, **options)


def test_every_partition_holds_everyone_once(people):
    for groups in standard_partitions(*people).values():
        assert (np.sum(list(groups.values()), axis=0) == 1).all()


def test_bands_are_of_completed_years():
    bands = age_bands(np.array([19.0, 34.99, 35.0, 49.9, 50.0, 64.0, 65.0, 120.0]))
    assert {name: np.flatnonzero(rows).tolist() for name, rows in bands.items()} == {
        "under 35": [0, 1],
        "35–49": [2, 3],
        "50–64": [4, 5],
        "65 and more": [6, 7],
    }


def test_values_are_means_of_the_group_and_intervals_hold_them(people):
    age, predicted, sex, _ = people
    table = figures(people).table.set_index(["partition", "group", "figure"])
    women = table.loc[("sex", "female", "mae")]
    rows = sex == "female"
    assert women["value"] == pytest.approx(np.abs(predicted - age)[rows].mean())
    assert women["n"] == rows.sum()
    margin = 1.96 * np.abs(predicted - age)[rows].std() / np.sqrt(rows.sum())
    assert women["upper"] - women["lower"] == pytest.approx(2 * margin, rel=0.25)
    old = age >= 65
    assert table.loc[("true age", "65 and more", "bias")]["value"] == pytest.approx((predicted - age)[old].mean())
    assert ((table["lower"] <= table["value"]) & (table["value"] <= table["upper"])).all()


def test_small_groups_are_hidden_and_so_is_what_gives_them_away():
    age = np.repeat([25.0, 40.0, 55.0, 70.0], [3, 6, 40, 51])
    sex = np.array(["female"] * 96 + ["male"] * 4, dtype=object)
    found = figures((age, age + 1, sex, np.zeros(100, dtype=int)))
    assert set(found.withheld) == {
        "true age: under 35",
        "true age: 35–49",
        "predicted age: under 35",
        "predicted age: 35–49",
        "sex: male",
        "sex: female",
    }
    shown = set(zip(found.table["partition"], found.table["group"], strict=True))
    assert ("true age", "50–64") in shown
    assert ("all", "all") in shown
    assert not {f"{partition}: {group}" for partition, group in shown} & set(found.withheld)
    assert found.table["n"].min() >= 5


def test_people_count_and_not_their_visits():
    scores, groups = {"mae": np.ones(60)}, {"few": np.arange(60) < 8, "many": np.arange(60) >= 8}
    visits = np.concatenate([np.repeat(np.arange(4), 2), np.arange(100, 152)])
    assert figures_by_subgroup(scores, {"p": groups}, np.arange(60), draws=5).withheld == ()
    assert set(figures_by_subgroup(scores, {"p": groups}, visits, draws=5).withheld) == {"p: few", "p: many"}


def test_paired_comparisons_are_scores_like_others(people):
    age, predicted, *_ = people
    worse = predicted + 3 * np.sign(predicted - age)
    scores = {"gain": np.abs(predicted - age) - np.abs(worse - age)}
    found = figures_by_subgroup(scores, standard_partitions(*people), np.arange(600), draws=50).table
    np.testing.assert_allclose(found[["value", "lower", "upper"]], -3)


def test_scores_that_are_missing_are_refused(people):
    with pytest.raises(BadInput, match="crps"):
        figures_by_subgroup({"crps": np.full(600, np.nan)}, standard_partitions(*people), np.arange(600))
