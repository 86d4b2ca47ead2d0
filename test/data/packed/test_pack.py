"""`data_dir pack`: resumable shard by shard, and refused when what it was made from has changed."""

import builtins
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from blspkd.bin.data_dir import main
from blspkd.config import DataConfig
from blspkd.data.packed import pack as packing
from blspkd.data.packed.made_from import tokenizer_digest
from blspkd.data.packed.packed_dir import PackedDir
from blspkd.data.packed.shard import arrow, open_shard
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import DataError
from blspkd.kaldi.tables import read_table


@pytest.fixture
def packed(tmp_path) -> Path:
    return tmp_path / "packed"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def dates(packed: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in sorted((packed / "shards").iterdir())}


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")


def test_shards_hold_what_anybody_can_read(mixed, pack, packed):
    told = pack()
    assert "complete: 16 utterances in 6 shards" in told
    table = [row for path in sorted((packed / "shards").iterdir())
             for row in arrow().ipc.open_file(str(path)).read_all().to_pylist()]
    assert {row["utt_id"]: row["text"] for row in table} == read_table(mixed / "text")
    assert {row["utt_id"]: f"{row['duration']:.4f}" for row in table} == read_table(mixed / "utt2dur")
    assert table[13]["audio"] == (mixed.parents[1] / "audio/whole.flac").read_bytes()
    assert table[14]["audio"] == (mixed.parents[1] / "audio/whole.wav").read_bytes()
    assert [row["audio"][:4] for row in table[:12]] == [b"fLaC"] * 12 and table[15]["response"] is None
    assert all(row["input"] and row["prefix"] for row in table)


def test_the_number_of_jobs_decides_nothing_and_the_last_one_finishes(mixed, pack, packed, tmp_path):
    pack()
    alone = contents(packed)
    shutil.rmtree(packed)
    told = [pack(job, 4) for job in (3, 1, 4, 2)]
    assert "4 of 6 are still to be written" not in told[0] and "still to be written" in told[0]
    assert "complete" in told[-1] and not any("complete" in line for line in told[:-1])
    assert contents(packed) == alone
    assert "nothing to do, because" in pack(7, 9) and "work for 6 jobs" in pack(7, 9)


