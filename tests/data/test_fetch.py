"""NHANES from a real server on this machine, which breaks off, stalls, lies and changes its files."""

from __future__ import annotations

import email.utils
import hashlib
import logging
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filelock
import pytest

from henaw.cli import app
from henaw.console import ProgressLine, run_app
from henaw.data.fetch import PATIENT, Patience, fetch_file
from henaw.data.nhanes_fetch import PUBLISHERS, SUMS, Fetched, fetch_nhanes
from henaw.errors import BadInput, EnvironmentProblem, HenawError, IntegrityError
from tests.data.nhanes_files import nhanes_map, write_cycle

CYCLE = "2009-2010"
QUICK = Patience(tries=3, pause_seconds=0.01, silence_seconds=0.3)
CHANGED = 1_398_165_864
DEMO, CRP = f"{CYCLE}/DEMO_F.xpt", f"{CYCLE}/CRP_F.xpt"


@dataclass
class Site:
    """The files by path, what goes wrong in the next answers for a name, and what was asked for."""

    files: dict[str, bytes]
    faults: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    changed: int | None = CHANGED
    address: str = ""

    def of(self, name: str) -> bytes:
        [content] = [content for path, content in self.files.items() if path.endswith(f"/{Path(name).name}")]
        return content

    def put(self, name: str, content: bytes) -> None:
        [path] = [path for path in self.files if path.endswith(f"/{Path(name).name}")]
        self.files[path] = content

    def ranges(self, name: str) -> list[str | None]:
        return [asked for path, asked in self.asked if path.endswith(f"/{Path(name).name}")]


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.site``; an answer of 206 where a range of the same version is asked for."""

    site: Site

    def do_GET(self) -> None:
        self.site.asked.append((self.path, self.headers["Range"]))
        faults = self.site.faults.get(Path(self.path).name, [])
        fault, _, number = (faults.pop(0) if faults else "").partition(" ")
        content = self.site.files.get(self.path)
        if fault == "status" or content is None:
            self.send_error(int(number or 404))
            return
        if fault == "page":
            self._head(200, len(b"<html>"), "text/html; charset=utf-8")
            self.wfile.write(b"<html>")
            return
        if fault == "disguised":
            content = b"<!DOCTYPE html><html><body>Page not found</body></html>"
        if fault == "silent":
            time.sleep(3 * QUICK.silence_seconds)
        begin = self._begin(fault, len(content))
        if begin is not None and begin >= len(content):
            self.send_error(416)
            return
        body = content[begin or 0 :]
        self._head(
            200 if begin is None else 206,
            None if fault == "unmeasured" else len(body),
            "application/octet-stream",
            begin,
        )
        if fault in ("cut", "unmeasured"):
            body = body[: int(number)]
        try:
            for at in range(0, len(body), 4096):
                self.wfile.write(body[at : at + 4096])
                if fault == "slow":
                    time.sleep(QUICK.silence_seconds / 50)
        except OSError:
            pass
        self.close_connection = True

    def _begin(self, fault: str, length: int) -> int | None:
        asked = re.fullmatch(r"bytes=([0-9]+)-", self.headers["Range"] or "")
        if not asked or fault == "rangeless":
            return None
        unchanged = self.site.changed is not None and self.headers["If-Range"] == email.utils.formatdate(
            self.site.changed, usegmt=True
        )
        if not unchanged and fault != "careless":
            return None
        return 0 if fault == "elsewhere" else int(asked[1])

    def _head(self, status: int, length: int | None, kind: str, begin: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if begin is not None and length is not None:
            self.send_header("Content-Range", f"bytes {begin}-{begin + length - 1}/{begin + length}")
        if self.site.changed is not None:
            self.send_header("Last-Modified", email.utils.formatdate(self.site.changed, usegmt=True))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of the files in ``folder`` under the publisher's paths."""
    paths = nhanes_map().published_paths(CYCLE)
    places = {path.name: path for path in folder.rglob("*.*")}
    return {f"/{path}": places[name].read_bytes() for name, path in paths.items()}


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("published")
    write_cycle(folder, CYCLE, people=3000)
    return files_of(folder)


@pytest.fixture
def site(made_up: dict[str, bytes]) -> Iterator[Site]:
    one = Site(dict(made_up))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": one}))
    server.daemon_threads = True
    one.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield one
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(site: Site, folder: Path, cycles: tuple[str, ...] = (CYCLE,), patience: Patience = QUICK) -> Fetched:
    return fetch_nhanes(cycles, folder, nhanes_map(), base=site.address, progress=ProgressLine(), patience=patience)


