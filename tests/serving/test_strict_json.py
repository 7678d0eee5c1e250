"""What RFC 8259 does not allow, and what HENAW does not on top, is refused; everything else is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from henaw.serving.refusals import Refusal
from henaw.serving.strict_json import decode_object, is_too_deep, require_shallow

SECRET = "61.98765"

MALFORMED = {
    "nothing": b"",
    "white space": b" \n\t",
    "white space of another kind": b"\x0b{}",
    "no-break space": "\u00a0{}".encode(),
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-32": '{"a": 1}'.encode("utf-32"),
    "Latin-1": '{"é": 1}'.encode("latin-1"),
    "overlong UTF-8": b'{"a": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "cut short": b'{"a": [1, 2',
    "cut short in a text": b'{"a": "x',
    "cut short in an escape": b'{"a": "\\u12',
    "nothing but an opening bracket": b"{",
    "nothing but a closing bracket": b"}",
    "brackets crossed": b'{"a": [1}]',
    "one bracket too many": b'{"a": 1}}',
    "two values": b'{"a": 1} {"b": 2}',
    "words after": b'{"a": 1} x',
    "a comma at the end of an object": b'{"a": 1,}',
    "a comma at the end of a list": b'{"a": [1,]}',
    "a comma at the beginning": b'{,"a": 1}',
    "two commas": b'{"a": [1,,2]}',
    "no comma": b'{"a": 1 "b": 2}',
    "no colon": b'{"a" 1}',
    "two colons": b'{"a":: 1}',
    "a key without a value": b'{"a":}',
    "a value without a key": b"{: 1}",
    "a key without quotes": b"{a: 1}",
    "single quotes": b"{'a': 1}",
    "a number for a key": b"{1: 1}",
    "a comment": b'{"a": 1 /* x */}',
    "a comment to the end of the line": b'{"a": 1} // x',
    "a hash": b'# x\n{"a": 1}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "-Infinity": b'{"a": -Infinity}',
    "nan": b'{"a": nan}',
    "None": b'{"a": None}',
    "True": b'{"a": True}',
    "a word": b'{"a": yes}',
    "nul": b'{"a": nul}',
    "a plus": b'{"a": +1}',
    "a leading zero": b'{"a": 012}',
    "a minus alone": b'{"a": -}',
    "a point alone": b'{"a": .5}',
    "a point at the end": b'{"a": 5.}',
    "an exponent without digits": b'{"a": 5e}',
    "hexadecimal": b'{"a": 0x1F}',
    "an underscore": b'{"a": 1_000}',
    "other digits": '{"a": ١٢}'.encode(),
    "two points": b'{"a": 1.2.3}',
    "a text over two lines": b'{"a": "x\ny"}',
    "a tab in a text": b'{"a": "x\ty"}',
    "a zero byte in a text": b'{"a": "x\x00y"}',
    "a zero byte": b'{"a": 1}\x00',
    "an unknown escape": b'{"a": "\\x41"}',
    "an escape cut short": b'{"a": "\\u00g0"}',
    "a key twice": b'{"a": 1, "a": 1}',
    "a key twice, once escaped": b'{"a": 1, "\\u0061": 2}',
    "a key twice further in": b'{"a": [{"b": 1, "b": 2}]}',
    "65 digits": b'{"a": ' + b"1" * 65 + b"}",
    "65 characters of a fraction": b'{"a": 0.' + b"1" * 63 + b"}",
    "a million digits": b'{"a": ' + b"9" * 1_000_000 + b"}",
    "ten thousand brackets": b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "ten thousand brackets that stay open": b'{"a": ' + b"[" * 10_000,
    "a list": b"[1, 2]",
    "a text": b'"x"',
    "a number": b"1",
    "null": b"null",
    "true": b"true",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_bodies_are_refused_without_a_word_of_theirs(what: str) -> None:
    with pytest.raises(Refusal) as raised:
        decode_object(MALFORMED[what].replace(b"1,", f"{SECRET},".encode(), 1))
    assert raised.value.code == "MALFORMED_REQUEST"
    assert SECRET not in raised.value.message


def test_numbers_and_depth_may_be_as_long_as_allowed() -> None:
    longest = b"1" * 64
    assert decode_object(b'{"a": ' + longest + b', "b": "' + b"1" * 100 + b'"}')["a"] == int(longest)
    value = decode_object(b'{"a": ' + b"[" * 31 + b"]" * 31 + b"}")
    require_shallow(value)
    with pytest.raises(Refusal, match="deeper"):
        require_shallow({"a": value})


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_what_is_json_is_read_as_python_reads_it(value: object) -> None:
    for escaped in (True, False):
        text = json.dumps({"a": value}, ensure_ascii=escaped)
        try:
            body = text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which only an escape can hold
            continue
        assert decode_object(body) == json.loads(text)


@pytest.mark.parametrize(
    ("body", "deep"),
    [
        (b"[" * 33, True),
        (b"[" * 32, False),
        (b'{"a":' * 33, True),
        (b"[]" * 1000, False),
        (b'"' + b"[" * 100 + b'"', False),
        (b'"\\"' + b"[" * 100 + b'"', False),
        (b'"]]]]"' + b"[" * 33, True),
    ],
)
def test_depth_is_found_without_parsing(body: bytes, deep: bool) -> None:
    assert is_too_deep(body) == deep
