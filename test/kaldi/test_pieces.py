"""A directory in pieces: every line is in one of them, and where it is found does not depend on its neighbours."""

import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blspkd.errors import DataError
from blspkd.kaldi import pieces as module
from blspkd.kaldi.pieces import FOLDER, Pieces, Share, find, key_of, lines_of, results

WORDS = st.text("abcdef", min_size=1, max_size=4)


@given(st.sets(WORDS, max_size=30), WORDS, st.booleans(), st.booleans())
def test_a_line_is_found_where_a_walk_finds_it(keys, wanted, ends, blanks):
    lines = [f"{key} value {key}\n".encode() for key in sorted(keys)]
    if blanks and lines:
        lines.insert(len(lines) // 2, b"\n")
    contents = b"".join(lines)
    if not ends:
        contents = contents.removesuffix(b"\n")
    with tempfile.TemporaryFile() as file:
        file.write(contents)
        place = find(file, wanted.encode(), len(contents))
    before = [line for line in lines if line.strip() and key_of(line) < wanted.encode()]
    assert [line for line in contents[:place].split(b"\n") if line.strip()] == [line.strip() for line in before]
    assert place in (0, len(contents)) or contents[place - 1:place] == b"\n"


@given(st.sets(WORDS, max_size=200), st.sets(WORDS, max_size=30))
def test_the_lines_of_some_keys(keys, wanted):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table"
        file.write_text("".join(f"{key} 1\n{key} 2\n" for key in sorted(keys)))
        found = list(lines_of(file, [key.encode() for key in sorted(wanted)]))
    assert found == [f"{key} {number}\n".encode() for key in sorted(wanted & keys) for number in (1, 2)]


@pytest.fixture
def folder(make_rich_dir):
    return make_rich_dir()


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_pieces_are_data_directories_that_make_the_whole(folder, size):
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    pieces, tables = Pieces(folder, size), {}
    for index in range(len(pieces)):
        with pieces.opened(index) as piece:
            for file in piece.iterdir():
                tables.setdefault(file.name, []).append(file.read_bytes())
    assert len(pieces) == -(-len((folder / "utt2spk").read_text().splitlines()) // size)
    for name in ("utt2spk", "text", "segments", "utt2dur"):
        if name in before:
            assert b"".join(tables[name]) == before[name]
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


def test_errors_name_the_whole_directory(folder):
    with pytest.raises(DataError, match=f"^{folder}/text: wrong\n.*the verb validate"), \
            Pieces(folder, 1).opened(0) as piece:
        raise DataError(f"{piece}/text: wrong")
    assert not list((folder / FOLDER).iterdir())


def test_results_are_made_once_and_again_when_the_directory_or_the_question_changes(folder):
    done = []

    def do(index, place):
        (place / "x").write_text(str(index))
        done.append(index)

    def run(made_from, **share):
        done.clear()
        with results(Pieces(folder, 1), "name", made_from, do, Share(**share)) as places:
            return places and [(place / "x").read_text() for place in places]

    number = len(Pieces(folder, 1))
    assert run(1, job=2, num_jobs=3) is None and sorted(done) == list(range(number))
    assert run(1) == [str(index) for index in range(number)] and not done
    assert not (folder / FOLDER).exists()
    run(1, job=2, num_jobs=3)
    run(2)
    assert len(done) == number
    run(2, job=2, num_jobs=3)
    (folder / "text").write_text((folder / "text").read_text().replace("a", "b") + "\n")
    run(2)
    assert len(done) == number


def test_what_a_kill_left_is_done_by_the_next_call(folder):
    done = []

    def do(index, place):
        done.append(index)
        if len(done) == 3:
            raise KeyboardInterrupt

    for expected in (pytest.raises(KeyboardInterrupt), nullcontext()):
        with expected, results(Pieces(folder, 1), "name", 0, do, Share()):
            pass
    assert sorted(done) == sorted([2, *range(len(Pieces(folder, 1)))])


@pytest.mark.parametrize("name", ["utt2dur", "emotion", "spk2gender", "segments", "wav.scp"])
def test_a_table_that_is_not_sorted_is_refused_with_its_line_since_bisection_would_lose_lines(folder, name):
    lines = (folder / name).read_text().splitlines(keepends=True)
    (folder / name).write_text("".join([*lines[1:], lines[0]]))
    first = lines[0].split()[0]
    with pytest.raises(DataError, match=rf"{folder}/{name}:{len(lines)}: {first} stands after .*(.|\n)*fix_data_dir"), \
            Pieces(folder, 2).opened(0):
        pass


def test_verbs_that_work_at_the_same_time_have_pieces_of_their_own(folder):
    other = f"from blspkd.kaldi.pieces import Pieces\nwith Pieces({str(folder)!r}, 2).opened(1): pass"
    with Pieces(folder, 2).opened(1) as piece:
        before = {file.name: file.read_bytes() for file in piece.iterdir()}
        subprocess.run([sys.executable, "-c", other], check=True)
        assert before and {file.name: file.read_bytes() for file in piece.iterdir()} == before


def test_a_last_call_waits_for_another_one_and_then_makes_its_own(folder, monkeypatch):
    done, waited = [], []

    def do(index, place):
        (place / "x").write_text(str(index))
        done.append(index)

    def wait(seconds):
        waited.append(seconds)
        other.__exit__(None, None, None)

    monkeypatch.setattr(module, "sleep", wait)
    other = results(Pieces(folder, 1), "name", 0, do, Share())
    first = other.__enter__()
    assert all((place / "x").is_file() for place in first)
    with results(Pieces(folder, 1), "name", 0, do, Share()) as second:
        assert waited and all((place / "x").is_file() for place in second)
    assert len(done) == 2 * len(first) and not (folder / FOLDER).exists()


def test_results_are_kept_where_the_last_call_fails(folder):
    done = []
    for _ in range(2):
        with pytest.raises(DataError), results(Pieces(folder, 1), "name", 0, lambda *_: done.append(1), Share()):
            raise DataError("the disk is full")
    assert len(done) == len(Pieces(folder, 1))


def test_a_table_that_changes_while_it_is_read_is_told(folder):
    def do(index, place):
        if index == 1:
            (folder / "utt2dur").write_text("")

    message = f"^{folder}: its tables have changed while they were read; start the same command again"
    with pytest.raises(DataError, match=message), results(Pieces(folder, 2), "name", 0, do, Share()):
        pass
    with results(Pieces(folder, 2), "name", 0, do, Share(), written=["utt2dur"]) as places:
        assert places


def test_what_belongs_to_the_whole_directory_is_in_no_piece(folder):
    """It may be an archive of all recordings."""
    (folder / "raw.ark").write_bytes(bytes(1000))
    with Pieces(folder, 2).opened(1) as piece:
        assert {"text", "utt2spk"} <= {file.name for file in piece.iterdir()} and not (piece / "raw.ark").exists()