def refusal(site: Site, folder: Path, kind: type[HenawError]) -> str:
    with pytest.raises(HenawError) as caught:
        fetch(site, folder)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def require_whole(site: Site, folder: Path) -> None:
    """Every file is there to the last byte, its sum is recorded, and nothing else is left."""
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {".fetch.lock"}
    names = {f"{CYCLE}/{Path(path).name}" for path in site.files}
    assert there == {*names, SUMS}
    sums = dict(line.split("  ")[::-1] for line in (folder / SUMS).read_text().splitlines())
    assert sums == {name: hashlib.sha256(site.of(name)).hexdigest() for name in names}
    for name in names:
        assert (folder / name).read_bytes() == site.of(name)


def test_all_files_come_once_and_are_checked_after(site: Site, tmp_path: Path) -> None:
    assert fetch(site, tmp_path / "new" / "nhanes") == Fetched(10, 0)
    require_whole(site, tmp_path / "new" / "nhanes")
    asked = len(site.asked)
    assert fetch(site, tmp_path / "new" / "nhanes") == Fetched(0, 10)
    assert len(site.asked) == asked == 10
    assert (tmp_path / "new" / "nhanes" / DEMO).stat().st_mode & 0o777 == 0o644
    done = subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=tmp_path / "new" / "nhanes", check=False)
    assert done.returncode == 0


def test_the_shared_files_come_through_the_command(
    site: Site, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.files = files_of(shared_data / "nhanes" / "raw")
    site.faults = {"DEMO_F.xpt": ["cut 1000000"]}
    command = ["fetch", "nhanes", "--cycles", CYCLE, "--folder", str(tmp_path), "--from", site.address]
    assert run_app(app, command) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 10 files fetched, 0 were there already and are unchanged\n"
    require_whole(site, tmp_path)
    assert site.ranges(DEMO) == [None, "bytes=1000000-"]
    (tmp_path / CRP).write_bytes(b"x")
    assert run_app(app, command) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"henaw: {tmp_path / CRP}: no longer the file that was fetched")


