"""The cache of clean cohorts: one HDF5 file a key, where the key is a digest of all that the cohort follows from.

An entry is ``<key>-<digest>.h5`` and its seal ``<key>.blake2b``, a line in the format of ``b2sum --length=256``. The
seal is written last and read first, and names the file by its digest: at any moment a key has a whole entry or none,
also where two processes write it at once. Each dataset carries fletcher32 on top. What does not match is set aside and
built again. A lock lets one process build while others wait for what it makes. Files hold individual-level data: mode
0600, in a folder of mode 0700.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from henaw import __version__
from henaw.config import Config, asset_folder
from henaw.data.cohort import PARTICIPANT, source_digest
from henaw.data.cohort_image import decode, encode
from henaw.data.files import (
    digest_file,
    digest_values,
    flush_to_disk,
    private_folder,
    remove_if_old,
    remove_orphans,
    write_atomically,
)
from henaw.data.handles import read_kept_open
from henaw.data.locks import locked
from henaw.data.panel import Panel
from henaw.data.participants import are_among, key_fingerprint, load_or_create_key
from henaw.data.units import UNITS_FILE
from henaw.errors import EnvironmentProblem

logger = logging.getLogger(__name__)

FOLDER = "cache"

_SCHEMA = 1  # of the file; another number, another key
_ORPHAN_SECONDS = 3600.0
_ACCESSES_FILE = "accesses"
_ACCESSES = 1000  # that the hit rate is of


@dataclass(frozen=True, eq=False)
class CachedCohort:
    """A clean participant table, and JSON-able facts about how it came about."""

    table: pd.DataFrame
    facts: dict[str, Any]


def cache_folder(config: Config) -> Path:
    """Where the cohorts of ``config`` are kept."""
    return Path(config.state.folder) / FOLDER


def cache_key(config: Config, panel: Panel) -> str:
    """The name of the clean cohort that ``config`` and ``panel`` lead to, in 32 hexadecimal digits.

    It follows the source's bytes, who has withdrawn, how they are read, judged and filtered, the suites, what units are
    judged by, the panel, the pseudonym key, and the version and code of the rooms that do it.

    Raises:
        BadInput: the source cannot be read.
        EnvironmentProblem: the pseudonym key cannot be read or written.
    """
    package = Path(__file__).resolve().parent.parent
    code = [*sorted((package / "data").glob("*.py")), *sorted((package / "validation").glob("*.py"))]
    suites = sorted(asset_folder("expectations").glob("*.json"))
    units = [asset_folder("mlproject") / "panels" / name for name in (UNITS_FILE, "reference.yaml")]
    return digest_values(
        {
            "schema": _SCHEMA,
            "version": __version__,
            "suites": [[path.name, digest_file(path)] for path in [*suites, *units]],
            "code": [[path.parent.name, path.name, digest_file(path)] for path in code],
            "source": source_digest(config, panel),
            "target": config.target,
            "cohort": config.cohort.model_dump(mode="json"),
            "validation": config.validation.model_dump(mode="json"),
            "panel": panel.model_dump(mode="json"),
            "pseudonyms": key_fingerprint(load_or_create_key(Path(config.state.folder))),
        }
    )[:32]


@dataclass(frozen=True, eq=False)
class Access:
    """What the cache had under a key: the cohort, or None where it is now to be built; and what looking took.

    ``hit_rate`` is that of the last accesses on this machine, this one included.
    """

    key: str
    cohort: CachedCohort | None
    lock_seconds: float
    load_seconds: float
    hit_rate: float


@contextmanager
def access(folder: Path, key: str, longest_wait: float) -> Iterator[Access]:
    """Look ``key`` up; where there is nothing, the block may build and ``store`` it while other processes wait.

    They wait for ``longest_wait`` seconds at most and then build it too, which is wasteful and harmless.

    Raises:
        EnvironmentProblem: the disk does not allow it.
    """
    began, lock_seconds = time.perf_counter(), 0.0
    with ExitStack() as held:
        found, _ = _look(folder, key)
        if found is None:
            private_folder(folder)
            lock_seconds = held.enter_context(locked(folder / f"{key}.lock", longest_wait)).seconds
            found = load(folder, key)
        load_seconds = time.perf_counter() - began - lock_seconds
        yield Access(key, found, lock_seconds, load_seconds, _count_access(folder, hit=found is not None))


def cached(
    folder: Path, key: str, build: Callable[[], CachedCohort], longest_wait: float = 600.0
) -> tuple[CachedCohort, bool]:
    """The cohort under ``key``, built and kept where the cache has none; True where the cache had it.

    Raises:
        EnvironmentProblem: the disk does not allow it.
    """
    with access(folder, key, longest_wait) as found:
        if found.cohort is not None:
            return found.cohort, True
        built = build()
        store(folder, key, built)
        return built, False


def load(folder: Path, key: str) -> CachedCohort | None:
    """The cohort under ``key``, None where there is none; a damaged entry is set aside with a warning.

    Raises:
        EnvironmentProblem: the disk does not allow it.
    """
    cohort, damaged = _look(folder, key)
    if damaged:
        seal = _seal(folder, key)
        logger.warning("cache: entry %s is damaged; set aside as %s.corrupt, to be built again", key, seal)
        for path in damaged:
            _set_aside(path)
    return cohort


def remove_people(folder: Path, people: Set[str]) -> int:
    """Remove every entry with one of ``people`` (pseudonyms), and whatever cannot be read; returns how many files.

    Entries are not rewritten: their facts count these people, and nobody looks for their keys any more.

    Raises:
        EnvironmentProblem: the disk does not allow it.
    """
    kept = {_ACCESSES_FILE}
    for seal in folder.glob("*.blake2b"):
        cohort, _ = _look(folder, seal.stem)
        if cohort is not None and not are_among(cohort.table[PARTICIPANT], people).any():
            kept |= {seal.name, _file(folder, seal.stem, seal.read_text()[:64]).name}
    gone = [path for path in folder.glob("*") if path.name not in kept and path.suffix != ".lock"]
    try:
        for path in gone:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise EnvironmentProblem(f"{folder}: an entry cannot be removed: {error.strerror}") from None
    return len(gone)


def _look(folder: Path, key: str) -> tuple[CachedCohort | None, list[Path]]:
    """The cohort under ``key`` if there is a whole one, else the files of a damaged one."""
    began = time.perf_counter()
    seal = _seal(folder, key)
    try:
        digest = seal.read_bytes()[:64].decode("ascii", "replace")
        file = _file(folder, key, digest) if re.fullmatch("[0-9a-f]{64}", digest) else None
        image = read_kept_open(file) if file and file.exists() else b""
    except FileNotFoundError:
        return None, []
    except OSError as error:
        raise EnvironmentProblem(f"{folder}: cache cannot be read: {error.strerror}") from None
    content = decode(image) if _digest(image) == digest else None
    if content is None:
        return None, [path for path in (seal, file) if path]
    cohort = CachedCohort(*content)
    logger.info("cache: %d rows in %.2f s from %s", len(cohort.table), time.perf_counter() - began, file)
    return cohort, []


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
    image = encode(cohort.table, cohort.facts)
    digest = _digest(image)
    file = _file(folder, key, digest)

    def write(temporary: Path) -> None:
        temporary.write_bytes(image)
        flush_to_disk(temporary)
        written = temporary.read_bytes()
        again = decode(written) if written == image else None
        if again is None or not again[0].equals(cohort.table):
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


def _set_aside(path: Path) -> None:
    with suppress(FileNotFoundError):  # another process was first
        path.replace(path.with_name(f"{path.name}.corrupt"))


def _count_access(folder: Path, *, hit: bool) -> float:
    """Note a hit or miss as one more byte of a file, and return the rate of hits; NaN where the disk refuses."""
    try:
        descriptor = os.open(folder / _ACCESSES_FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, b"h" if hit else b"m")
            size = os.fstat(descriptor).st_size
            recent = os.pread(descriptor, _ACCESSES, max(0, size - _ACCESSES))
        finally:
            os.close(descriptor)
    except OSError:
        return float("nan")
    return recent.count(b"h") / len(recent)


def _digest(image: bytes) -> str:
    return hashlib.blake2b(image, digest_size=32).hexdigest()
