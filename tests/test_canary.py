"""Nothing that a run leaves behind holds a participant's id or value, in whatever form, but the private state folder.

Fifty ids and fifty values are planted in a table, among them extremes and values that are set aside; then the whole way
is walked, a second time from the cache, some runs are made to fail, and everything is searched.
"""

from __future__ import annotations

import base64
import gzip
import io
import logging
import shutil
import sqlite3
import stat
import struct
import tarfile
import zipfile
import zlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from mlflow import MlflowClient

from henaw.config import asset_folder
from henaw.console import run_app
from henaw.data.panel import load_panel
from henaw.data.participants import load_or_create_key, pseudonyms
from henaw.data.synthetic import synthetic_table
from pipelines import train, validate
from tests.leaks import forms_of_id, forms_of_value, leaks

PLANTED = 50
PEOPLE = 400
PANEL = load_panel("blood9", asset_folder("mlproject") / "panels")
TINY = "network.members=2 network.hidden=[8] training.epochs=2 training.threads=1 evaluation.draws=20"


@dataclass(frozen=True)
class Planted:
    """A table with ids and values that nothing else has, and what to look for."""

    table: pd.DataFrame
    ids: list[str]
    values: list[float]

    def forms(self) -> dict[bytes, str]:
        """What to look for, by what it is."""
        found = {}
        for number, person in enumerate(self.ids):
            found |= {form: f"id {number} as {name}" for form, name in forms_of_id(person).items()}
        for number, value in enumerate(self.values):
            found |= {form: f"value {number} as {name}" for form, name in forms_of_value(value).items()}
        return found


def unmistakable(near: float, rng: np.random.Generator) -> float:
    """A number near ``near`` of 15 digits or so, the float32 of which ends in bytes that no text has."""
    while True:
        value = float(near * rng.uniform(0.97, 1.03))
        raw = struct.pack(">f", value)
        if min(raw[2:]) >= 0x80 and len(set(raw)) == 4 and len(repr(value)) >= 15:
            return value


@pytest.fixture(scope="module")
def planted() -> Planted:
    """Each planted person has a planted value: most are ordinary, some the largest there are, some implausible."""
    rng = np.random.default_rng(8)
    summaries = asset_folder("mlproject") / "synthetic" / "nhanes_1999_2010.json"
    table = synthetic_table(PEOPLE, (40, 69), 5, summaries=summaries)
    ids = [f"Qk{rng.bytes(7).hex()}z{number}" for number in range(PLANTED)]
    rows = rng.permutation(PEOPLE)[:PLANTED]
    table.loc[rows, "participant_id"] = ids
    values = []
    for number, row in enumerate(rows):
        marker = PANEL.biomarkers[number % len(PANEL.names)]
        column = table[marker.name]
        near = float(column.median())
        if number >= 40:
            near = float(column.max()) * 1.05 if number < 45 else marker.plausible[1] * 2
        values.append(unmistakable(near, rng))
        table.loc[row, marker.name] = values[-1]
    return Planted(table, ids, values)


def call(stage: object, *arguments: str) -> int:
    app = typer.Typer()
    app.command()(stage.main)  # type: ignore[attr-defined]
    return run_app(app, arguments)


