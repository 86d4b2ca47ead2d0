"""The token counter: CTC labels over few classes."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.models.adapters.adapter import Sides
from blspkd.models.adapters.cformer import CFormer
from blspkd.models.token_counter import SURE_BLANK, TokenCounter, count_labels, ctc_loss, token_classes


def collapsed(path: list[int]) -> list[int]:
    """What a CTC path says: repeats are one, blanks are none."""
    return [label for label, _ in itertools.groupby(path) if label]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=5))
def test_counts_the_labels_of_the_best_path(paths):
    longest = max(map(len, paths))
    logits = torch.randn(len(paths), longest, 4)
    for row, path in enumerate(paths):
        logits[row, torch.arange(len(path)), path] = 100.0
        logits[row, len(path):, 1 + row % 3] = 100.0  # padding says anything
    counted = count_labels(logits, torch.tensor([len(path) for path in paths]))
    assert counted.tolist() == [max(1, len(collapsed(path))) for path in paths]


def test_a_counter_that_does_not_know_which_token_it_is_counts_it_all_the_same():
    """Blank 0.5, and the rest shared by many labels: one token; a blank of 0.8 is none."""
    probabilities = torch.full((1, 6, 11), 0.02)
    probabilities[..., 0] = 0.8
    probabilities[0, 1] = torch.tensor([0.5, *[0.04] * 8, 0.06, 0.12])
    probabilities[0, 2] = torch.tensor([0.5, *[0.04] * 8, 0.06, 0.12])  # the same label: still one
    probabilities[0, 4] = torch.tensor([0.1, *[0.09] * 10])
    logits = probabilities.log()
    assert count_labels(logits, torch.tensor([6])).tolist() == [1]  # blank but for nothing; at least one
    assert count_labels(logits, torch.tensor([6]), 0.7).tolist() == [2]
    assert count_labels(logits, torch.tensor([4]), 0.7).tolist() == [1]


def test_loss_is_the_sum_over_all_alignments():
    """Against the definition: -log of the summed probability of every path that collapses to the labels."""
    torch.manual_seed(0)
    logits = torch.randn(1, 5, 4, dtype=torch.float64)
    ids = torch.tensor([7, 4, 4])  # classes 2, 2, 2 for 3 classes: only blanks keep them apart
    probabilities = logits[0].softmax(-1)
    wanted = token_classes(ids, 3).tolist()
    total = sum(torch.stack([probabilities[t, label] for t, label in enumerate(path)]).prod()
                for path in itertools.product(range(4), repeat=5) if collapsed(path) == wanted)
    loss = ctc_loss(logits, torch.tensor([5]), ids, torch.tensor([3]))
    torch.testing.assert_close(loss.double(), -total.log()[None] / 3, rtol=1e-5, atol=1e-6)


def test_more_tokens_than_frames_give_no_loss_and_no_gradient():
    logits = torch.randn(1, 2, 4, requires_grad=True)
    loss = ctc_loss(logits, torch.tensor([2]), torch.tensor([0, 1, 2]), torch.tensor([3]))
    loss.sum().backward()
    assert loss.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize("classes", [1, 509])
def test_classes_leave_room_for_the_blank(classes):
    found = token_classes(torch.arange(2000), classes)
    assert found.min() == 1 and found.max() == classes
    assert TokenCounter(8, classes)(torch.randn(2, 3, 8)).shape == (2, 3, classes + 1)


def test_the_mean_of_alpha_and_labels_is_rounded():
    torch.manual_seed(0)
    options = {"num_pre_cif_layers": 1, "num_post_cif_layers": 0, "heads": 2, "ffn_dim": 8, "ctc_classes": 5}
    adapters = {count: CFormer(CFormer.Options(**options, count=count), Sides(8, 6, 0.1)).eval()
                for count in ("alpha", "ctc", "both")}
    for adapter in adapters.values():
        adapter.load_state_dict(adapters["alpha"].state_dict())
    frames, lengths = torch.randn(7, 40, 8), torch.tensor([40, 33, 21, 17, 9, 4, 1])
    frames = frames * (torch.arange(40) < lengths[:, None])[..., None]
    with torch.no_grad():
        speech = {count: adapter(frames, lengths) for count, adapter in adapters.items()}
    labels = count_labels(speech["both"].ctc_logits, lengths, SURE_BLANK)
    expected = ((speech["both"].alpha.double().sum(1) + labels) / 2).round().clamp(min=1)
    assert speech["both"].n_tokens.tolist() == expected.tolist() != speech["alpha"].n_tokens.tolist()
    assert speech["both"].n_tokens.tolist() != speech["ctc"].n_tokens.tolist()