def test_a_kill_costs_a_shard_and_nothing_is_written_twice(mixed, pack, packed, monkeypatch):
    write, written = packing.write_shard, []

    def killed(path, *rest):
        written.append(path.name)
        if len(written) == 3:
            raise KeyboardInterrupt
        write(path, *rest)

    monkeypatch.setattr(packing, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        pack()
    assert len(dates(packed)) == 2 and not (packed / "packed.json").exists()
    with pytest.raises(DataError, match=r"packed: its packing is not complete; run the same command again"):
        PackedDir(packed)
    assert "4 written, 2 there already" in pack()
    before = dates(packed)
    assert "0 written, 6 there already" in pack() and dates(packed) == before


@pytest.mark.parametrize("keep", [0, 9, 0.5, -1])
def test_a_shard_that_was_cut_is_named_and_remade_alone(mixed, pack, packed, caplog, keep):
    pack()
    whole, before = contents(packed), dates(packed)
    victim = packed / "shards/shard-00002-of-00006.arrow"
    size = victim.stat().st_size
    os.truncate(victim, int(keep * size) if isinstance(keep, float) else keep % size)
    with pytest.raises(DataError, match=rf"shard-00002-of-00006.arrow: has \d+ bytes, and {size} were written"):
        PackedDir(packed)
    caplog.set_level("INFO")
    assert "1 written, 5 there already" in pack()
    assert "shard-00002-of-00006.arrow: is cut or damaged: it is made again" in caplog.text
    after = dates(packed)
    assert {name for name in after if after[name] != before[name]} == {victim.name} and contents(packed) == whole
    victim.unlink()
    with pytest.raises(DataError, match="shard-00002-of-00006.arrow: is not there; pack"):
        PackedDir(packed)
    assert "1 written" in pack() and contents(packed) == whole


def test_a_cut_index_is_named_and_written_again(mixed, pack, packed):
    pack()
    whole, before = contents(packed), dates(packed)
    os.truncate(packed / "index.arrow", 100)
    with pytest.raises(DataError, match="index.arrow: has 100 bytes"):
        PackedDir(packed)
    assert "0 written" in pack() and contents(packed) == whole and dates(packed) == before


CHANGES = {
    "text": (lambda d: edit(d / "text", "u01 a nurse", "u01 the nurse"), "text: has changed since", 1),
    "continuation": (lambda d: edit(d / "continuation", 'u01 "the pilot', 'u01 "a pilot'),
                     "continuation: has changed", 1),
    "no continuations": (lambda d: (d / "continuation").unlink(), "continuation: is not there any more", 6),
    "utt2dur": (lambda d: edit(d / "utt2dur", "u02 0.8333", "u02 0.8334"), "utt2dur: has changed", 1),
    "segments": (lambda d: edit(d / "segments", "u02 long 2.100", "u02 long 2.101"), "segments: has changed", 1),
    "wav.scp": (lambda d: edit(d / "wav.scp", "whole.flac", "./whole.flac"), "wav.scp: has changed", 1),
    "side table": (lambda d: edit(d / "utt2domain", "u02 a", "u02 b"), "utt2domain: has changed", 0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_table_is_refused_by_name_and_remakes_what_it_concerns(mixed, pack, packed, prompt, tiny_llm, name):
    change, message, remade = CHANGES[name]
    pack()
    PackedDir(packed).check(prompt, tiny_llm)
    change(mixed)
    with pytest.raises(DataError, match=f"{mixed}/{message}") as error:
        PackedDir(packed).check(prompt, tiny_llm)
    assert f"`utils/data_dir.sh pack --llm {tiny_llm} {mixed} {packed}`" in str(error.value)
    assert f"{remade} written" in pack()
    PackedDir(packed).check(prompt, tiny_llm)
    if name == "side table":
        assert read_table(packed / "utt2domain")["u02"] == "b"


def test_a_table_written_again_with_the_same_lines_is_no_change(mixed, pack, packed, prompt, tiny_llm):
    pack()
    (mixed / "text").write_bytes((mixed / "text").read_bytes())
    os.utime(mixed / "continuation", (1, 1))
    PackedDir(packed).check(prompt, tiny_llm)


def test_a_recording_that_changes_remakes_its_shards(mixed, pack, packed):
    pack()
    os.utime(mixed.parents[1] / "audio/whole.flac", (1, 1))
    assert "1 written" in pack()


def test_another_prompt_is_refused_with_and_without_the_source(mixed, pack, packed, prompt, tiny_llm, tmp_path):
    pack()
    other = Prompt(prompt.tokenizer, replace(prompt.config, instruction="Go on:", separator=" "))
    for _ in range(2):
        with pytest.raises(DataError, match="packed: was packed with another prompt .instruction was 'Continue:' and "
                                            "is now 'Go on:'; separator was"):
            PackedDir(packed).check(other, tiny_llm)
        if mixed.exists():
            mixed.rename(tmp_path / "away")


def test_another_tokenizer_is_refused_with_and_without_the_source(mixed, pack, packed, prompt, tiny_llm, tmp_path):
    pack()
    llm = shutil.copytree(tiny_llm, tmp_path / "llm")
    PackedDir(packed).check(Prompt(load_tokenizer(str(llm)), prompt.config), str(llm))  # a model may have moved
    rules = json.loads((llm / "tokenizer.json").read_text())
    rules["model"]["merges"] = rules["model"]["merges"][:-3]
    (llm / "tokenizer.json").write_text(json.dumps(rules))
    other = Prompt(load_tokenizer(str(llm)), prompt.config)
    assert AutoTokenizer.from_pretrained(llm).get_vocab() == prompt.tokenizer.get_vocab()
    for _ in range(2):
        with pytest.raises(DataError, match=f"packed with the tokenizer of {tiny_llm}, and that of {llm} is another"):
            PackedDir(packed).check(other, str(llm))
        if mixed.exists():
            mixed.rename(tmp_path / "away")


def test_what_a_call_leaves_in_a_tokenizer_is_none_of_its_rules(prompt, tiny_llm):
    tokenizer = load_tokenizer(tiny_llm)
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(tokenizer) == tokenizer_digest(prompt.tokenizer)
    tokenizer.chat_template += " "
    assert tokenizer_digest(tokenizer) != tokenizer_digest(prompt.tokenizer)


def test_audio_that_cannot_be_used_is_listed_and_nothing_of_its_shard_stays(mixed, pack, packed):
    (mixed.parents[1] / "audio/whole.flac").write_bytes(b"fLaC, but no more")
    with pytest.raises(DataError, match=r"(?s)1 utterances of shard-0000\d-of-0000\d.arrow cannot be packed:.  u13: "
                                        r".*whole.flac.*fix_data_dir.sh"):
        pack()
    assert not (packed / "packed.json").exists() and not list(packed.rglob("*.tmp-*"))


def test_commands_in_wav_scp_are_refused_with_the_remedy(mixed, pack):
    edit(mixed / "wav.scp", str(mixed.parents[1] / "audio/whole.wav"), "cat whole.wav |")
    with pytest.raises(DataError, match="wav.scp: 1 entries are commands, .*--allow_pipes true"):
        pack()


def test_places_that_are_something_else_are_left_alone(mixed, pack, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    with pytest.raises(DataError, match="mine: exists and is no packed directory"):
        pack(packed=tmp_path / "mine")
    with pytest.raises(DataError, match="is the data directory itself"):
        pack(packed=mixed)


def test_without_continuations_only_an_alignment_can_use_it(mixed, pack, packed):
    (mixed / "continuation").unlink()
    pack()
    data = PackedDir(packed)
    assert len(data.select(DataConfig(), False).examples) == 16
    with pytest.raises(DataError, match="was packed without continuations; write them .stage 2., then pack it again"):
        data.select(DataConfig(), True)


def test_without_pyarrow_one_message_says_what_to_install(mixed, pack, packed, monkeypatch):
    pack()
    found = builtins.__import__

    def missing(name, *rest, **more):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return found(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    for act in pack, lambda: PackedDir(packed):
        with pytest.raises(DataError, match=r"need pyarrow: pip install 'blspkd\[pack\]'"):
            act()


def test_the_command_packs_in_jobs_and_says_what_is_wrong(mixed, packed, tiny_llm, capsys):
    words = ["pack", str(mixed), str(packed), "--llm", tiny_llm, "--num_jobs", "2"]
    main([*words, "--job", "1"])
    assert f"{packed}: job 1 of 2: 1 shards, 1 written, 0 there already; complete" in capsys.readouterr().out
    main([*words, "--job", "2"])
    assert "nothing to do" in capsys.readouterr().out
    assert PackedDir(packed).settings["prompt"]["instructions"]
    info = json.loads((mixed / "continuation.info.json").read_text())
    (mixed / "continuation.info.json").write_text(json.dumps(info | {"counts": {}, "filtered": {}}))
    (mixed / "continuation").write_text("".join(open(mixed / "continuation").readlines()[:-2]))
    for wrong, message in ((["--job", "3"], "--job 3 --num_jobs 2: jobs"), ([], "continuation: lacks 3 utter"),
                           (["--llm", str(packed)], "config.json")):
        with pytest.raises(SystemExit):
            main([*words, *wrong])
        assert message in capsys.readouterr().err


def test_a_damaged_footer_is_found_by_opening(mixed, pack, packed):
    pack()
    victim = packed / "shards/shard-00001-of-00006.arrow"
    data = bytearray(victim.read_bytes())
    data[-200:-100] = bytes(100)
    victim.write_bytes(data)
    with pytest.raises(DataError, match="is cut or damaged"), open_shard(victim):
        pass
    assert "1 written" in pack()


def test_a_damaged_index_of_the_right_size_is_named_and_written_again(mixed, pack, packed):
    pack()
    whole, index = contents(packed), packed / "index.arrow"
    for place in (len(whole["index.arrow"]) // 2, -100):  # numbers that nobody could doubt, and the footer
        data = bytearray(whole["index.arrow"])
        data[place] ^= 0xff
        index.write_bytes(data)
        with pytest.raises(DataError, match="index.arrow: is damaged; pack the directory again"):
            PackedDir(packed)
        assert "0 written" in pack() and contents(packed) == whole


def test_damaged_tokens_are_named_and_their_shard_is_remade_alone(mixed, pack, packed, caplog):
    caplog.set_level("INFO")
    pack()
    whole, data = contents(packed), PackedDir(packed)
    for name, row in (("input", 6), ("response", 7)):
        victim = Path(data.shards[data.index.shard[row]])
        damaged = bytearray(victim.read_bytes())
        damaged[int(getattr(data.index, f"{name}_at")[row]) + 1] ^= 0x55
        victim.write_bytes(damaged)
        examples = PackedDir(packed).select(DataConfig(), with_continuations=True).examples
        with pytest.raises(DataError, match=rf"{victim}: .*u{row:02d}.* damaged; pack the directory again"):
            list(examples)
        if name == "input":
            with pytest.raises(DataError, match=f"{victim}: .* damaged; pack"):
                examples.token_counts()
        caplog.clear()
        assert "1 written" in pack() and contents(packed) == whole and f"{victim}: is cut or damaged" in caplog.text


@pytest.mark.parametrize("marker", ['{"format": 3}', '{"settings": {"format": 3}}', '{"settings": 3, "source": []}'])
def test_what_another_version_has_packed_is_refused(mixed, pack, packed, marker):
    pack()
    (packed / "packed.json").write_text(marker)
    with pytest.raises(DataError, match="was packed by another version .*: `utils/data_dir.sh pack --llm"):
        PackedDir(packed)
    assert "complete" in pack() and PackedDir(packed)


def test_a_data_directory_that_is_not_there_is_named(pack, tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/nothing: there is no such data directory"):
        pack(source=tmp_path / "nothing")
    assert not (tmp_path / "packed").exists()


def test_a_table_that_was_removed_leaves_no_copy(mixed, pack, packed):
    pack()
    (mixed / "utt2domain").unlink()
    assert "0 written" in pack() and not (packed / "utt2domain").exists() and (packed / "word_times").exists()