def walk(folder: Path, planted: Planted, *, whole: bool) -> Path:
    """Run stages in ``folder``, those that must fail too; what goes to the terminal is in its ``terminal.log``."""
    (folder / "in").mkdir()
    planted.table.to_csv(folder / "in" / "people.csv", index=False)
    pd.concat([planted.table, planted.table.tail(3)]).to_csv(folder / "in" / "twice.csv", index=False)
    wrong = planted.table.astype({"crp_mg_l": object})
    wrong["crp_mg_l"] = "<" + wrong["crp_mg_l"].astype(str)
    wrong.to_csv(folder / "in" / "wrong.csv", index=False)
    on_its_side = planted.table.set_index("participant_id").T
    on_its_side[[planted.ids[0]] * 2].to_csv(folder / "in" / "sideways.csv")
    headless = f"{planted.ids[1]},,,,,,{planted.values[1]!r},{planted.values[1]!r},\n"
    (folder / "in" / "headless.csv").write_text(headless * 2)
    (folder / "in" / "w.csv").write_text("\n".join(f"{person}, withdrawn" for person in planted.ids))
    before, told = mlflow.get_tracking_uri(), io.StringIO()
    handler = logging.StreamHandler(told)
    logging.getLogger().addHandler(handler)
    smoke = ("--profile", "smoke", "--overrides", TINY, "--data")
    calls = [
        (validate, "--data", "in/people.csv"),
        (validate, "--data", "in/twice.csv"),
        (train, *smoke, "in/wrong.csv"),
        (validate, "--data", "in/sideways.csv"),
        (validate, "--data", "in/headless.csv"),
        (validate, "--data", "in/people.csv", "--overrides", "source.withdrawals=in/w.csv"),
        (validate, "--data", "in/people.csv", "--overrides", "validation.max_set_aside=0.0"),
    ]
    expected = [0, 2, 2, 2, 2, 2, 2]
    if whole:  # the second time from the cache
        calls, expected = [*calls, *2 * [(train, *smoke, "in/people.csv")]], [*expected, 0, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HENAW_LOG", "DEBUG")
        patch.setattr("sys.stdout", told)
        patch.setattr("sys.stderr", told)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        codes = [call(stage, *arguments) for stage, *arguments in calls]
    logging.getLogger().removeHandler(handler)
    mlflow.set_tracking_uri(before)
    (folder / "terminal.log").write_text(told.getvalue())
    assert codes == expected, [line for line in told.getvalue().splitlines() if line.startswith("henaw: ")]
    return folder


@pytest.fixture(scope="module")
def validated(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the table was validated, and in which runs have failed."""
    return walk(tmp_path_factory.mktemp("canary"), planted, whole=False)


def require_silence(folder: Path, planted: Planted) -> None:
    """No id, value or pseudonym outside the state folder, and no id in it."""
    state, given = folder / ".henaw", folder / "in"
    forms = planted.forms()
    for number, one in enumerate(pseudonyms(planted.table["participant_id"], load_or_create_key(state))):
        forms |= {one.encode(): f"pseudonym {number} as text", bytes.fromhex(one): f"pseudonym {number} as bytes"}
    found = leaks(folder, forms, [state, given])
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(state)]
    print(
        f"{len(files)} files searched for {PLANTED} ids, {PLANTED} values and {PEOPLE} pseudonyms in {len(forms)} "
        f"forms: {len(found)} hits"
    )
    assert found == []
    inside = list(state.rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in [state, *inside] if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in inside if path.is_file()} == {0o600}
    assert leaks(state, {form: "id" for person in planted.ids for form in forms_of_id(person)}) == []
    assert leaks(state, planted.forms()), "the values are there: the search would have found them elsewhere"


def test_validating_and_failing_leave_nothing_that_holds_an_id_or_a_value(validated: Path, planted: Planted) -> None:
    assert {"verdict.json", "quarantine.csv"} <= {path.name for path in validated.rglob("*")}
    assert len((validated / "terminal.log").read_text().splitlines()) > 10
    require_silence(validated, planted)


@pytest.mark.slow
def test_the_whole_way_leaves_nothing_that_holds_an_id_or_a_value(planted: Planted, tmp_path: Path) -> None:
    folder = walk(tmp_path, planted, whole=True)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    assert len(client.search_model_versions("name='henaw'")) == 2
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"verdict.json", "evaluation.json", "weights.safetensors", "config.yaml", "loss.png"} <= files
    assert {"cache", "splits", "trainings", "pseudonym.key"} <= {path.name for path in (folder / ".henaw").iterdir()}
    require_silence(folder, planted)


def ways_out(secret: bytes, value: float) -> dict[str, bytes]:
    """Files that hold ``secret`` (text) or ``value``, each in another way."""

    def png(kind: bytes, body: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", 64, 1, 8, 0, 0, 0, 0)
        chunks = [(b"IHDR", header), (kind, body), (b"IDAT", zlib.compress(b"\x00" + bytes(64))), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
            for name, part in chunks
        )

    zipped, tarred, parquet = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deep/er.txt", gzip.compress(b"so: " + secret))
    with tarfile.open(fileobj=tarred, mode="w:gz") as tar:
        member = tarfile.TarInfo("a")
        member.size = len(secret)
        tar.addfile(member, io.BytesIO(secret))
    pq.write_table(pa.table({"x": [secret.decode()] * 3}), parquet, compression="zstd")
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE t (a TEXT, b BLOB)")
        database.execute("INSERT INTO t VALUES (?, ?)", ("x" * 3000 + secret.decode() + "y" * 9000, b""))
        image = database.serialize()
    packed = {f"{order}{kind}": b"\x01\x02\x03" + struct.pack(order + kind, value) for order in "<>" for kind in "df"}
    return {
        "text": b"a = " + secret + b"\n",
        "hex": b"0x" + secret.hex().encode(),
        "HEX": packed["<d"].hex().upper().encode(),
        "base64": b"data:" + base64.b64encode(b"xy" + secret + b"z"),
        "base64 of numbers": b'{"x": "' + base64.b64encode(packed["<f"]) + b'"}',
        "url-safe base64": base64.urlsafe_b64encode(b"\xff\xfe\xfd" + secret),
        "zip": zipped.getvalue(),
        "tar.gz": tarred.getvalue(),
        "png": png(b"tEXt", b"Comment\x00" + secret),
        "png, compressed": png(b"zTXt", b"Comment\x00\x00" + zlib.compress(secret)),
        "sqlite": image,
        "parquet": parquet.getvalue(),
        "repr": repr(value).encode(),
        **packed,
    }


def test_the_search_finds_what_is_planted_in_a_copy(validated: Path, planted: Planted, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(validated / "mlruns", copy)
    forms = planted.forms()
    assert leaks(copy, forms) == []
    ways = ways_out(planted.ids[7].encode(), planted.values[7])
    for number, (way, content) in enumerate(ways.items()):
        path = next(copy.rglob("artifacts")) / f"file{number}"
        path.write_bytes(content)
        assert leaks(path.parent, forms), way
        path.unlink()
    (copy / f"run-{planted.ids[3]}").mkdir()
    assert len(leaks(copy, forms)) == 1
    print(f"{len(ways) + 1} planted leaks: all found")
