"""Text that comes in pieces."""

import importlib.util
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from blspkd.models.text_pieces import TextPieces

_spec = importlib.util.spec_from_file_location("families", Path(__file__).parent.with_name("tokenizer_families.py"))
families = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(families)


@pytest.fixture(scope="module")
def tokenizer(tiny_llm):
    return AutoTokenizer.from_pretrained(tiny_llm)


def tell(tokenizer, ids: list[int], stop=()) -> tuple[list[str], TextPieces]:
    pieces = TextPieces(tokenizer, stop)
    told = [pieces.add(token) for token in ids]
    return [*told, pieces.finish()], pieces


@given(text=st.text(max_size=40))
def test_pieces_add_up_to_the_text_and_are_whole_characters(tokenizer, text):
    text = text.encode("utf-8", "replace").decode()
    told, pieces = tell(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
    assert "".join(told) == pieces.text == text.strip()
    assert "\ufffd" not in "".join(told).replace("\ufffd", "", text.count("\ufffd"))


def test_bytes_that_are_no_characters_are_told_in_the_end(tokenizer):
    ids = [token for token in tokenizer("ä", add_special_tokens=False)["input_ids"]][:1]
    told, pieces = tell(tokenizer, ids * 3 + tokenizer("x", add_special_tokens=False)["input_ids"] + ids)
    assert pieces.text == tokenizer.decode(ids * 3 + tokenizer("x")["input_ids"] + ids)
    assert "".join(told) == pieces.text


def test_a_stop_text_ends_the_reply_where_it_begins(tokenizer):
    ids = tokenizer("the farmer sold six bags", add_special_tokens=False)["input_ids"]
    told, pieces = tell(tokenizer, ids, ["sold six"])
    assert pieces.stopped and "".join(told) == pieces.text == "the farmer"
    assert all("s" not in piece for piece in told), "nothing of the stop text was told"


@given(seed=st.integers(0, 1000))
def test_stop_texts_are_found_wherever_tokens_end(tokenizer, seed):
    draw = random.Random(seed)
    text = "".join(draw.choice("ab ") for _ in range(20)).strip()
    stop = ["".join(draw.choice("ab") for _ in range(draw.randint(1, 3))) for _ in range(2)]
    ids = [token for character in text for token in tokenizer(character, add_special_tokens=False)["input_ids"]]
    told, pieces = tell(tokenizer, ids, stop)
    read = next((text[:end] for end in range(len(text)) if any(one in text[:end] for one in stop)), text)
    places = [read.find(one) for one in stop if one in read]
    expected = read[:min(places)].rstrip() if places else text
    assert "".join(told) == pieces.text == expected


def test_white_space_around_a_reply_is_not_part_of_it(tokenizer):
    ids = tokenizer(" \n the bags \n", add_special_tokens=False)["input_ids"]
    told, _ = tell(tokenizer, ids)
    assert "".join(told) == "the bags"


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_familys_characters_come_whole(family):
    tokenizer = families.build(family)
    for text in ["日本日本日本日本 the farmer", "the 👨‍👩‍👧‍👦 family", "grüße an 東京 und Zürich", "aé" * 12]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        told, pieces = tell(tokenizer, ids)
        assert "".join(told) == pieces.text == tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()
        assert tell(tokenizer, ids, [text[-3:]])[1].stopped
