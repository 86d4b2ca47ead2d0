"""Transcripts that say nearly the same as one before them: Jaccard similarity of their word 5-grams.

The similarity is exact, and yet few pairs are looked at (the prefix filter of set-similarity joins, Bayardo et al.
2007): with the 5-grams of a text sorted from rare to frequent, two texts of similarity >= t have a 5-gram in common
among the first n - ceil(t n) + 1 of their n. Of ordinary texts these are 5-grams that occur nowhere else.
"""

from array import array
from collections.abc import Iterable, Mapping

import numpy as np

from blspkd.data.words import split_words, words

SIZE = 5  # words of a gram
_NOTHING = 0  # word number that fills a text of fewer words, which is a single gram


def near_duplicates(texts: Mapping[str, str], threshold: float) -> dict[str, str]:
    """{utterance: the one before it that says nearly the same} of `texts`, {utterance: transcript}.

    Texts are compared as words; one of fewer than 5 words has a single gram, itself. An utterance is only compared with
    those that are no duplicates themselves, so that of the others no two are similar. threshold: from above 0 to 1.
    """
    ids = list(texts)
    ranks, starts = ranked_grams(texts.values())
    if not len(ranks):
        return {}
    sizes = np.diff(starts)  # [N] grams of each text
    needed = np.ceil(threshold * sizes - 1e-9).astype(np.int64)  # that both have, whatever the other's size
    prefixes = sizes - needed + 1
    places = np.arange(len(ranks)) - np.repeat(starts[:-1], sizes)  # of a gram in its text
    in_prefix = places < np.repeat(prefixes, sizes)
    texts_of_gram = np.bincount(ranks[in_prefix], minlength=int(ranks.max()) + 1)
    shared = in_prefix & (texts_of_gram[ranks] > 1)  # a gram that no other text looks at finds nobody
    first = np.concatenate([[0], np.cumsum(shared)])  # [G + 1]
    index: dict[int, array] = {}  # gram -> texts that keep it in their prefix, and are no duplicates
    found: dict[str, str] = {}
    for number in np.flatnonzero(first[starts[1:]] > first[starts[:-1]]):
        row = slice(starts[number], starts[number + 1])
        probes = ranks[row][shared[row]].tolist()
        candidates = sorted({other for gram in probes for other in index.get(gram, ())})
        other = _similar(number, candidates, ranks, starts, threshold)
        if other is None:
            for gram in probes:
                index.setdefault(gram, array("I")).append(number)
        else:
            found[ids[number]] = ids[other]
    return found


def _similar(number: int, candidates: Iterable[int], ranks: np.ndarray, starts: np.ndarray, threshold: float
             ) -> int | None:
    """The first of the candidates whose similarity with text `number` is `threshold` or more."""
    own: set[int] | None = None
    size = int(starts[number + 1] - starts[number])
    for other in candidates:
        length = int(starts[other + 1] - starts[other])
        if min(size, length) < threshold * max(size, length) - 1e-9:  # even if one held the other
            continue
        own = own or set(ranks[starts[number]:starts[number + 1]].tolist())
        common = len(own.intersection(ranks[starts[other]:starts[other + 1]].tolist()))
        if common / (size + length - common) >= threshold:
            return other
    return None


def ranked_grams(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """The different grams of each text, numbered from rare to frequent and sorted by number.

    Returns them one text after the other [G], and where each text begins [N + 1].
    """
    numbers: dict[str, int] = {}
    flat, lengths = array("q"), array("q")
    for text in texts:
        said = [numbers.setdefault(word, len(numbers) + 1) for word in split_words(words(text))]
        said += [_NOTHING] * (SIZE - len(said))
        flat.extend(said)
        lengths.append(len(said))
    if not lengths:
        return np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    tokens, sizes = np.frombuffer(flat, dtype=np.int64), np.frombuffer(lengths, dtype=np.int64)
    grams = tokens
    for word in range(1, SIZE):  # a gram of k + 1 words is a pair: the number of its first k, and a word
        pairs = grams[:-1] * (len(numbers) + 1) + tokens[word:]
        grams = np.unique(pairs, return_inverse=True)[1]
    ends = np.cumsum(sizes)
    text_of = np.repeat(np.arange(len(sizes)), sizes)
    text_of = text_of[:len(grams)][text_of[:len(grams)] == text_of[SIZE - 1:]]  # not across the end of a text
    whole = np.ones(len(grams), dtype=bool)
    for word in range(1, SIZE):  # grams that begin in the last 4 words of a text
        last = ends - word
        whole[last[last < len(grams)]] = False
    grams = grams[whole]
    frequency = np.bincount(grams)
    rank = np.empty_like(frequency)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(frequency))
    keys = np.sort(text_of * len(frequency) + rank[grams])  # by text, then from rare to frequent
    keys = keys[np.diff(keys, prepend=-1) > 0]  # each gram of a text once
    starts = np.searchsorted(keys, np.arange(len(sizes) + 1) * len(frequency))
    return keys % len(frequency), starts


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of two texts' 5-grams, from 0 to 1."""
    first, second = (grams(text) for text in (one, other))
    return len(first & second) / len(first | second)


def grams(text: str) -> set[tuple[str, ...]]:
    """The different 5-grams of a text; of one of fewer words, all of them as one."""
    said = split_words(words(text))
    return {tuple(said[place:place + SIZE]) for place in range(max(1, len(said) - SIZE + 1))}
