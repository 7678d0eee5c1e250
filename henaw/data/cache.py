"""The cache of clean cohorts: one HDF5 file a key, where the key is a digest of all that the cohort follows from.

An entry is ``<key>-<digest>.h5`` and its seal ``<key>.blake2b``, a line in the format of ``b2sum --length=256``. The
seal is written last and read first, and names the file by its digest: at any moment a key has a whole entry or none,
also where two processes write it at once. Each dataset carries fletcher32 on top. What does not match is set aside and
built again. Files hold individual-level data: mode 0600, in a folder of mode 0700.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from henaw import __version__
from henaw.config import Config, asset_folder
from henaw.data.cohort import PARTICIPANT, source_digest
from henaw.data.files import (
    digest_file,
    digest_values,
    flush_to_disk,
    private_folder,
    remove_if_old,
    remove_orphans,
    write_atomically,
)
from henaw.data.panel import Panel
from henaw.data.participants import key_fingerprint, load_or_create_key
from henaw.errors import EnvironmentProblem

logger = logging.getLogger(__name__)

_SCHEMA = 1  # of the file; another number, another key
_CHUNK_ROWS = 65_536
_ORPHAN_SECONDS = 3600.0


@dataclass(frozen=True, eq=False)
class CachedCohort:
    """A clean participant table, and JSON-able facts about how it came about."""

    table: pd.DataFrame
    facts: dict[str, Any]


def cache_folder(config: Config) -> Path:
    """Where the cohorts of ``config`` are kept."""
    return Path(config.state.folder) / "cache"


def cache_key(config: Config, panel: Panel) -> str:
    """The name of the clean cohort that ``config`` and ``panel`` lead to, in 32 hexadecimal digits.

    It follows the source's bytes, how they are read, judged and filtered, the suites, the panel, the pseudonym key, and
    the version and code of the rooms that do it.

    Raises:
        BadInput: the source cannot be read.
        EnvironmentProblem: the pseudonym key cannot be read or written.
    """
    package = Path(__file__).resolve().parent.parent
    code = [*sorted((package / "data").glob("*.py")), *sorted((package / "validation").glob("*.py"))]
    suites = sorted(asset_folder("expectations").glob("*.json"))
    return digest_values(
        {
            "schema": _SCHEMA,
            "version": __version__,
            "suites": [[path.name, digest_file(path)] for path in suites],
            "code": [[path.parent.name, path.name, digest_file(path)] for path in code],
            "source": source_digest(config, panel),
            "target": config.target,
            "cohort": config.cohort.model_dump(mode="json"),
            "validation": config.validation.model_dump(mode="json"),
            "panel": panel.model_dump(mode="json"),
            "pseudonyms": key_fingerprint(load_or_create_key(Path(config.state.folder))),
        }
    )[:32]


def cached(folder: Path, key: str, build: Callable[[], CachedCohort]) -> tuple[CachedCohort, bool]:
    """The cohort under ``key``, built and kept where the cache has none; True where the cache had it.

    Raises:
        EnvironmentProblem: the disk does not allow it.
    """
    found = load(folder, key)
    if found is not None:
        return found, True
    built = build()
    store(folder, key, built)
    return built, False


def load(folder: Path, key: str) -> CachedCohort | None:
    """The cohort under ``key``, None where there is none; a damaged entry is set aside with a warning.

    Raises:
        EnvironmentProblem: the disk does not allow it.
    """
    began = time.perf_counter()
    seal = _seal(folder, key)
    try:
        digest = seal.read_bytes()[:64].decode("ascii", "replace")
        file = _file(folder, key, digest) if re.fullmatch("[0-9a-f]{64}", digest) else None
        image = file.read_bytes() if file and file.exists() else b""
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EnvironmentProblem(f"{folder}: cache cannot be read: {error.strerror}") from None
    cohort = _decode(image) if _digest(image) == digest else None
    if cohort is None:
        logger.warning("cache: entry %s is damaged; set aside as %s.corrupt, to be built again", key, seal)
        for path in (seal, file):
            _set_aside(path)
        return None
    logger.info("cache: %d rows in %.2f s from %s", len(cohort.table), time.perf_counter() - began, file)
    return cohort


def store(folder: Path, key: str, cohort: CachedCohort) -> None:
    """Keep ``cohort`` under ``key``; what stood there is replaced.

    Raises:
        EnvironmentProblem: the disk does not allow it, or gives back other bytes than were written.
    """
    private_folder(folder)
    remove_orphans(folder, _ORPHAN_SECONDS)
    for file in folder.glob("*.h5"):
        if not _is_sealed(file):
            remove_if_old(file, _ORPHAN_SECONDS)
    image = _encode(cohort)
    digest = _digest(image)
    file = _file(folder, key, digest)

    def write(temporary: Path) -> None:
        temporary.write_bytes(image)
        flush_to_disk(temporary)
        written = temporary.read_bytes()
        again = _decode(written) if written == image else None
        if again is None or not again.table.equals(cohort.table):
            raise EnvironmentProblem(f"{file}: the disk gives back other bytes than were written")

    write_atomically(file, write)
    write_atomically(_seal(folder, key), lambda temporary: temporary.write_text(f"{digest}  {file.name}\n"))
    logger.info("cache: kept %d rows as %s", len(cohort.table), file)


def _seal(folder: Path, key: str) -> Path:
    return folder / f"{key}.blake2b"


def _file(folder: Path, key: str, digest: str) -> Path:
    return folder / f"{key}-{digest[:16]}.h5"


def _is_sealed(file: Path) -> bool:
    key, _, digest = file.stem.partition("-")
    try:
        return _seal(file.parent, key).read_bytes().startswith(digest.encode())
    except OSError:
        return False


def _set_aside(path: Path | None) -> None:
    with suppress(FileNotFoundError):  # another process was first
        if path is not None:
            path.replace(path.with_name(f"{path.name}.corrupt"))


def _digest(image: bytes) -> str:
    return hashlib.blake2b(image, digest_size=32).hexdigest()


def _encode(cohort: CachedCohort) -> bytes:
    """The cohort as an HDF5 image: equal cohorts give equal bytes.

    ``participants`` (rows, 16) bytes, ``numbers`` (columns, rows) float64, ``texts`` (columns, rows) int32 positions in
    the column's list of values (-1 = missing), ``header`` JSON in UTF-8: names in order, lists of values, facts.
    """
    table = cohort.table
    if not len(table) or not table.index.equals(pd.RangeIndex(len(table))):
        raise ValueError("a cohort to cache has rows, numbered from 0")
    texts = {name: pd.factorize(table[name]) for name in table if table[name].dtype == "str" and name != PARTICIPANT}
    numbers = [name for name in table if name != PARTICIPANT and name not in texts]
    if not all(table[name].dtype == np.float64 for name in numbers):
        raise ValueError("a cohort to cache has columns of float64 and str alone")
    header = {
        "columns": list(table.columns),
        "numbers": numbers,
        "texts": {name: values.tolist() for name, (_, values) in texts.items()},
        "facts": cohort.facts,
    }
    pseudonyms = bytes.fromhex("".join(table[PARTICIPANT].tolist()))
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        _write(file, "participants", np.frombuffer(pseudonyms, np.uint8).reshape(len(table), -1))
        _write(file, "numbers", table[numbers].to_numpy().T)
        _write(file, "texts", np.array([codes for codes, _ in texts.values()], np.int32))
        _write(file, "header", np.frombuffer(json.dumps(header, ensure_ascii=False).encode(), np.uint8))
    return image.getvalue()


def _write(file: h5py.File, name: str, values: NDArray[Any]) -> None:
    chunks = tuple(min(size, _CHUNK_ROWS) for size in values.shape)  # without chunks HDF5 keeps no checksum
    file.create_dataset(name, data=values, chunks=chunks, fletcher32=True)


def _decode(image: bytes) -> CachedCohort | None:
    """The cohort of an HDF5 image, None where it is not one."""
    try:
        with h5py.File(io.BytesIO(image), "r") as file:
            header = json.loads(file["header"][()].tobytes())
            pseudonyms, numbers, codes = (file[name][()] for name in ("participants", "numbers", "texts"))
        columns: dict[str, Any] = dict(zip(header["numbers"], numbers, strict=True))
        columns[PARTICIPANT] = _hexadecimal(pseudonyms)
        for (name, values), positions in zip(header["texts"].items(), codes, strict=True):
            columns[name] = pa.array([*values, None], pa.string()).take(np.where(positions < 0, len(values), positions))
        return CachedCohort(pa.table({name: columns[name] for name in header["columns"]}).to_pandas(), header["facts"])
    except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError, AttributeError):
        return None


def _hexadecimal(rows: NDArray[np.uint8]) -> pa.Array:
    """Each row of bytes (n, width) as 2·width digits; a list of n Python strings would take half the loading time."""
    digits = pa.py_buffer(rows.tobytes().hex().encode())
    fixed = pa.binary(2 * rows.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(fixed, len(rows), [None, digits]).cast(pa.binary()).cast(pa.string())
