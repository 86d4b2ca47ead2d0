"""Parts: who takes which, what makes them stale, and what the merge accepts."""

import json
import shutil
from dataclasses import asdict

import pytest

from blspkd.errors import ConfigError, DataError
from blspkd.generation.continuation import Continuation
from blspkd.generation.merge import is_merged, merge, summary
from blspkd.generation.parts import make_settings, parts_dir, plan_parts, remove_strangers
from blspkd.kaldi.data_dir import read_continuations
from blspkd.models.base_models import model_identity

TRANSCRIPTS = {f"utt{i}": f"sentence number {i}" for i in range(7)}
TEXTS = ['and "so" on', "line\nbreak", "Grüße 你好 🦊", "a\u2028b\x85c", "back\\slash\ttab", " leading", "trailing "]


def settings(**options) -> dict:
    options = {"part_size": 3, "batch_size": 2, "seed": 0, **options}
    return make_settings("llm", {"config.json": "1234"}, {"instruction": "Go on:"}, options)


def row(utt_id, text, n_tokens=4, finished=True, reason=None) -> dict:
    return {"utt_id": utt_id, **asdict(Continuation(text, n_tokens, finished, reason))}


def write(plan, made_by, reasons=None) -> None:
    texts = dict(zip(TRANSCRIPTS, TEXTS, strict=True))
    for part in plan:
        rows = [row(utt_id, texts[utt_id], 4, utt_id != "utt0", (reasons or {}).get(utt_id))
                for utt_id in part.transcripts]
        part.write(rows, made_by, {"torch": "1"})


def test_parts_are_slices_in_the_order_of_the_utterances(tmp_path):
    plan = plan_parts(tmp_path, TRANSCRIPTS, settings())
    assert [list(part.transcripts) for part in plan] == [["utt0", "utt1", "utt2"], ["utt3", "utt4", "utt5"], ["utt6"]]


def test_a_part_is_complete_when_its_files_hold_all_of_its_utterances(tmp_path):
    part = plan_parts(tmp_path, TRANSCRIPTS, settings())[0]
    part.write([row("utt2", "c")], settings(), {}, part.path_of(slice(1, 2), 2))
    assert part.state() == "incomplete" and part.lacks() == ["utt0", "utt1"]
    part.write([row("utt0", "a"), row("utt1", "b")], settings(), {}, part.path_of(slice(0, 1), 2))
    assert part.state() == "complete" and not part.path.exists()


@pytest.mark.parametrize("damage", [
    lambda lines: lines[:3],  # at the end of a line
    lambda lines: lines[:3] + [lines[3][:20]],
    lambda lines: lines[:3] + [lines[3].replace("utt2", "utt9")],
    lambda lines: lines[:3] + ["null\n"],
])
def test_a_part_that_lacks_an_utterance_is_not_complete_and_the_merge_names_it(tmp_path, damage):
    plan = plan_parts(tmp_path, TRANSCRIPTS, settings())
    write(plan, settings())
    whole = plan[0].path.read_bytes()
    plan[0].path.write_text("".join(damage(plan[0].path.read_text().splitlines(keepends=True))))
    assert plan[0].state() == "incomplete"
    with pytest.raises(DataError, match=r"1 of 3 parts .*, 1 utterances:\n  part-00001-of-00003 lacks 1 .*: utt2\n"):
        merge(tmp_path, TRANSCRIPTS)
    plan[0].write([row("utt2", TEXTS[2])], settings(), {"torch": "1"})
    assert plan[0].state() == "complete" and plan[0].path.read_bytes() == whole


def test_the_merge_names_every_missing_utterance(tmp_path):
    transcripts = {f"utt{i:03d}": "text" for i in range(200)}
    [part] = plan_parts(tmp_path, transcripts, settings(part_size=200))
    part.write([row("utt000", "text")], settings(part_size=200), {})
    with pytest.raises(DataError) as raised:
        merge(tmp_path, transcripts)
    assert all(utt_id in str(raised.value) for utt_id in list(transcripts)[1:])


