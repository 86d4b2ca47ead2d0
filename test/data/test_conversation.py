"""Conversations of several turns and recordings, as the LLM's own chat template has them."""

import importlib.util
from pathlib import Path

import pytest

from blspkd.config import PromptConfig
from blspkd.data.conversation import audios_of, ids_around_audios, read_messages
from blspkd.data.prompts import Prompt
from blspkd.errors import MessageError

_spec = importlib.util.spec_from_file_location("families", Path(__file__).parent.with_name("tokenizer_families.py"))
families = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(families)

AUDIO = {"type": "audio", "audio": b"..."}


@pytest.fixture(scope="module", params=families.FAMILIES)
def prompt(request) -> Prompt:
    return Prompt(families.build(request.param), PromptConfig("Continue:"))


def user(*parts) -> dict:
    return {"role": "user", "content": [{"type": "text", "text": part} if isinstance(part, str) else part
                                        for part in parts]}


def pieces_of(prompt: Prompt, *messages: dict) -> list[list[int]]:
    return ids_around_audios(prompt, read_messages(list(messages)))


def test_typed_turns_are_read_as_the_tokenizer_reads_the_rendering(prompt):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the farmer sold six bags?"},
                {"role": "assistant", "content": "fine"}, {"role": "user", "content": "we found two cats"}]
    rendered = prompt.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    [ids] = pieces_of(prompt, *messages)
    assert ids == prompt.tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_one_instruction_and_one_recording_are_laid_out_as_in_training(prompt):
    assert tuple(pieces_of(prompt, user("Translate:", AUDIO))) == prompt.around("Translate:")


def test_every_recording_stands_where_a_word_would(prompt):
    spoken = [user("Translate:", AUDIO, "and", AUDIO), {"role": "assistant", "content": "the house"},
              user(AUDIO, "Continue:")]
    typed = [{"role": "user", "content": "Translate:\na\nand\na"}, spoken[1],
             {"role": "user", "content": "a\nContinue:"}]
    pieces, [whole] = pieces_of(prompt, *spoken), pieces_of(prompt, *typed)
    assert len(pieces) == 4
    for piece in pieces:
        places = [start for start in range(len(whole)) if whole[start:start + len(piece)] == piece]
        assert places, "in order, with one or two tokens of the word between"
        assert places[0] <= 2 or piece is pieces[0]
        whole = whole[places[0] + len(piece):]
    assert not whole


def test_two_recordings_side_by_side_stay_two():
    prompt = Prompt(families.build("chatml"), PromptConfig("Continue:", separator=""))
    pieces = pieces_of(prompt, user(AUDIO, AUDIO, AUDIO))
    assert len(pieces) == 4 and not pieces[1] and not pieces[2]


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_what_a_text_spells_steers_nothing(prompt, role):
    def control(text: str) -> list[int]:
        messages = [{"role": "system", "content": "x"}, user("x", AUDIO), {"role": "assistant", "content": "x"},
                    user("x", AUDIO)]
        place = {"system": 0, "user": 1, "assistant": 2}[role]
        messages[place] = user(text, AUDIO) if role == "user" else {"role": role, "content": text}
        return [token for piece in pieces_of(prompt, *messages) for token in piece if token in prompt.control_ids]

    expected = control("x")
    assert [text for text in families.HOSTILE if control(text) != expected] == []


def test_a_system_message_of_the_training_stands_where_none_is_given():
    with_default = Prompt(families.build("chatml"), PromptConfig("Continue:", system="Be brief."))
    without = Prompt(families.build("chatml"), PromptConfig("Continue:"))
    system = {"role": "developer", "content": "Be brief."}
    assert pieces_of(with_default, user(AUDIO)) == pieces_of(without, system, user(AUDIO))
    other = {"role": "system", "content": "Be long."}
    assert pieces_of(with_default, other, user(AUDIO)) == pieces_of(without, other, user(AUDIO))


@pytest.mark.parametrize(("messages", "said"), [
    ([], "at least one"), ("hello", "at least one"), ([5], r"messages\[0\]: give"), ([{"role": "user"}], "content"),
    ([{"role": "tool", "content": "x"}], r"messages\[0\]: role: 'tool'"),
    ([{"role": ["user"], "content": "x"}], r"messages\[0\]: role"),
    ([user("x"), {"role": "assistant", "content": "y"}], r"messages\[1\]: the last message"),
    ([user("x"), {"role": "system", "content": "y"}, user("x")], r"messages\[1\]: a system message"),
    ([{"role": "user", "content": []}], "list of parts"), ([{"role": "user", "content": None}], "list of parts"),
    ([{"role": "user", "content": "  "}], "is empty"), ([user("x", {"type": "image_url"})], r"content\[1\].*image_url"),
    ([user({"type": "audio", "url": "https://x"})], "not opened"), ([user({"type": "text", "text": 3})], "not a text"),
    ([user("\ud800")], "surrogate"),
    ([user("x"), {"role": "assistant", "content": [AUDIO]}, user("x")], "only the user"),
    ([{"role": "user", "content": ["x"]}], r"content\[0\]"),
])
def test_what_is_no_conversation_is_told_by_its_place(messages, said):
    with pytest.raises(MessageError, match=said):
        read_messages(messages)


def test_a_template_that_refuses_a_conversation_is_quoted():
    tokenizer = families.build("chatml")
    tokenizer.chat_template = ("{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}"
                               + tokenizer.chat_template)
    prompt = Prompt(tokenizer, PromptConfig("Continue:"))
    with pytest.raises(MessageError, match="one turn only"):
        pieces_of(prompt, user("x"), {"role": "assistant", "content": "y"}, user("z"))


def test_recordings_keep_their_names_and_rates():
    audio, = audios_of(read_messages([user("x", {"type": "audio", "audio": [0.0], "rate": 8000})]))
    assert (audio.name, audio.rate) == ("messages[0].content[1]", 8000)
