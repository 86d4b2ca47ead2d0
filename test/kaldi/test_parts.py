"""The resumable parts of every command: what counts as written, what a kill costs, and what damage is told."""

import json
import threading

import pytest

from blspkd.errors import DataError
from blspkd.evaluation.decode_dir import DecodeDir, read_finished
from blspkd.kaldi.parts import Job, Parts, PartsDir, plan_batches, plan_parts, run_parts

BATCHES = [["u3", "u1"], ["u2"]]
PLAN = [[["e"], ["d", "c"]], [["b"], ["a"]]]
ROWS = [{"utt_id": utt_id, "hypothesis": utt_id.upper()} for utt_id in ("u3", "u1", "u2")]


@pytest.fixture
def folder(tmp_path):
    made = PartsDir(tmp_path / "decode_repeat_test", {"model": "m"})
    made.start()
    return made


def cut(path, keep):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))


def rows_of(batch, _=None):
    return [{"utt_id": utt_id, "hypothesis": utt_id.upper()} for utt_id in batch]


def test_a_written_part_is_there(folder):
    folder.write_part(0, ROWS)
    assert folder.missing(0, BATCHES) == [] and folder.missing(1, BATCHES) == BATCHES


@pytest.mark.parametrize("damage", [
    lambda path: cut(path, 2),  # at the end of a line
    lambda path: path.write_text(path.read_text()[:-5]),
    lambda path: path.write_text(path.read_text().replace("u2", "u7")),
])
def test_a_part_that_lacks_an_utterance_is_not_there(folder, damage):
    folder.write_part(0, ROWS)
    damage(folder.path / "parts" / "part-00000.jsonl")
    assert folder.missing(0, BATCHES) == BATCHES


def test_rows_cut_after_the_end_are_told_with_the_remedy(folder):
    folder.write_part(0, ROWS)
    folder.finish(1)
    assert read_finished(folder.path) == sorted(ROWS, key=lambda row: row["utt_id"])
    cut(folder.path / "hyp.jsonl", 2)
    for read in folder.rows, lambda: read_finished(folder.path):
        with pytest.raises(DataError, match=r"hyp.jsonl: 3 rows were written, 2 are there; remove .*repeat_test"):
            read()


def test_a_marker_without_a_count_is_taken_at_its_word(folder):
    folder.write_part(0, ROWS)
    folder.finish(1)
    marker = folder.path / "decode.json"
    marker.write_text(json.dumps({"fingerprint": json.loads(marker.read_text())["fingerprint"]}))
    assert len(folder.rows()) == 3


def test_parts_beyond_the_plan_are_left_out(folder):
    folder.write_part(7, ROWS)  # a run with other batches was killed here
    run_parts("test", [Job(PLAN, {folder: rows_of})])
    assert [row["utt_id"] for row in folder.rows()] == list("abcde") and not (folder.path / "parts").exists()


def test_a_killed_run_goes_on_with_the_part_that_it_was_at(tmp_path):
    calls = []

    def dies(batch, _):
        calls.append(batch)
        if batch == ["a"]:
            raise KeyboardInterrupt
        return rows_of(batch)

    with pytest.raises(KeyboardInterrupt):
        run_parts("test", [Job(PLAN, {DecodeDir(tmp_path, "x", "set", "speech", {"model": 1}): dies})])
    assert calls == [["e"], ["d", "c"], ["b"], ["a"]]
    calls.clear()
    folder = DecodeDir(tmp_path, "x", "set", "speech", {"model": 1})
    run_parts("test", [Job(PLAN, {folder: lambda batch, _: calls.append(batch) or rows_of(batch)})])
    assert calls == [["b"], ["a"]]
    assert (folder.path / "text").read_text() == "a A\nb B\nc C\nd D\ne E\n"


def test_places_share_what_is_loaded_and_only_those_that_lack_a_part_work(tmp_path):
    first, second = (DecodeDir(tmp_path, task, "set", "speech", {}) for task in ("one", "two"))
    first.start()
    first.write_part(0, rows_of("edc"))
    loaded, prepared, worked = [], [], []

    def load(batch):
        assert threading.current_thread() is not threading.main_thread()
        loaded.append(batch)
        return len(batch)

    def work(name):
        return lambda batch, heard: worked.append((name, *batch, heard)) or rows_of(batch)

    run_parts("test", [Job(PLAN, {first: work(1), second: work(2)}, load, lambda n: prepared.append(n) or n * 10)])
    assert loaded == [["e"], ["d", "c"], ["b"], ["a"]] and prepared == [1, 2, 1, 1]
    assert worked == [(2, "e", 10), (2, "d", "c", 20), (1, "b", 10), (2, "b", 10), (1, "a", 10), (2, "a", 10)]
    assert first.rows() == second.rows() == rows_of("abcde")


def test_an_error_in_loading_comes_behind_the_parts_before_it(tmp_path):
    def load(batch):
        if batch == ["b"]:
            raise DataError("b is damaged")

    folder = PartsDir(tmp_path / "x", {})
    with pytest.raises(DataError, match="b is damaged"):
        run_parts("test", [Job(PLAN, {folder: rows_of}, load)])
    assert folder.missing(0, PLAN[0]) == [] and folder.missing(1, PLAN[1]) == PLAN[1]


def test_a_place_may_lack_single_batches_of_a_part():
    class Share(Parts):
        written = {}

        def missing(self, index, batches):
            return batches[1:]

        def write_part(self, index, rows):
            self.written[index] = [row["utt_id"] for row in rows]

    run_parts("test", [Job(PLAN, {Share(): rows_of})])
    assert Share.written == {0: ["d", "c"], 1: ["a"]}


def test_batches_are_of_similar_length_and_within_their_budget():
    lengths = {"a": 1.0, "b": 9.0, "c": 2.0, "d": 30.0, "e": 8.0}
    assert plan_batches(lengths, 3, 18.0) == [["d"], ["b", "e"], ["c", "a"]]
    assert plan_batches(lengths, 2) == [["d", "b"], ["e", "c"], ["a"]]


def test_parts_are_neighbouring_batches_of_a_limited_size():
    assert plan_parts([["a", "b", "c"], ["d"], ["e"], ["f"]], 2) == [[["a", "b", "c"]], [["d"], ["e"]], [["f"]]]
