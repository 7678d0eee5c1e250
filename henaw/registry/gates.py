"""The gates before ``champion``: a pure function from a comparison, facts and thresholds to a decision with reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from henaw.config import asset_folder
from henaw.errors import BadInput
from henaw.evaluation.bootstrap import Estimate
from henaw.evaluation.figures import figure
from henaw.evaluation.pairing import Comparison, Group
from henaw.model.clock import Target
from henaw.settings import Count, Fraction, Integer, Number, Positive, Section

Bounds = Annotated[list[Number], Field(min_length=2, max_length=2)]
Judged = Literal["crps_years", "concordance", "brier"]
Margins = dict[Judged, Annotated[Number, Field(ge=0)]]
_SLOPE = "calibration_slope"


class Groups(Section):
    """What is asked of groups of people."""

    least_people: Count
    worse_by: Margins
    coverage_floors: dict[Literal["sex", "predicted age"], Fraction]


class Gates(Section):
    """The thresholds for clocks of one target."""

    least_people: Count
    no_worse: Margins
    better_on_one_of: Annotated[list[Judged], Field(min_length=1)]
    groups: Groups
    coverage_floor: Fraction | None = None
    calibration_slope: Bounds | None = None
    observed_expected: dict[Integer, Bounds] = Field(default_factory=dict)
    latency_ms: Positive


def load_gates(target: Target) -> Gates:
    """The gates of ``mlproject/gates.yaml`` for clocks of ``target``.

    Raises:
        BadInput: the file is not what it should be.
    """
    path = asset_folder("mlproject") / "gates.yaml"
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Gates.model_validate(read[target])
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, [target, *first['loc']]))}: {first['msg']}") from None
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise BadInput(f"{path}: expected gates under {target}") from None


@dataclass(frozen=True)
class Facts:
    """What else is known of the two versions.

    Attributes:
        signature_faults: how the challenger's signature does not fit the champion's; empty where it does.
        manifest_fault: what is wrong with the challenger's files; empty where they match their manifest.
        withdrawn: of ``champion`` and ``challenger``, who was trained with people who have withdrawn since.
        trained_on_judges: whether the challenger was trained with people who are to judge it; None where that is not
            known on this machine.
        latency_ms: median time that the challenger takes for a row; None where it was not measured.
    """

    signature_faults: tuple[str, ...] = ()
    manifest_fault: str = ""
    withdrawn: tuple[str, ...] = ()
    trained_on_judges: bool | None = False
    latency_ms: float | None = None


@dataclass(frozen=True)
class Finding:
    """One gate: its name, whether it is passed, and why, in plain words with the figures."""

    gate: str
    passed: bool
    words: str


@dataclass(frozen=True)
class Decision:
    """Every gate, and what was compared (None where it did not come to that)."""

    findings: tuple[Finding, ...]
    comparison: Comparison | None

    @property
    def promoted(self) -> bool:
        """Whether every gate is passed."""
        return all(finding.passed for finding in self.findings)

    @property
    def failing(self) -> tuple[Finding, ...]:
        """The gates that are not passed."""
        return tuple(finding for finding in self.findings if not finding.passed)


def decide(comparison: Comparison | None, facts: Facts, gates: Gates) -> Decision:
    """Judge a challenger; without a champion to compare it with, by what is asked of any clock."""
    findings = list(_of_facts(facts, gates))
    if comparison is not None:
        everyone = comparison.everyone
        findings.append(_people(everyone, gates))
        if everyone.champion:
            findings += _no_worse(everyone, gates)
            findings.append(_better(everyone, gates))
            findings += _worse_groups(comparison, gates)
        findings += _absolute(comparison, gates)
    return Decision(tuple(findings), comparison)


def not_moved(decision: Decision, why: str) -> Decision:
    """``decision`` of a challenger that passed and did not become champion all the same, for ``why``."""
    return replace(decision, findings=(*decision.findings, Finding("move", False, why.removeprefix("promote: "))))


def _of_facts(facts: Facts, gates: Gates) -> Iterator[Finding]:
    fault = facts.manifest_fault
    yield Finding("manifest", not fault, fault or "every file of the challenger matches its manifest")
    faults = facts.signature_faults
    yield Finding("signature", not faults, "; ".join(faults) or "whoever calls the champion can call the challenger")
    gone = "challenger" in facts.withdrawn
    words = "the challenger was trained with people who have withdrawn" if gone else "no one who has withdrawn"
    yield Finding("withdrawn people", not gone, words)
    if "champion" in facts.withdrawn:
        yield Finding("withdrawn people: champion", True, "the champion was trained with people who have withdrawn")
    words = {
        True: "the challenger was trained with people who are to judge it",
        False: "no one who judges the challenger has trained it",
        None: "who trained the challenger is not known on this machine; the split says that the judges did not",
    }[facts.trained_on_judges]
    yield Finding("unseen people", facts.trained_on_judges is not True, words)
    if facts.latency_ms is not None:
        words = f"{facts.latency_ms:.1f} ms to answer a row; at most {gates.latency_ms:g} allowed"
        yield Finding("latency", facts.latency_ms <= gates.latency_ms, words)


def _people(everyone: Group, gates: Gates) -> Finding:
    words = f"{everyone.people:,} held-out people judge; at least {gates.least_people:,} expected"
    return Finding("people", everyone.people >= gates.least_people, words)


def _no_worse(everyone: Group, gates: Gates) -> Iterator[Finding]:
    for name, margin in gates.no_worse.items():
        gate = f"no worse: {name}"
        if name not in everyone.difference:
            yield Finding(gate, True, f"{figure(name).title}: not to be had on these people, and not judged")
            continue
        worst = _worst(name, everyone.difference[name])
        passed = worst <= margin
        limit = f"worse by at most {margin:g} is allowed, even at the far end of the interval"
        yield Finding(gate, passed, f"{_difference_words(name, everyone)}; {limit}")


def _better(everyone: Group, gates: Gates) -> Finding:
    judged = [name for name in gates.better_on_one_of if name in everyone.difference]
    better = [name for name in judged if _worst(name, everyone.difference[name]) < 0]
    words = "; ".join(_difference_words(name, everyone) for name in better or judged)
    said = "better" if better else "no figure is better beyond chance"
    return Finding("better on one", bool(better), f"{said}: {words}" if words else said)


def _worse_groups(comparison: Comparison, gates: Gates) -> Iterator[Finding]:
    for group in comparison.groups[1:]:
        if group.partition == "predicted age":  # that of the challenger: no fair way to compare it with another
            continue
        for name, margin in gates.groups.worse_by.items():
            if name not in group.difference or group.people < gates.groups.least_people:
                continue
            gate = f"not worse for {group.partition} {group.name}: {name}"
            words = (
                f"{_difference_words(name, group)}; refused where all of the interval is worse by more than {margin:g}"
            )
            yield Finding(gate, _least_worse(name, group.difference[name]) <= margin, words)


def _absolute(comparison: Comparison, gates: Gates) -> Iterator[Finding]:
    for group in comparison.groups:
        overall = group is comparison.everyone
        floor = gates.coverage_floor if overall else gates.groups.coverage_floors.get(group.partition)  # type: ignore[call-overload]
        found = group.challenger.get("coverage_90")
        if floor is None or found is None or not (overall or group.people >= gates.groups.least_people):
            continue
        whom = "everyone" if overall else f"{group.partition} {group.name}"
        words = f"{_value_words('coverage_90', found)} of {group.people:,} people; at least {100 * floor:g} % expected"
        yield Finding(f"coverage: {whom}", found.value >= floor, words)
    everyone = comparison.everyone.challenger
    if gates.calibration_slope is not None:
        yield _within(_SLOPE, everyone.get(_SLOPE), gates.calibration_slope)
    for years, bounds in gates.observed_expected.items():
        name = f"observed_expected_{years}y"
        if name in everyone or years == max(gates.observed_expected, default=0):
            yield _within(name, everyone.get(name), bounds)


def _within(name: str, found: Estimate | None, bounds: list[float]) -> Finding:
    low, high = bounds
    if found is None:
        return Finding(
            name, False, f"{figure(name).title}: not to be had on these people; expected {low:g} to {high:g}"
        )
    words = f"{_value_words(name, found)}; refused where all of the interval is outside of {low:g} to {high:g}"
    return Finding(name, found.lower <= high and found.upper >= low, words)


def _worst(name: str, difference: Estimate) -> float:
    """How much worse the challenger is at the bad end of the interval; below 0: better even there."""
    return difference.upper if figure(name).better == "lower" else -difference.lower


def _least_worse(name: str, difference: Estimate) -> float:
    """How much worse the challenger is at the good end of the interval; above 0: decidedly worse."""
    return difference.lower if figure(name).better == "lower" else -difference.upper


def _difference_words(name: str, group: Group) -> str:
    known, found = figure(name), group.difference[name]
    before, after = known.shown(group.champion[name].value), known.shown(group.challenger[name].value)
    less, lower, upper = (known.difference(value) for value in found.numbers)
    return f"{known.title}: {before} → {after}, difference {less} ({lower} to {upper}; {known.better} is better)"


def _value_words(name: str, found: Estimate) -> str:
    known = figure(name)
    value, lower, upper = (known.shown(number) for number in found.numbers)
    return f"{known.title}: {value} ({lower} to {upper})"


def to_dict(decision: Decision) -> dict[str, Any]:
    """The decision in the types of JSON."""

    def estimates(found: Any) -> dict[str, list[float | None]]:
        return {
            name: [value if value == value else None for value in estimate.numbers] for name, estimate in found.items()
        }

    groups = [] if decision.comparison is None else decision.comparison.groups
    return {
        "promoted": decision.promoted,
        "gates": [{"gate": each.gate, "passed": each.passed, "words": each.words} for each in decision.findings],
        "groups": [
            {
                "partition": group.partition,
                "name": group.name,
                "people": group.people,
                "champion": estimates(group.champion),
                "challenger": estimates(group.challenger),
                "difference": estimates(group.difference),
            }
            for group in groups
        ],
    }