def test_only_what_changes_a_part_makes_it_stale(tmp_path):
    write(plan_parts(tmp_path, TRANSCRIPTS, settings()), settings())

    def states(transcripts=TRANSCRIPTS, made_by=None):
        return [part.state() for part in plan_parts(tmp_path, transcripts, made_by or settings())]

    assert states() == ["complete"] * 3
    assert states(made_by=settings(batch_size=1)) == ["complete"] * 3
    assert states(made_by={**settings(), "model": "moved/llm"}) == ["complete"] * 3
    assert states(made_by=settings(seed=1)) == ["stale"] * 3
    assert states(made_by={**settings(), "identity": {"config.json": "5678"}}) == ["stale"] * 3
    assert states(made_by={**settings(), "prompt": {"instruction": "Repeat:"}}) == ["stale"] * 3
    assert states({**TRANSCRIPTS, "utt4": "another"}) == ["complete", "stale", "complete"]
    plan_parts(tmp_path, TRANSCRIPTS, settings())[0].path.write_text("{}\n")
    assert states() == ["stale", "complete", "complete"]


def test_merge_writes_any_text_and_counts_what_was_dropped(tmp_path):
    write(plan_parts(tmp_path, TRANSCRIPTS, settings()), settings(), {"utt1": "empty", "utt5": "repetition"})
    info = merge(tmp_path, TRANSCRIPTS)
    expected = {utt_id: text for utt_id, text in zip(TRANSCRIPTS, TEXTS, strict=True) if utt_id not in ("utt1", "utt5")}
    assert read_continuations(tmp_path / "continuation") == expected
    assert (tmp_path / "continuation").read_bytes().count(b"\n") == 5
    assert json.loads((tmp_path / "continuation.info.json").read_text()) == info
    assert info["counts"] == {"utterances": 7, "written": 5, "filtered": {"empty": 1, "repetition": 1}, "tokens": 20,
                              "unfinished": 1}
    assert info["filtered"] == {"empty": ["utt1"], "repetition": ["utt5"]}
    assert (info["model"], info["prompt"], info["versions"]) == ("llm", {"instruction": "Go on:"}, {"torch": "1"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["continuation", "continuation.info.json"]
    assert "5 continuations of 7 utterances, 2 dropped (empty: 1, repetition: 1)" == summary(info["counts"])


def test_merge_refuses_missing_and_stale_parts_and_names_them(tmp_path):
    plan = plan_parts(tmp_path, TRANSCRIPTS, settings())
    write(plan, settings())
    plan[1].path.unlink()
    with pytest.raises(DataError, match=r"2 of 3 parts.*4 utterances(.|\n)*utt3 \.\.\. utt5(.|\n)*utt6 \(written with"):
        merge(tmp_path, {**TRANSCRIPTS, "utt6": "changed"})
    assert not (tmp_path / "continuation").exists()
    assert plan[0].state() == "complete"


def test_merge_without_parts_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match="run stage 2"):
        merge(tmp_path, TRANSCRIPTS)


@pytest.mark.parametrize("max_bad_ratio", [0.5, 1.0])
def test_merge_of_nothing_but_dropped_ones_is_an_error(tmp_path, max_bad_ratio):
    write(plan_parts(tmp_path, TRANSCRIPTS, settings()), settings(), dict.fromkeys(TRANSCRIPTS, "empty"))
    with pytest.raises(DataError, match=r"0 continuations of 7 utterances, 7 dropped \(empty: 7\)"):
        merge(tmp_path, TRANSCRIPTS, max_bad_ratio)
    assert not (tmp_path / "continuation").exists()


def test_many_dropped_ones_are_an_error_that_replaces_nothing_and_can_be_accepted(tmp_path):
    (tmp_path / "continuation").write_text("old")
    plan = plan_parts(tmp_path, TRANSCRIPTS, settings())
    write(plan, settings(), dict.fromkeys(["utt0", "utt1", "utt2"], "empty") | {"utt4": "repetition"})
    with pytest.raises(DataError, match=r"4 dropped \(empty: 3, repetition: 1\): more than --max_bad_ratio 0.5 allows"
                                        r"(.|\n)*to go on with the others, --max_bad_ratio 0.58\. Nothing was"):
        merge(tmp_path, TRANSCRIPTS)
    assert (tmp_path / "continuation").read_text() == "old"
    assert [part.state() for part in plan] == ["complete"] * 3
    assert merge(tmp_path, TRANSCRIPTS, max_bad_ratio=0.58)["counts"]["written"] == 3


def test_a_share_of_dropped_ones_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="max_bad_ratio: 50 is no share"):
        merge(tmp_path, TRANSCRIPTS, max_bad_ratio=50)


