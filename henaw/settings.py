"""What each section of the settings may hold: one pydantic model a section of ``mlproject/default.yaml``.

The models have no defaults on purpose: a default stands in ``default.yaml`` and nowhere else, so a key that the code
reads and the file lacks fails every test at once.
"""

from __future__ import annotations

import datetime as dt
import re
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


def _number_meant(value: Any) -> Any:
    """YAML 1.1 takes 3e-3 for text (it wants 3.0e-3); where a key holds a number, the number is meant."""
    if not (isinstance(value, str) and _EXPONENT.fullmatch(value)):
        return value
    number = float(value)
    return int(number) if number.is_integer() else number


Integer = Annotated[int, BeforeValidator(_number_meant)]
Number = Annotated[float, BeforeValidator(_number_meant)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
OpenFraction = Annotated[Number, Field(gt=0, lt=1)]
Count = Annotated[Integer, Field(ge=1, le=2**31 - 1)]
Positive = Annotated[Number, Field(gt=0)]


class Section(BaseModel):
    """A part of the settings: unknown keys are refused, and so are values of another kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _ascending(ages: list[int]) -> list[int]:
    if len(ages) != 2 or ages[0] > ages[1] or ages[0] < 0:
        raise ValueError("expected two ages, [youngest, oldest]")
    return ages


def _strictly_ascending(levels: list[float]) -> list[float]:
    if any(first >= second for first, second in pairwise(levels)):
        raise ValueError("expected levels in ascending order")
    return levels


def _day(value: object) -> object:
    text = value.isoformat() if type(value) is dt.date else value  # YAML knows dates
    try:
        valid = dt.date.fromisoformat(str(text)).isoformat() == text
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("expected a day as 2022-11-30")
    return text


def _database_without_password(url: str) -> str:
    if not re.match(r"postgresql(\+psycopg)?://", url):
        raise ValueError("expected postgresql://USER@HOST/DATABASE")
    if re.match(r"[^:]+://[^/@]*:[^/@]*@", url):
        raise ValueError("holds a password, and settings are logged; put it into PGPASSWORD or ~/.pgpass")
    return url


Day = Annotated[str, BeforeValidator(_day)]
AgeRange = Annotated[list[Integer], AfterValidator(_ascending)]
Paths = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Source(Section):
    """Where the cohort comes from."""

    kind: Literal["auto", "table", "ukbiobank", "nhanes", "synthetic"]
    data: str | None
    id_columns: list[str]
    units: dict[str, str]
    instance: Literal[0, 1, 2, 3, "first"]
    with_ids: str | None
    with_fields: list[Count]
    censored_on: Day | None
    withdrawals: Paths
    people: Count
    ages: AgeRange

    @model_validator(mode="after")
    def _data_fits_kind(self) -> Source:
        if self.kind in ("table", "ukbiobank", "nhanes") and self.data is None:
            raise ValueError(f"kind {self.kind} needs a path in source.data (on the command line: data=FILE)")
        if self.kind == "synthetic" and self.data is not None:
            raise ValueError("kind synthetic reads no data, yet source.data is set")
        if self.units and self.data is None:
            raise ValueError("units says what the columns of source.data are in, yet no data is named")
        return self


class CohortFilter(Section):
    """Who of the source is studied."""

    ages: AgeRange
    exclude: dict[str, list[str | int | float]]
    complete_panel: bool
    require: list[str]
    plausible: list[str]
    floors: dict[str, Positive]


class Validation(Section):
    """How many rows may be set aside."""

    max_set_aside: Fraction


class Split(Section):
    """Who trains, calibrates and tests."""

    by: Literal["person", "column", "date"]
    column: str | None
    day: Day | None
    train: list[str | int]
    test: list[str | int]
    test_fraction: OpenFraction
    calibration_fraction: OpenFraction

    @model_validator(mode="after")
    def _column_named(self) -> Split:
        if self.by == "column" and not (self.column and self.test):
            raise ValueError("by column needs a name in split.column and values in split.test")
        if self.by == "date" and not (self.column and self.day):
            raise ValueError("by date needs a name in split.column and a day in split.day, as 2022-11-30")
        if set(self.train) & set(self.test):
            raise ValueError("split.train and split.test share values; expected each on one side")
        return self


class State(Section):
    """What stays on this machine."""

    folder: str
    lock_seconds: Annotated[Number, Field(ge=0)]


class Network(Section):
    """Shape of the ensemble."""

    members: Count
    hidden: Annotated[list[Count], Field(min_length=1)]
    dropout: Annotated[Number, Field(ge=0, lt=1)]
    head: Literal["quantiles", "bins", "gaussian"]
    link: Literal["identity", "logit"]
    knots: Annotated[list[OpenFraction], AfterValidator(_strictly_ascending)]
    bin_years: Annotated[Number, Field(ge=0.25)]

    @model_validator(mode="after")
    def _one_way_to_a_gaussian(self) -> Network:
        if self.head == "quantiles" and self.link == "identity" and not self.knots:
            raise ValueError("link identity without knots is a Gaussian; expected head gaussian, or knots")
        return self


AgeGroups = Literal["proportional", "even"]


class Training(Section):
    """How the ensemble is fitted."""

    loss: Literal["crps", "beta_nll"]
    beta: Fraction
    nll_weight: Annotated[Number, Field(ge=0)]
    epochs: Count
    patience: Count
    batch_size: Count | Literal["auto"]
    age_groups: AgeGroups
    learning_rate: Positive
    weight_decay: Annotated[Number, Field(ge=0)]
    clip_norm: Positive
    mask_rate: Annotated[Number, Field(ge=0, lt=1)]
    input_noise: Annotated[Number, Field(ge=0)]
    era_column: str | None
    max_skipped: Count
    checkpoint_every: Count
    checkpoints_kept: Annotated[Integer, Field(ge=2)]
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[Integer, Field(ge=0, le=1024)]
    processes: Count
    split: Literal["members", "people"]
    precision: Literal["auto", "fp32", "bf16"]
    compiled: Literal["auto", "never", "graphs", "always"]

    @property
    def people_in_batch(self) -> int:
        """``batch_size`` once it is a number."""
        if self.batch_size == "auto":
            raise ValueError("batch_size is not settled yet")
        return self.batch_size


class Calibration(Section):
    """How levels are mapped."""

    bands: Count
    least_people: Count
    shrinkage: Annotated[Number, Field(ge=1)]


class Mortality(Section):
    """What the mortality clock is trained on."""

    cap_years: Positive
    recalibration_cap_years: Positive


class Scoring(Section):
    """What a scored row must look like."""

    max_missing: Annotated[Integer, Field(ge=0)]


class Evaluation(Section):
    """What is reported."""

    coverages: Annotated[list[OpenFraction], Field(min_length=1)]
    draws: Count


class Study(Section):
    """How settings are searched for."""

    space: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")] | None
    trials: Count
    objective: Literal["crps", "partial_likelihood", "concordance"] | None
    validation_fraction: OpenFraction
    pruner: Literal["median", "hyperband", "none"]
    coverage_off: OpenFraction | None
    memory_mib: Positive | None
    latency_ms: Positive | None
    compare: bool
    storage: Annotated[str, AfterValidator(_database_without_password)] | None
    heartbeat_seconds: Count
    pack: Literal["auto"] | Annotated[int, Field(ge=1, le=256)]
    found_by: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")] | None


class Serving(Section):
    """What ``henaw serve`` lets in, and for how long."""

    workers: Count
    hosts: list[Annotated[str, Field(min_length=1)]]
    max_bytes: Count
    max_rows: Count
    slots: Count
    rate: Annotated[str, Field(pattern=r"^[1-9]\d*/(second|minute|hour|day)$")]
    deadline_seconds: Positive
    body_seconds: Positive
    reload_seconds: Annotated[Number, Field(ge=0)]
    drain_seconds: Annotated[Number, Field(ge=0, le=15)]
    audit: str | None
    page: bool
    shadow: Annotated[str, Field(min_length=1)] | None
    shadow_share: Annotated[Number, Field(gt=0, le=1)]
    split: Annotated[str, Field(min_length=1)] | None
    tls_certificate: str | None
    tls_key: str | None

    @model_validator(mode="after")
    def _both_or_no_tls_file(self) -> Serving:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS needs both tls_certificate and tls_key")
        return self


class Tracking(Section):
    """Where runs and versions go."""

    experiment: Annotated[str, Field(min_length=1)]
    system_seconds: Annotated[Number, Field(ge=0)]
    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None
