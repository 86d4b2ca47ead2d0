"""A directory in pieces: every line is in one of them, and where it is found does not depend on its neighbours."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blspkd.errors import DataError
from blspkd.kaldi.pieces import FOLDER, Pieces, Share, clean_up, find, key_of, lines_of, results

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
        return results(Pieces(folder, 1), "name", made_from, do, Share(**share))

    number = len(Pieces(folder, 1))
    assert run(1, job=2, num_jobs=3) is None and sorted(done) == list(range(number))
    assert [(place / "x").read_text() for place in run(1)] == [str(index) for index in range(number)] and not done
    run(2)
    assert len(done) == number
    (folder / "text").write_text((folder / "text").read_text().replace("a", "b") + "\n")
    run(2)
    assert len(done) == number
    clean_up(folder, "name")
    assert not (folder / FOLDER).exists()


def test_what_a_kill_left_is_done_by_the_next_call(folder):
    done = []

    def do(index, place):
        done.append(index)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results(Pieces(folder, 1), "name", 0, do, Share())
    results(Pieces(folder, 1), "name", 0, do, Share())
    assert sorted(done) == sorted([2, *range(len(Pieces(folder, 1)))])
    shutil.rmtree(folder / FOLDER)
