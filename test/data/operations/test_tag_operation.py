"""The data operation `tags`: words of `utt2tags` in front of the instruction."""

import pytest

from blspkd.config import DataConfig, PromptConfig
from blspkd.data.examples import make_examples
from blspkd.data.operations import apply_operations, make_operations
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.data.tags import known_tags
from blspkd.errors import ConfigError, DataError
from blspkd.kaldi.data_dir import KaldiDir, read_continuations


@pytest.fixture
def prompt(tiny_llm):
    return Prompt(load_tokenizer(tiny_llm), PromptConfig(instructions={"Continue:": 1.0, "Go on:": 1.0}))


@pytest.fixture
def tag(data_dir, prompt):
    """tag(lines, *operations, max_tokens=None) -> the examples before and after, and the record."""
    data = KaldiDir.read(data_dir)
    before = make_examples(data, read_continuations(data.path / "continuation"), prompt, DataConfig()).examples

    def apply(line="style={} task=continue", *entries, max_tokens=None, edit=lambda lines: lines):
        lines = [f"{example.utt_id} {line.format(('words', 'digits')[number % 2])}\n"
                 for number, example in enumerate(before)]
        (data.path / "utt2tags").write_text("".join(edit(lines)))
        return (before, *apply_operations(list(entries), before, data, 0, prompt, max_tokens))
    return apply


TAGS = {"name": "tags", "order": ["task", "style"], "form": "natural"}


def test_every_example_gets_its_values_in_the_order_of_the_keys(tag, prompt):
    before, after, record = tag("style={} task=continue", TAGS)
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        style = ("words", "digits")[number % 2]
        instruction = f"continue {style} {prompt.instruction_of(old.utt_id)}"
        ids = prompt.split(prompt.tokenizer.decode(old.input), instruction)
        assert new.tags == (("task", "continue"), ("style", style)) and new.response is old.response
        assert [new.prefix.tolist(), new.input.tolist(), new.suffix.tolist()] == [ids.prefix, ids.input, ids.suffix]
    assert known_tags(after) == {"task": ["continue"], "style": ["digits", "words"]}
    report = record["operations"][0]["report"]
    assert sorted(map(len, report.values())) == [6, 6] and "task=continue style=digits" in report


def test_no_keys_leave_every_example_as_it_is_and_need_no_table(tag):
    before, after, record = tag("x", {"name": "tags", "order": []})
    assert after is before and known_tags(after) == {}
    assert record["examples"] == tag("x", {"name": "filter"})[2]["examples"]


def test_several_operations_put_their_tags_in_front_of_one_another(tag, prompt, data_dir):
    for_style = {"name": "tags", "order": ["style"]}
    _, after, _ = tag("style={} task=continue", for_style, {"name": "tags", "order": ["task"]})
    assert known_tags(after) == {"task": ["continue"], "style": ["digits", "words"]}
    assert "continue words" in prompt.tokenizer.decode(after[0].prefix)
    with pytest.raises(DataError, match="would get a second tag 'style'"):
        tag("style={}", for_style, for_style)


def test_examples_that_tags_make_too_long_are_left_out_and_told(tag):
    before, tagged, _ = tag("style={} task=continue", TAGS)
    longest = sorted(example.length for example in tagged)[6]
    _, after, record = tag("style={} task=continue", TAGS, max_tokens=longest)
    left_out = record["operations"][0]["report"][f"longer than {longest} LLM tokens"]
    assert left_out and all(example.length <= longest for example in after)
    assert {example.utt_id for example in after} | set(left_out) == {example.utt_id for example in before}
    assert record["operations"][0]["after"] == len(after)


@pytest.mark.parametrize(("edit", "message"), [
    (lambda lines: lines[:-1], "utt2tags: no line for utterance spk1-utt011"),
    (lambda lines: [lines[0].replace("task=continue", ""), *lines[1:]],
     "utt2tags:1: spk0-utt000: has no 'task'; every utterance needs task, style"),
    (lambda lines: [*lines[:2], lines[2].replace("style=", "style"), *lines[3:]],
     "utt2tags:3: spk0-utt004: 'stylewords' is not of the form key=value"),
    (lambda lines: [lines[0].replace("words", ""), *lines[1:]], "utt2tags:1: spk0-utt000: 'style=' is not of the"),
    (lambda lines: [lines[0].replace("task", "style"), *lines[1:]], "utt2tags:1: spk0-utt000: a key stands there"),
])
def test_a_table_that_is_not_in_order_is_named_with_its_line(tag, edit, message):
    with pytest.raises(DataError) as error:
        tag("style={} task=continue", TAGS, edit=edit)
    assert message in str(error.value)


@pytest.mark.parametrize(("options", "message"), [
    ({"form": "embedding"}, "form: 'embedding' is not one of natural"),
    ({"ordre": []}, "unknown key 'ordre'; did you mean 'order'"),
    ({"order": ["a", "a"]}, "order: ['a', 'a'] is no list of different keys"),
    ({"order": [1]}, "order: [1] is no list of different keys"),
    ({"table": "utt2/tags"}, "table: 'utt2/tags': tables of utterances"),
])
def test_options_that_cannot_be_are_told(options, message):
    with pytest.raises(ConfigError) as error:
        make_operations([{"name": "tags", **options}], "train.yaml")
    assert message in str(error.value)
