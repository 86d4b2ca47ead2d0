"""The most likely CTC path with a given number of labels (that of a given text: test/egs/test_ctc_alignment.py)."""

import itertools

import numpy as np
import pytest
import torch

from blspkd.models.ctc_alignment import align_count, cuts_between
from blspkd.models.token_counter import count_labels


def spans_of(path):
    """First and last frame of every label of a path."""
    found, place = [], 0
    for label, group in itertools.groupby(path):
        size = len(list(group))
        if label:
            found.append([place, place + size - 1])
        place += size
    return found


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_most_likely_of_all_paths_with_so_many_labels(seed):
    generator = torch.Generator().manual_seed(seed)
    logits, lengths = torch.randn(8, 6, 3, generator=generator), torch.tensor([6, 6, 5, 4, 6, 1, 3, 2])
    counts = torch.tensor([1, 3, 2, 4, 5, 1, 2, 3])  # the last does not fit into two frames
    spans = align_count(logits, lengths, counts)
    for row, (length, n) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        log_p = logits[row].log_softmax(-1)
        paths = [path for path in itertools.product(range(3), repeat=length) if len(spans_of(path)) == n]
        best = max(paths, key=lambda path: sum(float(log_p[t, k]) for t, k in enumerate(path)), default=())
        assert np.isnan(spans[row, len(spans_of(best)):]).all()
        assert spans[row, :len(spans_of(best))].tolist() == spans_of(best)


def test_with_the_best_path_s_number_it_is_the_best_path():
    torch.manual_seed(0)
    logits, lengths = 3 * torch.randn(5, 60, 20), torch.tensor([60, 41, 33, 12, 5])
    counts = count_labels(logits, lengths)
    spans = align_count(logits, lengths, counts)
    for row, length in enumerate(lengths.tolist()):
        path = logits[row, :length].argmax(-1).tolist()
        assert spans[row, :int(counts[row])].tolist() == spans_of(path)


def test_stretches_are_cut_half_way_between_labels():
    spans = np.full((3, 3, 2), np.nan, dtype=np.float32)
    spans[0] = [[2, 3], [7, 7], [8, 9]]
    spans[1, :1] = [[4, 4]]
    cuts = cuts_between(spans, np.array([3, 1, 2]), np.array([12, 9, 7]))  # the third did not fit
    assert cuts.tolist() == [[5, 8, 12], [9, -1, -1], [-1, -1, -1]]
