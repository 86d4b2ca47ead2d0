"""Directories that grow in parts: what counts as written, and what damage is told."""

import json

import pytest

from blspkd.errors import DataError
from blspkd.evaluation.decode_dir import PartsDir, read_finished

BATCHES = [["u3", "u1"], ["u2"]]
ROWS = [{"utt_id": utt_id, "hypothesis": utt_id.upper()} for utt_id in ("u3", "u1", "u2")]


@pytest.fixture
def folder(tmp_path):
    made = PartsDir(tmp_path / "decode_repeat_test", {"model": "m"})
    made.start()
    return made


def cut(path, keep):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))


def test_a_written_part_is_there(folder):
    folder.write_part(0, ROWS)
    assert folder.has_part(0, BATCHES) and not folder.has_part(1, BATCHES)


@pytest.mark.parametrize("damage", [
    lambda path: cut(path, 2),  # at the end of a line
    lambda path: path.write_text(path.read_text()[:-5]),
    lambda path: path.write_text(path.read_text().replace("u2", "u7")),
])
def test_a_part_that_lacks_an_utterance_is_not_there(folder, damage):
    folder.write_part(0, ROWS)
    damage(folder.path / "parts" / "part-00000.jsonl")
    assert not folder.has_part(0, BATCHES)


def test_rows_cut_after_the_end_are_told_with_the_remedy(folder):
    folder.finish(ROWS)
    assert read_finished(folder.path) == sorted(ROWS, key=lambda row: row["utt_id"])
    cut(folder.path / "hyp.jsonl", 2)
    for read in folder.rows, lambda: read_finished(folder.path):
        with pytest.raises(DataError, match=r"hyp.jsonl: 3 rows were written, 2 are there; remove .*repeat_test"):
            read()


def test_a_marker_without_a_count_is_taken_at_its_word(folder):
    folder.finish(ROWS)
    marker = folder.path / "decode.json"
    marker.write_text(json.dumps({"fingerprint": json.loads(marker.read_text())["fingerprint"]}))
    assert len(folder.rows()) == 3
