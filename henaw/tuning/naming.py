"""Which study a command means: equal data and settings are the same study, whoever asks, whenever."""

from __future__ import annotations

from henaw import __version__
from henaw.config import Config
from henaw.data.cohort import source_digest
from henaw.data.files import digest_values
from henaw.data.panel import Panel
from henaw.tuning.space import Space

_SECTIONS = ("cohort", "validation", "split", "network", "training", "calibration", "mortality")
WHERE = {"device", "threads"}  # a worker may run elsewhere
_NOT_THE_STUDY = {
    "trials",
    "storage",
    "heartbeat_seconds",
    "pack",
    "compare",
    "found_by",
}  # may change while it goes on


def study_name(config: Config, panel: Panel, space: Space, objective: str) -> str:
    """The study's name: target, panel, and a digest of all that its trials follow from.

    Raises:
        BadInput: the source cannot be read.
    """
    settings = {section: getattr(config, section).model_dump(mode="json") for section in _SECTIONS}
    settings["training"] = {name: value for name, value in settings["training"].items() if name not in WHERE}
    digest = digest_values(
        {
            "version": __version__,
            "source": source_digest(config, panel),
            "panel": panel.model_dump(mode="json"),
            "target": config.target,
            "seed": config.seed,
            "settings": settings,
            "study": config.study.model_dump(mode="json", exclude=_NOT_THE_STUDY),
            "space": space.to_dict(),
            "objective": objective,
        }
    )
    return f"{config.target}-{panel.name}-{digest[:12]}"
