"""Tables are written and read back unchanged, and what breaks the rules is refused with file and line."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blspkd.errors import DataError
from blspkd.kaldi.tables import (
    key_problem,
    read_continuations,
    read_table,
    write_continuations,
    write_table,
)

INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060" + "".join(map(chr, [*range(0x202a, 0x202f), *range(0x2066, 0x206a)]))
keys = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z"), exclude_characters='/\\"`$;|&<>*?' + INVISIBLE),
               min_size=1, max_size=20).filter(lambda key: key[0] != "-" and key not in (".", ".."))
values = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\t  ")).map(lambda s: s.strip(" \t"))
few = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(rows=st.dictionaries(keys, values.filter(bool)))
def test_what_is_written_is_read_back(tmp_path, rows):
    write_table(tmp_path / "text", rows)
    read = read_table(tmp_path / "text")
    assert read == rows
    assert list(read) == sorted(rows, key=str.encode)


@few
@given(rows=st.dictionaries(keys, values))
def test_empty_values_are_read_back_where_they_are_allowed(tmp_path, rows):
    write_table(tmp_path / "text", rows)
    assert read_table(tmp_path / "text", allow_empty=True) == rows


@few
@given(rows=st.dictionaries(keys, st.text(st.characters())))
def test_continuations_may_be_any_text(tmp_path, rows):
    write_continuations(tmp_path / "continuation", rows)
    assert read_continuations(tmp_path / "continuation") == rows
    lines = (tmp_path / "continuation").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(rows)  # also for tools that see more line ends than we do


@pytest.mark.parametrize("value", [
    "naïve café", "nai\u0308ve", "مرحبا بالعالم", "שלום", "你好，世界", "🎉 👩\u200d👧", "a\u00a0b", "全角\u3000空白",
    "a\u2028b", "a\tb", "a  b", "\u202eabc\u202c", "\ufeffinside", 'say "x" \\n', "$(reboot); `ls` | cat"])
def test_text_is_kept_as_it_is(tmp_path, value):
    write_table(tmp_path / "text", {"a": value})
    assert (tmp_path / "text").read_bytes() == f"a {value}\n".encode()
    assert read_table(tmp_path / "text") == {"a": value}


@pytest.mark.parametrize("contents", [b"a x y\n", b"a\tx y\n", b"a   x y  \n", b"a \t x y", b"  a x y\n"])
def test_blanks_around_key_and_value_are_no_part_of_them(tmp_path, contents):
    (tmp_path / "text").write_bytes(contents)
    assert read_table(tmp_path / "text") == {"a": "x y"}


@pytest.mark.parametrize(("contents", "messages"), [
    (b"a x\nb y\na z\n", ["text:3: a stands here a second time"]),
    (b"b x\na y\n", ["text:2: a stands after b"]),
    ("é x\nä y\n".encode(), ["text:2: ä stands after é"]),
    ("ä x\nz y\n".encode(), ["text:2: z stands after ä"]),
    (b"a x\nb\n", ["text:2: b: nothing after the id"]),
    (b"a x\nb  \t\n", ["text:2: b: nothing after the id"]),
    (b"a x\n\nb y\n", ["text:2: the line is blank"]),
    (b"a x\nb caf\xe9\n", ["text:2: byte 6 is not valid UTF-8"]),
    (b"\xff\xfea\x00 \x00", ["text:1: byte 1 is not valid UTF-8"]),
    (b"\xef\xbb\xbfa x\n", ["text:1: the file begins with a byte order mark"]),
    (b"a x\r\nb y\r\n", ["text:1: the line ends in a carriage return", "text:2: "]),
    (b"a x\rb y\r", ["text:1: the line ends in a carriage return", "text:1: a: '\\r' in the value"]),
    (b"a x\x00y\n", ["text:1: a: '\\x00' in the value"]),
    (b"a x\x1b[31m\n", ["text:1: a: '\\x1b' in the value"]),
    (b"../a x\n", ["text:1: id '../a' must not contain '/'"]),
    (b".. x\n", ["text:1: id '..' must not be '..'"]),
    (b"-rf x\n", ["text:1: id '-rf' must not begin with '-'"]),
    (b"$(id) x\n", ["text:1: id '$(id)' must not contain '$'"]),
    (b"a;b x\n", ["text:1: id 'a;b' must not contain ';'"]),
    (b"a\\b x\n", ["text:1: id 'a\\\\b' must not contain"]),
    ("a\u200bb x\n".encode(), ["text:1: id 'a\\u200bb' must not contain '\\u200b'"]),
    ("a\u202eb x\n".encode(), ["text:1: id 'a\\u202eb' must not contain"]),
    ("a\u3000b x\n".encode(), ["text:1: id 'a\\u3000b' must not contain"]),
    (b"a" * 300 + b" x\n", ["text:1: id 'aaa", "longer than 200 bytes"]),
])
def test_bad_lines_are_refused_with_their_place(tmp_path, contents, messages):
    (tmp_path / "text").write_bytes(contents)
    with pytest.raises(DataError) as raised:
        read_table(tmp_path / "text")
    for message in messages:
        assert message in str(raised.value)
    assert f"utils/fix_data_dir.sh {tmp_path}" in str(raised.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"text: cannot be read: No such file"):
        read_table(tmp_path / "text")


@pytest.mark.parametrize("rows", [{"a b": "x"}, {"": "x"}, {"../a": "x"}, {"a": "x\ny"}, {"a": "x\r"}, {"a": "\x00"},
                                  {"a": "\ud800"}])
def test_what_could_not_be_read_back_is_not_written(tmp_path, rows):
    write_table(tmp_path / "text", {"old": "row"})
    with pytest.raises(DataError, match="text"):
        write_table(tmp_path / "text", rows)
    assert read_table(tmp_path / "text") == {"old": "row"}
    assert [file.name for file in tmp_path.iterdir()] == ["text"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full")
def test_a_full_disk_is_told(tmp_path, monkeypatch):
    real_open = open
    monkeypatch.setattr("builtins.open", lambda path, *args, **kwargs: real_open(
        "/dev/full" if ".tmp-" in str(path) else path, *args, **kwargs))
    with pytest.raises(OSError, match="No space left on device: '.*/text'"):
        write_table(tmp_path / "text", {"a": "x"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["words", "[1, 2]", "3", "null", '"open', '"a" "b"'])
def test_a_continuation_that_is_no_json_string_is_refused(tmp_path, value):
    (tmp_path / "continuation").write_text(f'a "fine"\nb {value}\n')
    with pytest.raises(DataError, match="continuation: b: .*stage 2"):
        read_continuations(tmp_path / "continuation")


@pytest.mark.parametrize("key", ["o'neil-1", "sw02001-A_000098-001156", "an127-mcen-b", "日本-1", "a.b=c,d(e)",
                                 "x" * 200])
def test_usual_ids_are_fine(key):
    assert key_problem(key) is None
