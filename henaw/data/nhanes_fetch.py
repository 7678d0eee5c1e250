"""The files of NHANES cycles from their publisher, into a folder that ``henaw.data.nhanes`` reads.

Each file's SHA-256 is recorded when it first comes (``SHA256SUMS``, which ``sha256sum --check`` reads too). From then
on a file that is another one, here or at the publisher's, is an error: what was trained on stays what it was.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock

from henaw.console import ProgressLine
from henaw.data.fetch import PATIENT, Patience, fetch_file, require_web_address
from henaw.data.files import write_atomically
from henaw.data.nhanes_mortality import read_mortality
from henaw.data.nhanes_transport import read_transport
from henaw.data.nhanes_variables import NhanesMap
from henaw.errors import BadInput, EnvironmentProblem, IntegrityError

logger = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
PUBLISHERS = {".xpt": "https://wwwn.cdc.gov", ".dat": "https://ftp.cdc.gov"}
"""Where the files are, by their ending; paths are the same at a mirror."""

_PUBLIC = 0o644
_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True)
class Fetched:
    """How many files came, and how many were there already."""

    brought: int
    present: int


def fetch_nhanes(
    cycles: Sequence[str],
    folder: Path,
    known: NhanesMap,
    *,
    base: str | None = None,
    progress: ProgressLine,
    patience: Patience = PATIENT,
) -> Fetched:
    """Bring all files of ``cycles`` that the map names to ``folder/CYCLE``; those that are there are checked.

    Args:
        cycles: names as in the map.
        folder: made where it does not exist.
        known: the map.
        base: address of a mirror, under which the publisher's paths are; None: the publisher.
        progress: where to show how far it is.
        patience: with the server.

    Raises:
        BadInput: an unknown cycle, two with the same people, or a file in the way.
        IntegrityError: a file is another one than the first time, here or there.
        EnvironmentProblem: the server, or the disk.
    """
    if not cycles:
        raise BadInput("no cycle of NHANES is named; expected some as 2007-2008,2009-2010")
    known.require_apart([known.require_cycle(cycle) for cycle in dict.fromkeys(cycles)], str(folder))
    if base:
        require_web_address(base)
    paths = {f"{cycle}/{name}": path for cycle in cycles for name, path in known.published_paths(cycle).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".fetch.lock", timeout=0):
            return _fetch(paths, folder, base, progress, patience)
    except filelock.Timeout:
        raise EnvironmentProblem(f"{folder}: another `henaw fetch` is at work in it") from None
    except OSError as error:
        raise EnvironmentProblem(f"{folder}: cannot be read or written: {error.strerror}") from None


def _fetch(
    paths: dict[str, str], folder: Path, base: str | None, progress: ProgressLine, patience: Patience
) -> Fetched:
    sums = _recorded(folder)
    wanted = []
    for name in paths:
        if (folder / name).is_file() and name in sums:
            if _sha256(folder / name) != sums[name]:
                raise IntegrityError(
                    f"{folder / name}: no longer the file that was fetched (its sum in {SUMS} is another one); remove "
                    "it, and fetch again"
                )
        else:
            wanted.append(name)
    for done, name in enumerate(wanted):
        address = f"{(base or PUBLISHERS[Path(name).suffix]).rstrip('/')}/{paths[name]}"

        def tell(there: int, end: int | None, done: int = done, name: str = name) -> None:
            fraction = (done + (there / end if end else 0)) / len(wanted)
            progress.update(fraction, f"{Path(name).name}, {done + 1} of {len(wanted)}, {there / 1e6:.1f} MB")

        (folder / name).parent.mkdir(exist_ok=True)
        part = (folder / name).with_name(f".{Path(name).name}.part")
        fetch_file(address, part, tell, patience)
        sums[name] = _accept(part, folder / name, address, sums.get(name))
        _record(folder, sums)
        part.unlink()
        logger.info("fetched %s", address)
    return Fetched(len(wanted), len(paths) - len(wanted))


def _accept(part: Path, path: Path, address: str, recorded: str | None) -> str:
    """Give the complete ``part`` its name, if it is what it should be; its sum."""
    try:
        read_mortality(part) if path.suffix == ".dat" else read_transport(part, [])
    except BadInput as error:
        part.unlink()
        reason = str(error).removeprefix(f"{part}: ")
        raise EnvironmentProblem(f"{address}: what the server sent is not the file: {reason}") from None
    found = _sha256(part)
    if recorded not in (found, None):
        part.unlink()
        raise IntegrityError(
            f"{address}: another file than the first time; to accept it, remove the line of {path.name} from "
            f"{path.parent.parent / SUMS}"
        )
    if not path.exists():
        write_atomically(path, lambda temporary: shutil.copyfile(part, temporary), _PUBLIC)
    elif _sha256(path) != found:
        part.unlink()
        raise BadInput(f"{path}: another file than {address}; move it away, and fetch again")
    return found


def _recorded(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [_SUM_LINE.fullmatch(line) for line in lines]
    if None in found:
        raise BadInput(f"{path}: line {found.index(None) + 1} is no SHA-256 sum with the name of a file")
    return {match[2]: match[1] for match in found if match is not None}


def _record(folder: Path, sums: Mapping[str, str]) -> None:
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    write_atomically(folder / SUMS, lambda temporary: temporary.write_text(lines), _PUBLIC)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
