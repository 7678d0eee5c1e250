"""What trains fastest where: ``auto`` becomes a batch size, a precision and a choice about compilation.

``mlproject/speed.yaml`` has what ``benchmarks/bench_speed.py`` measured, as reviewed data: nothing is timed at the
start of a run, which would make two runs of the same settings differ.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import Field

from henaw.config import Config, asset_folder
from henaw.settings import Count, Section, Training
from henaw.training.device import choose_device

logger = logging.getLogger(__name__)


class Row(Section):
    """What is used on a kind of device from so many training people on; ``measured`` says where, or that it is not."""

    device: Literal["cpu", "cuda"]
    from_people: Annotated[int, Field(ge=0)]
    batch_size: Count
    precision: Literal["fp32", "bf16"]
    compiled: Literal["never", "graphs", "always"]
    measured: str


def speed_table() -> list[Row]:
    """The rows of ``mlproject/speed.yaml``."""
    text = (asset_folder("mlproject") / "speed.yaml").read_text(encoding="utf-8")
    return [Row.model_validate(row) for row in yaml.safe_load(text)]


def resolved(settings: Training, people: int, device: torch.device) -> Training:
    """``settings`` without ``auto``, for ``people`` to train on; bf16 only where the device has it."""
    row = max(
        (row for row in speed_table() if row.device == device.type and row.from_people <= people),
        key=lambda row: row.from_people,
    )
    chosen = {
        name: getattr(row, name)
        for name in ("batch_size", "precision", "compiled")
        if getattr(settings, name) == "auto"
    }
    found = settings.model_copy(update=chosen)
    if found.precision == "bf16" and not has_bf16(device):
        logger.warning("training.precision: this %s has no bf16, so it is fp32", device.type)
        found = found.model_copy(update={"precision": "fp32"})
    if found.compiled == "graphs" and device.type != "cuda":
        logger.warning("training.compiled: graphs are of GPUs, so it is never")
        found = found.model_copy(update={"compiled": "never"})
    return found


def as_begun(settings: Training, fingerprint: Mapping[str, Any]) -> Training:
    """``settings`` with what ``auto`` came to when the run of ``fingerprint`` began, where its result depends on it.

    The table, or the device, may be another by the time that it goes on.
    """
    begun = {name: fingerprint.get(f"training.{name}", "auto") for name in ("batch_size", "precision")}
    return settings.model_copy(update={name: it for name, it in begun.items() if getattr(settings, name) == "auto"})


def settled(config: Config, people: int) -> Config:
    """``config`` with what ``auto`` comes to on this machine, for ``people`` to train on."""
    training = resolved(config.training, people, choose_device(config.training))
    return config.model_copy(update={"training": training})


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())
