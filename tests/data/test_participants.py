"""Pseudonyms: the same person everywhere, nobody without the key, and no id in any message."""

import hashlib
import hmac
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from henaw.data.participants import (
    KEY_VARIABLE,
    key_fingerprint,
    load_or_create_key,
    participant_ids,
    pseudonyms,
)
from henaw.errors import BadInput, EnvironmentProblem

KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def no_key_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def text(*values: str | None) -> pd.Series:
    return pd.Series(list(values), dtype="str")


def test_pseudonym_is_the_first_half_of_hmac_sha256() -> None:
    found = pseudonyms(text("1999-2000_7", "S01"), KEY)
    assert found.tolist() == [
        hmac.new(KEY, person, hashlib.sha256).hexdigest()[:32] for person in (b"1999-2000_7", b"S01")
    ]
    assert found.dtype == "str"


def test_ids_are_compared_exactly_and_visits_share_a_pseudonym() -> None:
    ids = text("7", "07", "a", "A", "7", "a_")
    ids.index = pd.Index([5, 4, 3, 2, 1, 0])
    found = pseudonyms(ids, KEY)
    assert found.index.equals(ids.index)
    assert found[5] == found[1]
    assert found.nunique() == 5


def test_another_key_gives_unrelated_pseudonyms() -> None:
    ids = text(*(f"S{number}" for number in range(200)))
    assert set(pseudonyms(ids, KEY)).isdisjoint(pseudonyms(ids, KEY[::-1]))
    assert key_fingerprint(KEY) != key_fingerprint(KEY[::-1])
    assert KEY.hex()[:16] not in key_fingerprint(KEY)


@pytest.mark.parametrize("bad", ["", "a b", "a\n", "é", "a" * 65, "a/b", "a.b", "٣", "a\x00", None])
def test_an_id_that_breaks_the_rule_is_counted_and_never_shown(bad: str | None) -> None:
    with pytest.raises(BadInput) as caught:
        pseudonyms(text("S1", "xyzzy", bad, bad), KEY)
    assert str(caught.value) == (
        "2 of 4 rows have an invalid participant id; expected 1 to 64 letters, digits, '_' or '-'"
    )


def test_id_columns_are_joined() -> None:
    rows = pd.DataFrame({"cycle": text("1999-2000", "III"), "seqn": text("007", "7"), "other": [1.0, 2.0]})
    assert participant_ids(rows, ["cycle", "seqn"]).tolist() == ["1999-2000_007", "III_7"]
    assert participant_ids(rows, ["seqn"]).tolist() == ["007", "7"]


def test_without_id_columns_every_row_is_a_person() -> None:
    assert participant_ids(pd.DataFrame({"x": [1.0] * 3}), []).is_unique


def test_a_missing_part_of_an_id_is_refused() -> None:
    rows = pd.DataFrame({"cycle": text("III", None, "III"), "seqn": text("xyzzy", "2", None)})
    with pytest.raises(BadInput, match=r"^2 of 3 rows have no participant id \(cycle, seqn\)$"):
        participant_ids(rows, ["cycle", "seqn"])


def test_two_people_never_become_one_by_joining() -> None:
    rows = pd.DataFrame({"centre": text("a", "a_b"), "number": text("b_c", "c")})
    with pytest.raises(BadInput, match="centre, number joined by '_' give several participants the same id"):
        participant_ids(rows, ["centre", "number"])


def test_key_is_made_once_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    key = load_or_create_key(folder)
    assert len(key) == 32
    assert load_or_create_key(folder) == key
    assert load_or_create_key(tmp_path / "other") != key
    assert stat.S_IMODE((folder / "pseudonym.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_racing_threads_get_one_key(tmp_path: Path) -> None:
    for attempt in range(10):
        with ThreadPoolExecutor(16) as pool:
            keys = set(pool.map(load_or_create_key, [tmp_path / str(attempt)] * 16))
        assert len(keys) == 1


def test_racing_processes_get_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from henaw.data.participants import load_or_create_key\n"
        "print(*(load_or_create_key(Path(sys.argv[1]) / str(n)).hex() for n in range(200)))"
    )
    pair = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    first, second = (process.communicate()[0].split() for process in pair)
    assert first == second
    assert len(set(first)) == 200


def test_key_from_the_environment_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    assert load_or_create_key(tmp_path / "state") == KEY
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("bad", ["", "xyzzy", "ab" * 31, "ab" * 33, "é" * 64])
def test_what_is_not_a_key_is_refused_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    path = tmp_path / "pseudonym.key"
    path.touch(mode=0o600)
    path.write_text(bad, encoding="utf-8")
    with pytest.raises(BadInput) as from_file:
        load_or_create_key(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, bad)
    with pytest.raises(BadInput) as from_environment:
        load_or_create_key(tmp_path)
    assert str(from_file.value) == f"{path}: not a pseudonym key; expected 64 hexadecimal digits"
    assert str(from_environment.value) == (
        "environment variable HENAW_PSEUDONYM_KEY: not a pseudonym key; expected 64 hexadecimal digits"
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    load_or_create_key(tmp_path)
    path = tmp_path / "pseudonym.key"
    path.chmod(mode)
    with pytest.raises(
        EnvironmentProblem, match=rf"others may read the pseudonym key \(mode {mode:o}\); run: chmod 600"
    ):
        load_or_create_key(tmp_path)