FAULTS: dict[str, tuple[list[str], list[str | None]]] = {
    "breaks off": (["cut 70000", "cut 50000"], [None, "bytes=70000-", "bytes=120000-"]),
    "breaks off at once": (["cut 0"], [None, None]),
    "is busy": (["status 503", "status 429"], [None, None, None]),
    "is silent": (["silent"], [None, None]),
    "is slow": (["slow"], [None]),
    "ignores ranges": (["cut 70000", "rangeless"], [None, "bytes=70000-"]),
    "sends another range": (["cut 70000", "elsewhere"], [None, "bytes=70000-", None]),
    "does not say how long": (["unmeasured 9000000"], [None]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_stumbles_is_tried_again(site: Site, tmp_path: Path, fault: str) -> None:
    faults, ranges = FAULTS[fault]
    site.faults["DEMO_F.xpt"] = list(faults)
    fetch(site, tmp_path)
    assert site.ranges(DEMO) == ranges
    require_whole(site, tmp_path)


def test_a_later_run_goes_on_where_one_was_given_up(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.faults["DEMO_F.xpt"] = ["cut 100000", "cut 1000", "cut 1000"]
    with caplog.at_level(logging.WARNING):
        said = refusal(site, tmp_path, EnvironmentProblem)
    whole = len(site.of(DEMO))
    assert f"DEMO_F.xpt: the connection ended after 102,000 of {whole:,} bytes, in the last of 3 tries" in said
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert not (tmp_path / DEMO).exists()
    fetch(site, tmp_path)
    assert site.ranges(DEMO)[-1] == "bytes=102000-"
    require_whole(site, tmp_path)


@pytest.mark.parametrize("careless", [False, True])
def test_two_versions_of_a_file_are_never_joined(site: Site, tmp_path: Path, careless: bool) -> None:
    """A server heeds If-Range or not; what came of the old version is thrown away."""
    site.faults["DEMO_F.xpt"] = ["cut 50000"] * 3
    refusal(site, tmp_path, EnvironmentProblem)
    site.put(DEMO, site.of(DEMO).replace(b"W32_7PRO", b"W64_7PRO"))
    site.changed = CHANGED + 60
    site.faults["DEMO_F.xpt"] = ["careless"] if careless else []
    fetch(site, tmp_path)
    require_whole(site, tmp_path)


def test_without_a_time_of_change_nothing_is_continued(site: Site, tmp_path: Path) -> None:
    site.changed = None
    site.faults["DEMO_F.xpt"] = ["cut 100000"]
    fetch(site, tmp_path)
    assert site.ranges(DEMO) == [None, None]
    require_whole(site, tmp_path)


def test_a_part_that_is_longer_than_the_file_is_thrown_away(site: Site, tmp_path: Path) -> None:
    part = tmp_path / CYCLE / ".DEMO_F.xpt.part"
    part.parent.mkdir()
    part.write_bytes(site.of(DEMO) + b"more")
    os.utime(part, (CHANGED, CHANGED))
    fetch(site, tmp_path)
    assert site.ranges(DEMO)[1:] == [None]
    require_whole(site, tmp_path)


WRONG: dict[str, tuple[str, str]] = {
    "page": ("page", "DEMO_F.xpt: the server sent a web page in place of the file"),
    "disguised": ("disguised", "DEMO_F.xpt: what the server sent is not the file: a web page; expected"),
    "cut": ("unmeasured 100001", "DEMO_F.xpt: what the server sent is not the file: cut short"),
    "gone": ("status 404", "DEMO_F.xpt: the server answers 404 Not Found"),
    "forbidden": ("status 403", "DEMO_F.xpt: the server answers 403 Forbidden"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_not_the_file_is_refused_at_once_and_not_kept(site: Site, tmp_path: Path, fault: str) -> None:
    answer, words = WRONG[fault]
    site.faults["DEMO_F.xpt"] = [answer]
    said = refusal(site, tmp_path, EnvironmentProblem)
    assert said.startswith(site.address)
    assert words in said
    assert site.ranges(DEMO) == [None]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".fetch.lock"]
    fetch(site, tmp_path)
    require_whole(site, tmp_path)


def test_a_page_in_place_of_the_mortality_file_is_refused(site: Site, tmp_path: Path) -> None:
    site.faults["NHANES_2009_2010_MORT_2019_PUBLIC.dat"] = ["disguised"]
    assert "not the file: a web page; expected a linked mortality file" in refusal(site, tmp_path, EnvironmentProblem)


def test_a_server_that_is_not_there_is_one_line(site: Site, tmp_path: Path) -> None:
    site.address = "http://127.0.0.1:9"
    assert "no answer (Connection refused), in the last of 3 tries" in refusal(site, tmp_path, EnvironmentProblem)
    for wrong in ("ftp://127.0.0.1", "nhanes", "file:///etc"):
        site.address = wrong
        assert "expected an address that begins with https://" in refusal(site, tmp_path, BadInput)


def test_a_file_that_no_longer_matches_is_found_before_anything_is_asked_for(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path)
    (tmp_path / DEMO).unlink()
    content = bytearray(site.of(CRP))
    content[-100] ^= 1
    (tmp_path / CRP).write_bytes(content)
    asked = len(site.asked)
    assert refusal(site, tmp_path, IntegrityError) == (
        f"{tmp_path / CRP}: no longer the file that was fetched (its sum in {SUMS} is another one); remove it, and "
        "fetch again"
    )
    assert len(site.asked) == asked
    (tmp_path / CRP).unlink()
    assert fetch(site, tmp_path) == Fetched(2, 8)
    require_whole(site, tmp_path)


def test_a_file_that_changed_at_the_publishers_is_refused_until_its_sum_is_removed(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path)
    (tmp_path / CRP).unlink()
    site.put(CRP, site.of(CRP).replace(b"W32_7PRO", b"W64_7PRO"))
    said = refusal(site, tmp_path, IntegrityError)
    assert "CRP_F.xpt: another file than the first time; to accept it, remove the line of CRP_F.xpt from" in said
    assert not (tmp_path / CRP).exists()
    lines = (tmp_path / SUMS).read_text().splitlines(keepends=True)
    (tmp_path / SUMS).write_text("".join(line for line in lines if CRP not in line))
    assert fetch(site, tmp_path) == Fetched(1, 9)
    require_whole(site, tmp_path)


def test_a_file_from_elsewhere_is_taken_if_it_is_the_same_and_never_overwritten(site: Site, tmp_path: Path) -> None:
    (tmp_path / CYCLE).mkdir()
    (tmp_path / CRP).write_bytes(site.of(CRP))
    (tmp_path / DEMO).write_bytes(b"mine")
    said = refusal(site, tmp_path, BadInput)
    assert (
        said
        == f"{tmp_path / DEMO}: another file than {site.address}{next(iter(site.files))}; move it away, and fetch again"
    )
    assert (tmp_path / DEMO).read_bytes() == b"mine"
    (tmp_path / DEMO).unlink()
    fetch(site, tmp_path)
    require_whole(site, tmp_path)


def test_wrong_cycles_folders_and_sums_are_one_line_each(site: Site, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"NHANES cycle '2009': unknown; expected one of 1999-2000"):
        fetch(site, tmp_path, ("2009",))
    with pytest.raises(BadInput, match=r"no cycle of NHANES is named"):
        fetch(site, tmp_path, ())
    for base in ("ftp://mirror", "mirror", "http://[mirror"):
        with pytest.raises(BadInput, match=r"expected an address that begins with https://"):
            fetch_nhanes((CYCLE,), tmp_path / "new", nhanes_map(), base=base, progress=ProgressLine())
    assert not (tmp_path / "new").exists()
    with pytest.raises(BadInput, match=r"cycle 2017-2020 has the people of 2017-2018 again"):
        fetch(site, tmp_path, ("2017-2018", "2017-2020"))
    (tmp_path / SUMS).write_text("not a sum\n")
    assert "SHA256SUMS: line 1 is no SHA-256 sum" in refusal(site, tmp_path, BadInput)
    (tmp_path / "file").write_text("")
    assert "cannot be read or written: File exists" in refusal(site, tmp_path / "file", EnvironmentProblem)
    with filelock.FileLock(tmp_path / ".fetch.lock"):
        assert "another `henaw fetch` is at work in it" in refusal(site, tmp_path, EnvironmentProblem)
    assert not site.asked


def test_a_disk_that_does_not_take_it_is_an_environment_problem(site: Site, tmp_path: Path) -> None:
    (tmp_path / CYCLE / ".DEMO_F.xpt.part").mkdir(parents=True)
    assert ".DEMO_F.xpt.part: cannot be written: Is a directory" in refusal(site, tmp_path, EnvironmentProblem)


def test_progress_ends_where_the_file_does(site: Site, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path = next(iter(site.files))
    fetch_file(f"{site.address}{path}", tmp_path / "part", lambda *seen: told.append(seen), QUICK)
    whole = len(site.files[path])
    assert told[-1] == (whole, whole)
    assert len(told) >= 3
    assert [there for there, _ in told] == sorted(there for there, _ in told)


def test_interrupted_it_goes_on_from_there(site: Site, tmp_path: Path) -> None:
    def stop(there: int, _: int | None) -> None:
        if there > 100_000:
            raise KeyboardInterrupt

    path, part = next(iter(site.files)), tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        fetch_file(f"{site.address}{path}", part, stop, QUICK)
    there = part.stat().st_size
    fetch_file(f"{site.address}{path}", part, lambda *_: None, QUICK)
    assert site.ranges(path) == [None, f"bytes={there}-"]
    assert part.read_bytes() == site.files[path]


def test_addresses_are_the_publishers(shared_data: Path) -> None:
    paths = nhanes_map().published_paths("1999-2000")
    assert (
        f"{PUBLISHERS['.xpt']}/{paths['LAB13.xpt']}"
        == "https://wwwn.cdc.gov/Nchs/Data/Nhanes/Public/1999/DataFiles/LAB13.xpt"
    )
    assert nhanes_map().published_paths("2017-2020")["P_CBC.xpt"] == "Nchs/Data/Nhanes/Public/2017/DataFiles/P_CBC.xpt"
    assert f"{PUBLISHERS['.dat']}/{paths['NHANES_1999_2000_MORT_2019_PUBLIC.dat']}" == (
        "https://ftp.cdc.gov/pub/Health_Statistics/NCHS/datalinkage/linked_mortality/NHANES_1999_2000_MORT_2019_PUBLIC.dat"
    )
    assert {path.name for path in (shared_data / "nhanes" / "raw").rglob("*_*.*")} <= set(
        nhanes_map().published_paths(CYCLE)
    )
    assert PATIENT.tries >= 3
