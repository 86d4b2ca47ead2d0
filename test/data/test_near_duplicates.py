"""Near-duplicates: the same as by comparing every pair, in little time and memory."""

import random
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.data.near_duplicates import near_duplicates, similarity


def grams(text: str) -> set[tuple[str, ...]]:
    """Word 5-grams of a text in lower case without punctuation; a shorter one is its own."""
    said = text.split()
    return {tuple(said[i:i + 5]) for i in range(len(said) - 4)} or {tuple(said)}


def by_every_pair(texts: dict[str, str], threshold: float) -> dict[str, str]:
    """From the definition: compare with all that were kept before."""
    kept, found = [], {}
    for utt_id, text in texts.items():
        for other in kept:
            a, b = grams(text), grams(texts[other])
            if len(a & b) / len(a | b) >= threshold:
                found[utt_id] = other
                break
        else:
            kept.append(utt_id)
    return found


@settings(max_examples=150)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.3, 0.5, 0.85, 1.0]))
def test_the_same_as_by_every_pair(seed, threshold):
    draw = random.Random(seed)
    base = [" ".join(draw.choices("abcde"[:draw.randint(1, 5)], k=draw.randint(1, 40))) for _ in range(8)]

    def changed(text: str) -> str:
        said = text.split()
        for _ in range(draw.randint(0, 2)):
            said[draw.randrange(len(said))] = draw.choice("abcdef")
        return " ".join(said)

    texts = {f"u{i}": changed(draw.choice(base)) for i in range(30)}
    assert near_duplicates(texts, threshold) == by_every_pair(texts, threshold)


def test_similarity_by_hand():
    """11 words have 7 grams; another last word leaves 6 of them, of 8 together."""
    text = "one two three four five six seven eight nine ten eleven"
    assert similarity(text, text.replace("eleven", "twelve")) == 6 / 8
    assert similarity("a b c", "A, b c!") == 1 and similarity("a b c", "a b c d") == 0
    long = " ".join(map(str, range(100)))
    assert similarity(long, f"{long} x") == 96 / 97


def test_only_what_is_similar_enough_goes_and_the_first_stays():
    long = " ".join(map(str, range(50)))  # 46 grams; another last word: 45 of 47 = 0.957
    texts = {"a": long, "b": long.replace("49", "x"), "c": long, "d": "yes", "e": "Yes.", "f": "no", "g": "你好世界吗",
             "h": "你好世界吗"}
    assert near_duplicates(texts, 1.0) == {"c": "a", "e": "d", "h": "g"}
    assert near_duplicates(texts, 0.96) == {"c": "a", "e": "d", "h": "g"}
    assert near_duplicates(texts, 0.95) == {"b": "a", "c": "a", "e": "d", "h": "g"}
    assert near_duplicates({}, 0.85) == near_duplicates({"a": "one"}, 0.85) == {}


def test_what_is_similar_to_a_duplicate_alone_stays():
    """a ~ b, b ~ c, and not a ~ c: b goes, and c is compared with a only."""
    long = list(map(str, range(60)))
    a, b, c = (" ".join(long[first:first + 50]) for first in (0, 2, 4))
    assert near_duplicates({"a": a, "b": b, "c": c}, 0.9) == {"b": "a"}
    assert near_duplicates({"b": b, "c": c}, 0.9) == {"c": "b"}


@pytest.mark.parametrize("repeated", [False, True])
def test_memory_and_time_grow_with_the_number_of_texts(repeated):
    """Under 3 KB and 0.3 ms of a processor each, also where most say the same few words."""
    draw = random.Random(0)
    texts = {f"u{i}": " ".join(f"w{draw.randrange(3 if repeated else 2000)}"
                               for _ in range(draw.randint(1, 2) if repeated else draw.randint(3, 30)))
             for i in range(10000)}
    near_duplicates(dict(list(texts.items())[:10]), 0.85)  # what is loaded once
    start = time.process_time()
    found = near_duplicates(texts, 0.85)
    seconds = time.process_time() - start
    tracemalloc.start()
    near_duplicates(texts, 0.85)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == (10000 - 12 if repeated else len(found))
    assert peak < 3000 * len(texts) and seconds < 3e-4 * len(texts)
