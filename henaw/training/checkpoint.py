"""One checkpoint on disk: a folder that is there whole or not at all, and that is used only where all of it fits.

``model.safetensors``, ``optimizer.safetensors`` and ``state.json``; ``manifest.json`` is written last and holds their
BLAKE2b digests, the fingerprint of the run (everything that must be equal for it to go on as if never stopped) and a
digest of both.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as tensors_as_bytes
from torch import Tensor

from henaw.data.files import digest_values, disk_errors, flush_to_disk
from henaw.errors import IntegrityError

FORMAT = 1
STATE, MANIFEST = "state.json", "manifest.json"
TENSORS = ("model", "optimizer")
TEMPORARY_SUFFIX = ".tmp"

Fingerprint = Mapping[str, Any]
"""What a run is, in dotted fields of plain JSON."""


class WrongRun(IntegrityError):
    """A whole checkpoint of a run with other settings, architecture or people (exit 2)."""


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        tensors: by file (one of ``TENSORS``) and name.
        state: everything that is no tensor, in plain JSON.
    """

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def write_checkpoint(folder: Path, contents: Contents, fingerprint: Fingerprint) -> None:
    """Write ``folder``, which does not exist yet, beside its final place and rename it when it is on the disk.

    Raises:
        EnvironmentProblem: the disk does not allow it; nothing is left of the attempt.
    """
    files = {f"{name}.safetensors": tensors_as_bytes(contents.tensors[name]) for name in TENSORS}
    files[STATE] = _json(contents.state)
    digests = {name: _digest(content) for name, content in files.items()}
    manifest = {"format": FORMAT, "fingerprint": dict(fingerprint), "blake2b": digests}
    files[MANIFEST] = _json(manifest | {"seal": digest_values(manifest)})
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    with disk_errors(folder):
        try:
            temporary.mkdir(mode=0o700)
            for name, content in files.items():
                _write(temporary / name, content)
            flush_to_disk(temporary)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        flush_to_disk(folder.parent)


def read_checkpoint(folder: Path, expected: Contents, fingerprint: Fingerprint) -> Contents:
    """Read a checkpoint that is whole, of this run, and of the form of ``expected``.

    Raises:
        WrongRun: the fingerprint is another one; the message names the fields that differ.
        IntegrityError: a file or field is missing, changed or of another form; the message names it.
        EnvironmentProblem: a file cannot be read.
    """
    manifest = read_manifest(folder)
    if differing := _differing(manifest["fingerprint"], fingerprint):
        raise WrongRun(f"{folder.name}: made by a run with other {', '.join(differing)}; nothing was loaded")
    names = {*(f"{name}.safetensors" for name in TENSORS), STATE}
    _require_fields(f"{folder.name}/{MANIFEST}: blake2b", manifest["blake2b"], names)
    files = {name: _read(folder, name) for name in sorted(names)}
    if changed := [name for name, content in files.items() if _digest(content) != manifest["blake2b"][name]]:
        raise IntegrityError(f"{folder.name}: {', '.join(changed)}: differs from its manifest; nothing was loaded")
    state = _parsed(folder, STATE, files[STATE])
    _require_fields(f"{folder.name}/{STATE}", state, set(expected.state))
    if wrong := sorted(name for name, value in expected.state.items() if type(state[name]) is not type(value)):
        raise IntegrityError(f"{folder.name}/{STATE}: {', '.join(wrong)}: of another kind; nothing was loaded")
    tensors = {name: _tensors(folder, name, files[f"{name}.safetensors"], expected.tensors[name]) for name in TENSORS}
    return Contents(tensors, state)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, whole; what it says of the other files is not looked at.

    Raises:
        IntegrityError: it is missing, changed or of another form.
        EnvironmentProblem: it cannot be read.
    """
    manifest = _parsed(folder, MANIFEST, _read(folder, MANIFEST))
    _require_fields(f"{folder.name}/{MANIFEST}", manifest, {"format", "fingerprint", "blake2b", "seal"})
    if manifest["format"] != FORMAT:
        raise IntegrityError(f"{folder.name}/{MANIFEST}: format: {manifest['format']!r}, expected {FORMAT}")
    if digest_values({name: value for name, value in manifest.items() if name != "seal"}) != manifest["seal"]:
        raise IntegrityError(f"{folder.name}/{MANIFEST}: seal: differs from what it seals; nothing was loaded")
    return manifest


def _tensors(folder: Path, name: str, content: bytes, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    place = f"{folder.name}/{name}.safetensors"
    try:
        tensors = tensors_from(content)
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise IntegrityError(f"{place}: not in the safetensors format; nothing was loaded") from None
    _require_fields(place, tensors, set(expected))
    if wrong := sorted(key for key, values in expected.items() if _form(tensors[key]) != _form(values)):
        raise IntegrityError(f"{place}: {', '.join(wrong)}: of another shape or type; nothing was loaded")
    return tensors


def _form(values: Tensor) -> tuple[Any, ...]:
    return tuple(values.shape), values.dtype


def _differing(found: Fingerprint, expected: Fingerprint) -> list[str]:
    nothing = object()
    return sorted(
        name for name in found.keys() | expected.keys() if found.get(name, nothing) != expected.get(name, nothing)
    )


def _require_fields(place: str, found: Mapping[str, Any], expected: set[str]) -> None:
    if wrong := sorted(found.keys() ^ expected):
        raise IntegrityError(f"{place}: {', '.join(wrong)}: missing or unknown; nothing was loaded")


def _parsed(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise IntegrityError(f"{folder.name}/{name}: not whole JSON; nothing was loaded")
    return values


def _read(folder: Path, name: str) -> bytes:
    if not (folder / name).is_file():
        raise IntegrityError(f"{folder.name}: {name} is missing; nothing was loaded")
    with disk_errors(folder / name, "read"):
        return (folder / name).read_bytes()


def _write(path: Path, content: bytes) -> None:
    """A new file, 0600, on the disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False).encode()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=32).hexdigest()
