"""Matching: what the LLM reads, what is right, and what is left out."""

import pytest
import torch

from blspkd.training.terms.match import RIGHT, WRONG
from blspkd.training.terms.term import Step


@pytest.fixture
def matched(objective):
    def build(batch, **model):
        built = objective({"match": {}, "quantity": {"weight": 0}}, **model).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            built.terms["match"].head.weight.normal_()
        step = Step(built.speech_llm, batch)
        return built.terms["match"], step

    return build


@pytest.mark.parametrize("model", [{"adapter": "conv"}, {"adapter": "cformer", "plora_rank": 2},
                                   {"adapter": "conv", "share_prefix": False}])
def test_the_llm_reads_prefix_speech_and_text_and_the_last_state_is_judged(matched, batch_of, model):
    batch = batch_of(0, 1, 4)
    term, step = matched(batch, **model)
    found = term(step)
    llm, loss, right = step.model, 0.0, 0
    table = llm.causal_lm.get_input_embeddings()
    for row, example in enumerate(batch.examples):
        tokens = step.speech.tokens[row, :step.speech.n_tokens[row]]
        for text, label in ((example.input, RIGHT), (example.negative, WRONG)):
            read = torch.cat([table(torch.from_numpy(example.prefix).long()), tokens,
                              table(torch.from_numpy(text).long())])[None]
            state = llm.causal_lm.base_model(inputs_embeds=read).last_hidden_state[0, -1]  # PLoRA starts as nothing
            logits = term.head(state)
            loss += torch.nn.functional.cross_entropy(logits[None], torch.tensor([label])).item() / 2
            right += int(logits.argmax()) == label
    assert found.loss.item() == pytest.approx(loss, rel=1e-4)
    assert [value.item() for value in found.details] == [right / 2, 0]


def test_two_equal_texts_are_told_apart_by_nobody_and_swapped_labels_turn_the_accuracy(matched, batch_of):
    indices = (0, 1, 2, 3, 4, 5)
    plain = batch_of(*indices)
    own, others = ([getattr(example, name) for example in plain.examples] for name in ("input", "negative"))
    equal = batch_of(*indices, negatives=own)
    term, step = matched(equal)
    found = term(step)
    assert found.details[0].item() == 3  # of 6: exactly 50 %
    assert found.loss.item() >= 6 * torch.tensor(2.0).log().item() - 1e-4  # and no better than a guess
    swapped = batch_of(*indices, negatives=own, inputs=others)
    right = []
    for batch in (plain, swapped):
        term, step = matched(batch, adapter="conv")  # whose tokens do not depend on the transcript
        right.append(term(step).details[0].item())
    assert right[0] + right[1] == 6


def test_without_another_text_neither_pair_is_read(matched, batch_of):
    some = matched(batch_of(0, 1, 2, negatives=[[7, 8], None, [9]]))
    rest = matched(batch_of(0, 2, negatives=[[7, 8], [9]]))
    found, wanted = (term(step) for term, step in (some, rest))
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5)
    assert found.details[0] == wanted.details[0] and [f.details[1].item() for f in (found, wanted)] == [1, 0]
    term, step = matched(batch_of(0, negatives=[None]))
    nothing = term(step)
    nothing.loss.backward()
    assert nothing.loss.item() == 0 and [value.item() for value in nothing.details] == [0, 1]


def test_it_can_be_learnt(matched, batch_of):
    """A head and an adapter that see six pairs tell them apart after a few steps."""
    batch = batch_of(0, 1, 2, 3, 4, 5)
    term, step = matched(batch)
    frames = step.frames
    parameters = [*term.parameters(), *step.model.adapter.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(80):
        step = Step(step.model, batch)
        step.frames = frames
        found = term(step)
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
    assert found.details[0] >= 5.5 and found.loss.item() / 6 < 0.4
