"""Kaldi's text tables: one `<key> <value>` per line.

The rules, for every such file (`text`, `utt2spk`, `wav.scp`, `text.qa` ...):
- UTF-8, lines end in a line feed, the last one too or not. A byte order mark, carriage returns and blank lines are
  refused, because Kaldi's tools would make them part of an id or a word; `data_dir fix` removes them.
- The key reaches to the first space or tab. It occurs once, and lines are sorted by its bytes (`LC_ALL=C`).
- The value is the rest of the line, without the blanks (space, tab) at both ends, and is not empty. It is kept as it
  is: no Unicode normalisation (text that is not NFC stays so), inner tabs and runs of blanks stay, and characters that
  merely look like line ends or spaces (U+2028, U+00A0, U+3000) are text. Control characters are refused.
- Keys must be safe as file names and in shell scripts: no blanks of any script, no control characters, no marks that
  nobody sees (zero width space, direction marks), none of / \\ " ` $ ; | & < > * ?, no leading `-`, not `.` or `..`, at
  most 200 bytes.
"""

import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from blspkd.errors import DataError
from blspkd.files import atomic_write

MAX_KEY_BYTES = 200
_BAD_IN_KEY = re.compile(r"""[\s\x00-\x20\x7f-\x9f/\\"`$;|&<>*?]|^-|^\.\.?$|"""
                         r"[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
# Most lines are like this, and one look at them is enough.
PLAIN_KEY = re.compile(rb"[0-9A-Za-z_][0-9A-Za-z_.:+=-]{0,199}(?=[ \t\n])")
_PLAIN_LINE = re.compile(rb"([0-9A-Za-z_][0-9A-Za-z_.:+=-]{0,199}) ([!-~](?:[ -~]*[!-~])?)\n?")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BOM = b"\xef\xbb\xbf"
_SHOWN = 3  # problems in the message of one error

Report = Callable[[str, int, str], None]  # kind, line number, what is wrong with it


def key_problem(key: str) -> str | None:
    """Why `key` cannot be an id, or None."""
    found = _BAD_IN_KEY.search(key)
    if found:
        what = {"-": "begin with '-'", ".": "be '.'", "..": "be '..'"}.get(found[0], f"contain {found[0]!r}")
        return f"id {key!r} must not {what}"
    if len(key) > MAX_KEY_BYTES // 4 and len(key.encode("utf-8", "replace")) > MAX_KEY_BYTES:
        return f"id {key[:40]!r}... is longer than {MAX_KEY_BYTES} bytes"
    return None


def scan_lines(path: str | os.PathLike, report: Report) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, key, value) of every line that can be used; `report` the others. Keeps no table in memory.

    Reports the kinds `byte order mark`, `carriage return`, `blank line`, `invalid UTF-8`, `bad id`, `no value`,
    `control character`, `not sorted`. Lines with the first two, and lines out of order, are yielded all the same. A
    missing value is yielded as "". Duplicates are the caller's to find.
    """
    previous = ""
    with open_table(path) as file:
        for number, key, value in scan(file, report):
            if key < previous:  # UTF-8 keeps the order of code points
                report("not sorted", number, f"{key} stands after {previous} (order of bytes, LC_ALL=C)")
            previous = key
            yield number, key, value


def scan(lines: Iterable[bytes], report: Report, first: int = 1) -> Iterator[tuple[int, str, str]]:
    """The same for lines of a table from line `first` on, whatever their order."""
    for number, line in enumerate(lines, first):
        plain = _PLAIN_LINE.fullmatch(line)
        row = (plain[1].decode(), plain[2].decode()) if plain else _scan_line(number, line, report)
        if row:
            yield number, *row


def _scan_line(number: int, line: bytes, report: Report) -> tuple[str, str] | None:
    """Key and value of a line, whatever it looks like; None where it cannot be used."""
    if number == 1 and line.startswith(_BOM):
        report("byte order mark", 1, "the file begins with a byte order mark")
        line = line[len(_BOM):]
    line = line.removesuffix(b"\n")
    if line.endswith(b"\r"):
        report("carriage return", number, "the line ends in a carriage return (Windows)")
        line = line.rstrip(b"\r")
    try:
        text = line.decode("utf-8").strip(" \t")
    except UnicodeDecodeError as error:
        report("invalid UTF-8", number, f"byte {error.start + 1} is not valid UTF-8")
        return None
    if not text:
        report("blank line", number, "the line is blank")
        return None
    key, _, value = text.partition(" ")
    if "\t" in key:
        key, _, value = text.partition("\t")
    value = value.lstrip(" \t")
    problem = key_problem(key)
    if problem:
        report("bad id", number, problem)
        return None
    if _CONTROL.search(value):
        report("control character", number, f"{key}: {_CONTROL.search(value)[0]!r} in the value")
        return None
    if not value:
        report("no value", number, f"{key}: nothing after the id")
    return key, value


def read_table(path: str | os.PathLike, *, allow_empty: bool = False) -> dict[str, str]:
    """The table `path`, in the file's order; with `allow_empty` a key may stand alone (a hypothesis of no words).

    Raises DataError naming file and line for whatever breaks the rules above, the first few together.
    """
    problems: list[str] = []
    rows: dict[str, str] = {}
    previous = ""

    def report(kind: str, number: int, what: str) -> None:
        if not (allow_empty and kind == "no value"):
            problems.append(f"{path}:{number}: {what}")

    for number, key, value in scan_lines(path, report):
        if key in rows:
            report("duplicate id", number, f"{key} stands here a second time")
        if value == previous:  # a speaker's utterances stand together: his name is kept once
            value = previous
        rows[key] = previous = value
    if problems:
        raise DataError(_join(problems) + f"\n{remedy(Path(path).parent)}")
    return rows


def write_table(path: str | os.PathLike, rows: Mapping[str, str]) -> None:
    """Write `rows` sorted and atomically; blanks at the ends of a value are not written, an empty value is allowed.

    Raises DataError for a key or value that the rules above refuse (a line break in a value, say), before it writes.
    """
    write_lines(path, [table_line(path, key, rows[key]) for key in sorted(rows)])


def table_line(path: str | os.PathLike, key: str, value: str) -> str:
    """A line of the table `path`. Raises DataError as `write_table`."""
    value = value.strip(" \t")
    problem = key_problem(key) if key else "an id is empty"
    if problem:
        raise DataError(f"{path}: {problem}; change the id")
    if _CONTROL.search(value):
        raise DataError(f"{path}: {key}: {_CONTROL.search(value)[0]!r} cannot be in a value; replace it by a space")
    return f"{key} {value}\n" if value else f"{key}\n"


def write_lines(path: str | os.PathLike, lines: Iterable[str]) -> None:
    """Write sorted lines atomically, as they come. Raises DataError as `write_table`."""
    try:
        with atomic_write(path) as file:
            file.writelines(lines)
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: {error.object[error.start]!r} is half of a character and cannot be written") from None


def read_continuations(path: str | os.PathLike) -> dict[str, str]:
    """`<utt-id> <JSON string>` per line -> {utt-id: text}; DataError names file and utterance."""
    rows = {}
    for key, value in read_table(path).items():
        try:
            rows[key] = parse_json_string(value)
        except ValueError as error:
            raise DataError(f"{path}: {key}: {error}; remove this file and run stage 2 again") from None
    return rows


def write_continuations(path: str | os.PathLike, rows: Mapping[str, str]) -> None:
    """The inverse of `read_continuations`: sorted, atomic; any text can be written, line breaks included."""
    write_sorted_continuations(path, sorted(rows.items()))


def write_sorted_continuations(path: str | os.PathLike, rows: Iterable[tuple[str, str]]) -> None:
    """The same of (utt-id, text) that come sorted: nothing is kept in memory."""
    write_lines(path, (table_line(path, key, _json_string(text)) for key, text in rows))


def parse_json_string(value: str) -> str:
    """The text that a line of `continuation` holds; ValueError if it holds none."""
    if not value.startswith('"'):
        raise ValueError(f"{value[:40]!r} is not a text in double quotes (JSON)")
    return json.loads(value)


def open_table(path: str | os.PathLike):
    """Open for reading bytes; DataError if that cannot be done."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; is the data directory complete?") from None


def remedy(data_dir: str | os.PathLike) -> str:
    """What to do about a file that breaks the rules."""
    return (f"see all problems with `{remedy_command('validate_data_dir.sh', data_dir)}`, mend them by hand or with "
            f"`{remedy_command('fix_data_dir.sh', data_dir)}`")


def remedy_command(script: str, *words: str | os.PathLike) -> str:
    """A command to paste in the recipe's folder: a script of `utils/`, which sets up its environment by itself."""
    return shlex.join([f"utils/{script}", *map(str, words)])


def _json_string(text: str) -> str:
    """JSON that reads well, but with everything escaped that is, or looks to some tool like, the end of a line."""
    readable = json.dumps(text, ensure_ascii=False)
    safe = not re.search("[\x7f-\x9f\u2028\u2029\ud800-\udfff]", readable)
    return readable if safe else json.dumps(text)


def _join(problems: list[str]) -> str:
    more = len(problems) - _SHOWN
    return "\n".join(problems[:_SHOWN]) + (f"\n... and {more} more" if more > 0 else "")
