"""Bodies of requests, taken apart strictly."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.serve.api_error import ApiError
from blspkd.serve.body import parse_form, parse_json

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) |
                    st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_an_object_is_read_as_it_was_written(value):
    assert parse_json(json.dumps(value).encode(), 10_000) == value


@pytest.mark.parametrize("body", [
    b"", b"nonsense", b"[]", b'"text"', b"null", b"\xff\xfe{\x00}\x00", '{"a": 1}'.encode("utf-16"), b'{"a": NaN}',
    b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": 1, "a": 2}', b'{"a": {"b": 1, "b": 1}}',
    b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"a": [' + b"[]," * 20_000 + b"[]]}", b'{"a": 1} {}',
    b'{"a": ' + b"9" * 10_000 + b"}", b'\xef\xbb\xbf{"a": 1}'])
def test_what_is_no_object_of_json_is_refused(body):
    with pytest.raises(ApiError) as raised:
        parse_json(body, 10_000)
    assert raised.value.status == 400 and raised.value.code == "invalid_json"
    assert len(str(raised.value)) < 300


def form(*parts: bytes, boundary: bytes = b"xyz") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


def field(name: str, value: bytes, more: str = "") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value


@given(st.binary(max_size=200).filter(lambda value: b"--xyz" not in value))
def test_a_form_is_read_to_the_byte(value):
    fields = parse_form(form(field("file", value, '; filename="a.wav"'), field("model", b"tiny")), b"xyz")
    assert fields["file"].value == value and fields["file"].is_file
    assert fields["model"].text("model") == "tiny" and not fields["model"].is_file


@pytest.mark.parametrize("body", [
    b"", b"--xyz", form()[:-4], form(field("a", b"1"))[:-6], form(b"no head"), form(b"\r\n\r\nno name"),
    form(b"Content-Disposition: attachment; name=a\r\n\r\n1"), form(field("a", b"1"), field("a", b"2")),
    form(field("a", b"MQ==", "\r\nContent-Transfer-Encoding: base64")), form(*[field(f"a{i}", b"") for i in range(40)]),
    form(b"X: " + b"y" * 5000 + b"\r\n" + field("a", b"1")), form(field("a", b"1"), boundary=b"other")])
def test_a_broken_form_is_refused(body):
    with pytest.raises(ApiError) as raised:
        parse_form(body, b"xyz")
    assert raised.value.status == 400 and raised.value.code == "invalid_form"
