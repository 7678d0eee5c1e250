"""What is in the registry, for a person: versions, where they come from, and how two of them differ."""

from __future__ import annotations

import datetime as dt
import difflib
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from henaw.evaluation.figures import figure
from henaw.evaluation.report import table_row
from henaw.registry.lineage import WITHDRAWN_TAG
from henaw.registry.manifest import fetch_verified
from henaw.registry.stores import require_models
from henaw.registry.versions import CARD_FOLDER, exact_version, registered_models

_LISTED = ("crps_years", "concordance", "coverage_90")
_FIGURE = "henaw.figure."


def listed() -> str:
    """All models and versions, the newest first, with aliases and main figures."""
    require_models()
    client = MlflowClient()
    lines = [table_row("model", ["version", "aliases", "registered", "figures", ""])]
    lines.append(table_row("---", ["---:", "---", "---", "---", "---"]))
    for model in registered_models():
        versions = client.search_model_versions(f"name='{model.name}'")
        for version in sorted(versions, key=lambda each: -int(each.version)):
            names = sorted(alias for alias, number in model.aliases.items() if int(number) == int(version.version))
            day = dt.datetime.fromtimestamp((version.creation_timestamp or 0) / 1000, dt.UTC).date().isoformat()
            tags = version.tags
            figures = [f"{name} {tags[_FIGURE + name]}" for name in _LISTED if _FIGURE + name in tags]
            note = "trained with people who have withdrawn" if WITHDRAWN_TAG in tags else ""
            lines.append(table_row(model.name, [str(version.version), ", ".join(names), day, "; ".join(figures), note]))
    return "\n".join(lines)


def shown(uri: str) -> str:
    """Everything about a version: its tags, and its model card; its files are verified on the way.

    Raises:
        BadInput: no such version.
        IntegrityError: its files differ from its manifest.
    """
    name, number = exact_version(uri)
    version = _version(name, number)
    aliases = ", ".join(sorted(version.aliases)) or "none"
    parts = [f"{name} version {number}, aliases: {aliases}, run {version.run_id}", _tags(version)]
    with TemporaryDirectory(prefix="henaw-") as temporary:
        card = fetch_verified(name, number, Path(temporary)) / "artifacts" / CARD_FOLDER / "model_card.md"
        parts.append(card.read_text(encoding="utf-8") if card.is_file() else "It has no model card.")
    return "\n\n".join(parts)


def compared(first: str, second: str) -> str:
    """The figures of two versions side by side, each as it was evaluated when it was registered."""
    versions = [_version(*exact_version(uri)) for uri in (first, second)]
    names = list(dict.fromkeys(key for version in versions for key in version.tags if key.startswith(_FIGURE)))
    lines = [table_row("", [first, second]), table_row("---", ["---", "---"])]
    for key in names:
        cells = [version.tags.get(key, "–") for version in versions]
        lines.append(table_row(figure(key.removeprefix(_FIGURE)).title, cells))
    digests = {version.tags.get("henaw.source_digest") for version in versions}
    people = "the same data" if len(digests) == 1 and None not in digests else "data that differ, or are not known"
    note = f"Each on its own held-out people, of {people}; for a paired comparison: henaw promote --dry-run."
    return "\n".join([*lines, "", note])


def differences(first: str, second: str) -> str:
    """What two versions were told differently: tags, and the settings of their runs line by line."""
    found = [exact_version(uri) for uri in (first, second)]
    tags, settings = zip(*((_told(name, number)) for name, number in found), strict=True)
    lines = [
        f"{key}: {tags[0].get(key, '–')} → {tags[1].get(key, '–')}"
        for key in sorted(tags[0] | tags[1])
        if tags[0].get(key) != tags[1].get(key) and not key.startswith(_FIGURE)
    ]
    before, after = (text.splitlines() for text in settings)
    changed = difflib.unified_diff(before, after, first, second, n=1, lineterm="")
    return "\n".join([*lines, "", *changed]) if lines else "No difference but the version's number."


def _told(name: str, number: int) -> tuple[dict[str, str], str]:
    tags = dict(_version(name, number).tags)
    try:
        return tags, str(mlflow.artifacts.load_text(f"runs:/{tags.get('henaw.training_run', '')}/config.yaml"))
    except (MlflowException, OSError):
        return tags, ""


def _version(name: str, number: int) -> ModelVersion:
    return MlflowClient().get_model_version(name, str(number))


def _tags(version: ModelVersion) -> str:
    return "\n".join(f"  {key} = {value}" for key, value in sorted(version.tags.items()))
