"""The gates on pairs of clocks with a known answer: better, worse, a tie, better overall but worse for women."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from henaw.evaluation.metrics import crps_gaussian
from henaw.evaluation.pairing import Pair, compare, slope_of
from henaw.evaluation.prediction import People, Prediction
from henaw.model.hazard import Gompertz
from henaw.registry.decision_text import decision_markdown, reasons
from henaw.registry.gates import Decision, Facts, decide, load_gates, to_dict
from tests.scenarios import HAZARD, lifetimes

Array = NDArray[np.float64]
PEOPLE = 2000
Z90 = 1.6448536


def cohort(people: int = PEOPLE, seed: int = 0) -> tuple[People, NDArray[np.object_], NDArray[np.object_]]:
    """People aged 20 to 79 who die by their age, half of them women; and who they are."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 80, people)
    sex = rng.choice(np.array(["female", "male"], dtype=object), people)
    years, censored = lifetimes(HAZARD, age, rng), rng.uniform(8, 15, people)
    died = (years <= censored).astype(float)
    followed = np.ones(people, dtype=bool)
    known = People(age, (sex == "male").astype(float), np.minimum(years, censored), died, followed)
    return known, np.array([str(number) for number in range(people)], dtype=object), sex


def age_clock(people: People, error: Array, sd: Array | float, bias: float = 0.0) -> Prediction:
    """A Gaussian clock that is off by ``error`` and says that it is off by ``sd``."""
    median = people.age + error + bias
    width = Z90 * np.broadcast_to(sd, median.shape)
    scores = {
        "crps_years": crps_gaussian(median, np.broadcast_to(sd, median.shape), people.age),
        "mae_years": np.abs(median - people.age),
        "coverage_90": (np.abs(median - people.age) <= width).astype(float),
    }
    return Prediction("a clock", scores, age=median, rank=median, mean=median, reads_age=False)


def judged(sd_champion: float, sd_challenger: Array | float, **options: float) -> tuple[Pair, Decision]:
    """Both clocks err alike, scaled by their sd: how good they are is known exactly."""
    people, participants, sex = cohort()
    error = np.random.default_rng(1).normal(0, 1, PEOPLE)
    other = np.random.default_rng(2).normal(0, 1, PEOPLE)
    champion = age_clock(people, sd_champion * error, sd_champion)
    sd = sd_challenger * np.ones(PEOPLE)
    challenger = age_clock(people, sd * (0.8 * error + 0.6 * other), sd, **options)
    pair = Pair("age", people, participants, sex, champion, challenger)
    return pair, decide(compare(pair, 100, 0), Facts(latency_ms=1.0), load_gates("age"))


def failing(decision: Decision) -> list[str]:
    return [finding.gate for finding in decision.failing]


def test_a_better_one_is_promoted() -> None:
    _, decision = judged(6.0, 5.0)
    assert decision.promoted, reasons(decision)
    [better] = [finding for finding in decision.findings if finding.gate == "better on one"]
    assert "CRPS (years)" in better.words


def test_a_worse_one_is_refused_for_being_worse() -> None:
    _, decision = judged(5.0, 6.0)
    assert {"no worse: crps_years", "better on one"} <= set(failing(decision))
    words = reasons(decision)
    assert "CRPS (years)" in words
    assert "better on one: no figure is better beyond chance" in words


def test_a_tie_is_refused_because_nothing_is_gained() -> None:
    pair, _ = judged(5.0, 5.0)
    same = replace(pair, challenger=pair.champion)
    decision = decide(compare(same, 100, 0), Facts(), load_gates("age"))
    assert failing(decision) == ["better on one"]


def test_better_overall_but_worse_for_women_is_refused() -> None:
    _, _, sex = cohort()
    pair, decision = judged(6.0, np.where(sex == "female", 6.8, 4.0))
    overall = compare(pair, 100, 0).everyone.difference["crps_years"]
    assert overall.upper < 0, "better overall"
    assert "not worse for sex female: crps_years" in failing(decision)
    assert "not worse for sex male: crps_years" not in failing(decision)
    assert "no worse: crps_years" not in failing(decision)


