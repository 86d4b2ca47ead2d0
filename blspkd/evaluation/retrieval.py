"""Retrieval between speech and text, without any LLM: R@1 of both directions over the utterances of a set.

An utterance is the mean of its speech tokens, with the number that the model decides on; a transcript is the mean of
its tokens' text embeddings. The nearest one has the largest cosine. A mean knows no order, so that transcripts of the
same tokens, and so above all equal ones, are one text: utterances that say it are right answers for each other.

Utterances are measured batch by batch, and a run may be killed in between. Until all are there, each row therefore
holds its two means (`pack`); `retrieve` puts in their place what the whole set says of them.
"""

import base64
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

POOLED = "pooled"  # key of a row that still has its means
BLOCK = 1024  # queries compared with everything at once


def means(vectors: Tensor, sizes: Sequence[int]) -> np.ndarray:
    """Vectors [sum of sizes, D], group after group -> means of the groups [B, D] in float32; 0 of an empty group."""
    groups = vectors.float().split(list(sizes))
    return torch.stack([group.sum(0) / max(1, len(group)) for group in groups]).cpu().numpy()


def first_is_right(queries: np.ndarray, items: np.ndarray, asked: Sequence, offered: Sequence) -> np.ndarray:
    """Whether the item of the largest cosine is one that is asked for: [Q] bool.

    queries: [Q, D]; items: [M, D]; asked: what each query stands for; offered: what each item stands for. The first of
    equally near items counts. Zeros have no direction: as a query they are never right, as an item never near.
    """
    items = _directions(items)
    somewhere = items.any(1)
    right: list[bool] = []
    for start in range(0, len(queries), BLOCK):
        block = _directions(queries[start:start + BLOCK])
        nearest = np.where(somewhere, block @ items.T, -np.inf).argmax(1)  # [Q] of [Q, M]
        right += [bool(query.any() and somewhere[place]) and offered[place] == what
                  for query, place, what in zip(block, nearest, asked[start:start + BLOCK], strict=True)]
    return np.array(right, dtype=bool)


def pack(speech: np.ndarray, text: np.ndarray, ids: Sequence[int]) -> dict:
    """The means [D] of an utterance and of its transcript, whose tokens are `ids`, as a row of JSON can hold them."""
    return {POOLED: {"speech": _encoded(speech), "text": _encoded(text), "tokens": sorted(map(int, ids))}}


def retrieve(rows: Sequence[dict]) -> list[dict]:
    """Rows of a whole set: `retrieves_text` and `is_retrieved` in the place of the means; none where all texts are one.

    retrieves_text: the nearest text of this speech is its own; is_retrieved: the nearest speech of this text says it.
    """
    said = [tuple(row[POOLED]["tokens"]) for row in rows]
    rest = [{key: value for key, value in row.items() if key != POOLED} for row in rows]
    texts: dict[tuple[int, ...], int] = {}  # each once, and where it first stands
    for place, what in enumerate(said):
        texts.setdefault(what, place)
    if len(texts) < 2:
        return rest
    speech, text = (np.stack([_decoded(row[POOLED][kind]) for row in rows]) for kind in ("speech", "text"))
    found = first_is_right(speech, text[list(texts.values())], said, list(texts))
    back = first_is_right(text[[texts[what] for what in said]], speech, said, said)
    return [{**row, "retrieves_text": bool(to_text), "is_retrieved": bool(to_speech)}
            for row, to_text, to_speech in zip(rest, found, back, strict=True)]


def _directions(vectors: np.ndarray) -> np.ndarray:
    """[n, D] of length 1, in float64; zeros stay."""
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _encoded(vector: np.ndarray) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def _decoded(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4")