def test_continuations_cut_after_the_merge_are_not_up_to_date(tmp_path):
    write(plan_parts(tmp_path, TRANSCRIPTS, settings()), settings())
    merge(tmp_path, TRANSCRIPTS)
    lines = (tmp_path / "continuation").read_text().splitlines(keepends=True)
    whole = "".join(lines).encode()
    for damaged in (b"", "".join(lines[:-1]).encode(), "".join([*lines[:-1], lines[0]]).encode(), whole[:-6],
                    whole.replace(b"utt1", b"\xff1"), whole.replace(b'"', b"'", 1)):
        (tmp_path / "continuation").write_bytes(damaged)
        assert not is_merged(tmp_path, TRANSCRIPTS, settings()) and not is_merged(tmp_path, TRANSCRIPTS)
    (tmp_path / "continuation").write_bytes(whole)
    assert is_merged(tmp_path, TRANSCRIPTS)


def test_the_info_of_an_older_version_has_no_digest_and_a_damaged_one_is_no_info(tmp_path):
    write(plan_parts(tmp_path, TRANSCRIPTS, settings()), settings())
    info = merge(tmp_path, TRANSCRIPTS)
    path = tmp_path / "continuation.info.json"
    path.write_text(json.dumps({key: value for key, value in info.items() if key != "sha256"}))
    assert is_merged(tmp_path, TRANSCRIPTS)
    (tmp_path / "continuation").write_bytes((tmp_path / "continuation").read_bytes().replace(b"utt1", b"\xff1"))
    assert not is_merged(tmp_path, TRANSCRIPTS)
    for damaged in ("", "[]", '{"fingerprint": "x"}'):
        path.write_text(damaged)
        assert not is_merged(tmp_path, TRANSCRIPTS)


def test_a_merge_killed_while_it_removed_the_parts_can_be_repeated(tmp_path):
    plan = plan_parts(tmp_path, TRANSCRIPTS, settings())
    write(plan, settings())
    shutil.copytree(parts_dir(tmp_path), tmp_path / "kept")
    info = merge(tmp_path, TRANSCRIPTS)
    shutil.copytree(tmp_path / "kept", parts_dir(tmp_path))
    plan[0].path.unlink()
    assert merge(tmp_path, TRANSCRIPTS) == info
    assert not parts_dir(tmp_path).exists()


def test_merged_continuations_are_recognised_until_something_changes(tmp_path):
    write(plan_parts(tmp_path, TRANSCRIPTS, settings()), settings())
    assert not is_merged(tmp_path, TRANSCRIPTS, settings())
    merge(tmp_path, TRANSCRIPTS)
    assert is_merged(tmp_path, TRANSCRIPTS) and is_merged(tmp_path, TRANSCRIPTS, settings())
    assert not is_merged(tmp_path, TRANSCRIPTS, settings(seed=1))
    assert not is_merged(tmp_path, {**TRANSCRIPTS, "utt0": "changed"})


def test_parts_of_another_slicing_are_removed(tmp_path):
    write(plan_parts(tmp_path, TRANSCRIPTS, settings(part_size=2)), settings(part_size=2))
    plan = plan_parts(tmp_path, TRANSCRIPTS, settings())
    write(plan, settings())
    for part in [*plan_parts(tmp_path, TRANSCRIPTS, settings(part_size=2)), *plan]:
        part.write([], settings(), {}, part.path_of(slice(5, 6), 2))
    remove_strangers(tmp_path, plan)
    assert sorted(parts_dir(tmp_path).rglob("*.jsonl")) == sorted(
        path for part in plan for path in (part.path, part.path_of(slice(5, 6), 2)))


def test_a_model_is_known_by_its_contents(tiny_llm, tmp_path):
    shutil.copytree(tiny_llm, tmp_path / "llm")
    assert model_identity(str(tmp_path / "llm")) == model_identity(tiny_llm)
    with open(tmp_path / "llm" / "model.safetensors", "r+b") as file:
        file.seek(-8, 2)
        file.write(b"\1" * 8)
    changed = model_identity(str(tmp_path / "llm"))
    before = model_identity(tiny_llm)
    assert [name for name in before if changed[name] != before[name]] == ["model.safetensors"]