def test_an_overconfident_one_is_refused_for_its_coverage() -> None:
    people, participants, sex = cohort()
    error = np.random.default_rng(1).normal(0, 1, PEOPLE)
    champion, challenger = age_clock(people, 7 * error, 7.0), age_clock(people, 4 * error, 2.5)
    pair = Pair("age", people, participants, sex, champion, challenger)
    decision = decide(compare(pair, 100, 0), Facts(), load_gates("age"))
    assert {"coverage: everyone", "coverage: sex female", "coverage: sex male"} <= set(failing(decision))


def test_one_that_regresses_to_the_mean_is_refused_for_its_slope() -> None:
    people, participants, sex = cohort()
    error = np.random.default_rng(1).normal(0, 1, PEOPLE)
    champion = age_clock(people, 9 * error, 9.0)
    challenger = age_clock(people, 0.3 * (50 - people.age) + error, 7.0)
    decision = decide(
        compare(Pair("age", people, participants, sex, champion, challenger), 100, 0), Facts(), load_gates("age")
    )
    assert "calibration_slope" in failing(decision)


def test_the_slope_is_that_of_the_mean_whatever_the_median() -> None:
    """Ages have bounds: medians of skewed distributions are spread out more than means, and no fault is in that."""
    rng = np.random.default_rng(3)
    people, participants, sex = cohort()
    mean = 50 + 0.8 * (people.age - 50) + rng.normal(0, 60 / 12**0.5 * 0.4, PEOPLE)
    assert np.polyfit(mean, people.age, 1)[0] == pytest.approx(1.0, abs=0.03)
    clock = replace(age_clock(people, 9 * rng.normal(0, 1, PEOPLE), 9.0), age=50 + 1.2 * (mean - 50), mean=mean)
    found = compare(Pair("age", people, participants, sex, None, clock), 100, 0).everyone.challenger
    assert found["calibration_slope"].value == pytest.approx(1.0, abs=0.03)


def test_small_groups_are_shown_and_not_judged_and_the_smallest_not_shown() -> None:
    people, participants, _ = cohort()
    sex = np.full(PEOPLE, "male", dtype=object)
    sex[:150] = "female"
    error = np.random.default_rng(1).normal(0, 1, PEOPLE)
    sd = np.where(sex == "female", 9.0, 4.0)
    champion, challenger = age_clock(people, 6 * error, 6.0), age_clock(people, sd * error, sd)
    comparison = compare(Pair("age", people, participants, sex, champion, challenger), 100, 0)
    decision = decide(comparison, Facts(), load_gates("age"))
    assert "female" in {group.name for group in comparison.groups}
    assert not [finding for finding in decision.findings if "female" in finding.gate]
    sex[3:150] = "male"
    hidden = compare(Pair("age", people, participants, sex, champion, challenger), 100, 0)
    assert "female" not in {group.name for group in hidden.groups}, "three people are nobody's business"


def test_too_few_people_decide_nothing() -> None:
    people, participants, sex = cohort(300)
    error = np.random.default_rng(1).normal(0, 1, 300)
    pair = Pair("age", people, participants, sex, age_clock(people, 9 * error, 9.0), age_clock(people, error, 1.0))
    assert failing(decide(compare(pair, 100, 0), Facts(), load_gates("age"))) == ["people"]


def test_without_a_champion_the_absolute_gates_stand() -> None:
    pair, _ = judged(6.0, 5.0)
    alone = decide(compare(replace(pair, champion=None), 100, 0), Facts(), load_gates("age"))
    assert alone.promoted
    assert not [finding for finding in alone.findings if "worse" in finding.gate or "better" in finding.gate]


