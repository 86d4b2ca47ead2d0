"""When words are spoken, as CTC hears it (base/ctc_alignment.py, base/aligner.py)."""

import itertools
from pathlib import Path

import numpy as np
import torch

BASE = Path(__file__).resolve().parents[2] / "egs/mini/blspkd1/base"


def test_ctc_alignment_is_the_most_likely_of_all_paths(monkeypatch):
    monkeypatch.syspath_prepend(str(BASE))
    from blspkd.models.ctc_alignment import align

    random = np.random.default_rng(0)
    targets = [np.array(target) for target in ([1, 2], [1, 1], [2], [1, 2, 1], [2, 2, 2])]
    lengths = np.array([6, 5, 1, 4, 4])  # the last one does not fit: it takes five frames
    log_probs = np.log(random.dirichlet(np.ones(3), size=(5, 6))).astype(np.float32)
    spans = align(log_probs, lengths, targets)
    for row, (target, length) in enumerate(zip(targets, lengths, strict=True)):
        best, score = None, -np.inf
        for path in itertools.product(range(3), repeat=int(length)):
            runs = [(label, len(list(group))) for label, group in itertools.groupby(path)]
            total = sum(log_probs[row, frame, label] for frame, label in enumerate(path))
            if [label for label, _ in runs if label] == target.tolist() and total > score:
                best, score = runs, total
        expected, place = [], 0
        for label, size in best or []:
            if label:
                expected.append((place, place + size - 1))
            place += size
        assert np.isnan(spans[row, len(expected):]).all()
        assert spans[row, : len(expected)].tolist() == [list(span) for span in expected]


def test_ctc_says_which_frames_a_token_of_the_decoder_may_look_at(monkeypatch):
    monkeypatch.syspath_prepend(str(BASE))
    from recogniser_training import Targets, heard_places

    # "ab c": CTC spells it with three tokens, the decoder with two between its start and its end.
    log_probs = torch.full((1, 20, 4), -9.0)
    log_probs[..., 0] = -1.0
    for frame, label in ((6, 1), (7, 2), (15, 3), (16, 3)):
        log_probs[0, frame, label] = 0.0
    targets = Targets([torch.tensor([9, 5, 6, 8])], [], [np.array([0, 1, -1, -1])], [torch.tensor([1, 2, 3])],
                      [np.array([0, 0, 1])], [])
    places = heard_places(log_probs, torch.tensor([20]), targets, np.array([0]), torch.zeros(1, 8, 2))
    assert places[0, :2].tolist() == [[6 - 4, 7 + 1], [15 - 4, 16 + 1]] and places[0, 2:].isnan().all()


def test_words_are_cut_where_speech_is_weakest(monkeypatch):
    monkeypatch.syspath_prepend(str(BASE))
    from aligner import boundaries

    loudness = np.ones(100)
    loudness[40:43] = 0.0  # between the two words
    times = boundaries(np.array([[20.0, 32.0], [60.0, 62.0]]), loudness, frame_seconds=0.02)
    np.testing.assert_allclose(times[0], [0.0, 41 * 0.02])
    np.testing.assert_allclose(times[1], [41 * 0.02, (62 + 12.5) * 0.02])  # 0.25 s behind what was heard, at most
    times = boundaries(np.array([[80.0, 80.0], [81.0, 81.0]]), loudness, frame_seconds=0.02)
    np.testing.assert_allclose(times, [[60 * 0.02, 81 * 0.02], [81 * 0.02, 93.5 * 0.02]])
