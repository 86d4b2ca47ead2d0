"""Tags as words in front of the instruction: what they look like, and which the training had."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blspkd.data.tags import check_tags, known_tags, tagged
from blspkd.errors import ConfigError

KNOWN = {"task": ["continue", "repeat"], "style": ["digits", "words"]}


@given(st.text())
def test_without_tags_the_instruction_is_as_it_was(instruction):
    assert tagged(instruction, []) == instruction


def test_values_stand_in_front_in_their_order():
    assert tagged("Continue:", ["continue", "en"]) == "continue en Continue:" and tagged("", ["good"]) == "good"


def test_the_training_s_tags_keep_the_order_of_the_prompt_though_some_examples_lack_one():
    tags = [(("style", "words"),), (("quality", "good"), ("style", "words")), (("quality", "bad"), ("style", "digits")),
            ()]
    known = known_tags(SimpleNamespace(tags=pairs) for pairs in tags)
    assert known == {"quality": ["bad", "good"], "style": ["digits", "words"]} and list(known) == ["quality", "style"]
    assert known_tags([SimpleNamespace(tags=())]) == {}


@pytest.mark.parametrize(("tags", "known", "message"), [
    ({"style": "roman"}, KNOWN, "tasks: qa: tags: style: 'roman' is none of the training's: digits, words"),
    ({"stile": "digits"}, KNOWN, "tasks: qa: tags: the training had no 'stile'; did you mean 'style'"),
    ({"style": "digits"}, {}, "tasks: qa: tags: style: the training of this model had no tags"),
])
def test_an_unknown_tag_is_an_error_that_names_the_known_ones(tags, known, message):
    with pytest.raises(ConfigError) as error:
        check_tags(tags, known, "tasks: qa")
    assert message in str(error.value)
    check_tags({"style": "words", "task": "repeat"}, KNOWN, "tasks: qa")
    check_tags({}, known, "tasks: qa")