@pytest.mark.parametrize(
    ("facts", "gate", "words"),
    [
        (Facts(signature_faults=("the challenger also needs mcv_fl",)), "signature", "mcv_fl"),
        (Facts(manifest_fault="its files differ from its manifest"), "manifest", "differ"),
        (Facts(withdrawn=("challenger",)), "withdrawn people", "have withdrawn"),
        (Facts(trained_on_judges=True), "unseen people", "are to judge it"),
        (Facts(latency_ms=51.0), "latency", "at most 50 allowed"),
    ],
)
def test_facts_refuse_by_themselves(facts: Facts, gate: str, words: str) -> None:
    pair, _ = judged(6.0, 5.0)
    decision = decide(compare(pair, 100, 0), facts, load_gates("age"))
    assert failing(decision) == [gate]
    assert words in reasons(decision)


def test_a_champion_of_people_who_have_withdrawn_may_be_replaced_and_it_is_said() -> None:
    pair, _ = judged(6.0, 5.0)
    decision = decide(compare(pair, 100, 0), Facts(withdrawn=("champion",)), load_gates("age"))
    assert decision.promoted
    assert any("champion was trained with people who have withdrawn" in each.words for each in decision.findings)


def mortality(people: People, biological_age: Array, hazard: Gompertz = HAZARD) -> Prediction:
    """A clock that is sure of ``biological_age``."""
    grid = people.brier_grid()
    survival = np.exp(-hazard.cumulative(biological_age[:, None], grid[None]))
    risks = {years: 1 - np.exp(-hazard.cumulative(biological_age, float(years))) for years in (5, 10)}
    return Prediction("a clock", {}, rank=biological_age, survival=survival, risks=risks)


def test_a_mortality_clock_has_gates_of_its_own() -> None:
    people, participants, sex = cohort(4000)
    noise = np.random.default_rng(3).normal(0, 9, 4000)

    def decided(champion: Prediction, challenger: Prediction) -> Decision:
        pair = Pair("mortality", people, participants, sex, champion, challenger)
        return decide(compare(pair, 100, 0), Facts(), load_gates("mortality"))

    rough, exact = mortality(people, people.age + noise), mortality(people, people.age)
    better = decided(rough, exact)
    assert better.promoted, reasons(better)
    assert not [finding for finding in better.findings if "coverage" in finding.gate]
    worse = set(failing(decided(exact, rough)))
    assert {"no worse: concordance", "no worse: brier", "better on one"} <= worse
    too_high = mortality(people, people.age, Gompertz(HAZARD.alpha + 1.0, HAZARD.beta))
    assert {"observed_expected_5y", "observed_expected_10y"} <= set(failing(decided(rough, too_high)))


def test_a_decision_is_the_same_every_time_and_holds_no_person() -> None:
    pair, decision = judged(6.0, 5.0)
    again = decide(compare(pair, 100, 0), Facts(latency_ms=1.0), load_gates("age"))
    assert to_dict(decision) == to_dict(again)
    text = decision_markdown(decision, "henaw", 3, 2) + str(to_dict(decision))
    assert "# Promotion of henaw version 3: yes" in text
    assert "### By sex: female" in text
    for value in (*pair.people.age[:50], *(pair.challenger.age[:50] if pair.challenger.age is not None else ())):
        assert f"{value:.6f}" not in text


def test_the_slope_of_a_calibrated_prediction_is_one() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.normal(50, 10, 20_000)
    truth = predicted + rng.normal(0, 5, 20_000)
    weights = np.ones((20_000, 1))
    assert slope_of(predicted, truth)(weights)[0] == pytest.approx(1.0, abs=0.02)
    assert slope_of(2 * predicted, truth)(weights)[0] == pytest.approx(0.5, abs=0.01)
    assert slope_of(predicted, truth)(weights)[0] == pytest.approx(np.polyfit(predicted, truth, 1)[0])


def test_comparisons_know_their_people() -> None:
    pair, _ = judged(6.0, 5.0)
    comparison = compare(pair, 50, 0)
    by_sex = [group.people for group in comparison.groups if group.partition == "sex"]
    assert sum(by_sex) == comparison.everyone.people == PEOPLE
