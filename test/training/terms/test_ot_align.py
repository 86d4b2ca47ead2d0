"""Transport between speech and text as a term: its formula, its controls, what it refuses."""

import numpy as np
import pytest
import torch

from blspkd.config import LossConfig, ModelConfig, TrainConfig
from blspkd.errors import ConfigError
from blspkd.training.run import resolved
from blspkd.training.terms.term import Step

NO_QUANTITY = {"quantity": {"weight": 0}}


def plain_wra(speech, text, beta=0.5, iterations=50):
    """UNITER's distance of one utterance, in numpy: speech [N, D], text [M, D]."""
    cost = np.array([[1 - s @ e / np.linalg.norm(s) / np.linalg.norm(e) for e in text] for s in speech])
    n, m = cost.shape
    plan, sigma = np.ones((n, m)), np.full(m, 1 / m)
    for _ in range(iterations):
        q = np.exp(-cost / beta) * plan
        delta = 1 / (n * (q @ sigma))
        sigma = 1 / (m * (q.T @ delta))
        plan = delta[:, None] * q * sigma
    return (plan * cost).sum(), cost


def rows_of(points, lengths):
    return [row[:n].detach().double().numpy() for row, n in zip(points, lengths.tolist(), strict=True)]


def term_of(objective, batch, adapter="conv", name="ot_align", **options):
    model = objective({name: options, **NO_QUANTITY}, adapter).eval()
    step = Step(model.speech_llm, batch)
    return model.terms[name](step), step


def embeddings(step, texts):
    table = step.model.embedding_table.detach().double().numpy()
    return [table[ids] for ids in texts]


@pytest.mark.parametrize("adapter", ["conv", "cformer"])
def test_it_is_uniter_s_formula_summed_over_utterances(objective, batch_of, adapter):
    batch = batch_of(0, 1, 2, 5)
    own, others = ([getattr(example, name) for example in batch.examples] for name in ("input", "negative"))
    found, step = term_of(objective, batch, adapter)
    speech = rows_of(step.speech.tokens, step.speech.n_tokens)
    wanted = [sum(plain_wra(s, e)[0] for s, e in zip(speech, embeddings(step, texts), strict=True))
              for texts in (own, others)]
    assert found.loss.item() == pytest.approx(wanted[0], rel=1e-5) and found.details[0] == 0
    for options, value in (({"shuffled": True}, wanted[1]), ({"negatives": True}, (wanted[0] - wanted[1]) / 2)):
        assert term_of(objective, batch, adapter, **options)[0].loss.item() == pytest.approx(value, rel=1e-4, abs=1e-5)


def test_where_tokens_are_aligned_the_plan_costs_no_more_than_the_diagonal(objective, batch_of):
    batch = batch_of(0, 1, 2, 5)
    found, step = term_of(objective, batch, "cformer")
    texts = embeddings(step, [example.input for example in batch.examples])
    diagonal = sum(np.diagonal(plain_wra(s, e)[1]).mean() for s, e in
                   zip(rows_of(step.speech.tokens, step.speech.n_tokens), texts, strict=True))
    assert found.loss.item() <= diagonal + 4 * 3e-3


def test_without_another_text_an_utterance_is_left_out_and_counted(objective, batch_of):
    texts = [[7, 8], None, [9], None]
    batch, alone = batch_of(0, 1, 2, 3, negatives=texts), batch_of(0, 2, negatives=[[7, 8], [9]])
    found, wanted = (term_of(objective, b, shuffled=True)[0] for b in (batch, alone))
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5)
    assert [t.details[0].item() for t in (found, wanted)] == [2, 0]
    none = term_of(objective, batch_of(0, 1, negatives=[None, None]), shuffled=True)[0]
    none.loss.backward()
    assert none.loss.item() == 0 and none.details[0] == 2
    both = term_of(objective, batch, negatives=True)[0].loss.item()
    own = term_of(objective, batch)[0].loss.item()
    assert both == pytest.approx((own - wanted.loss.item()) / 2, rel=1e-4, abs=1e-6)


def test_the_order_of_the_text_counts_only_with_positions_and_their_weight_multiplies(objective, batch_of):
    forward = batch_of(1, 2)
    turned = batch_of(1, 2, inputs=[example.input[::-1].copy() for example in forward.examples])
    options = {"method": "sinkhorn", "iterations": 60}
    same = [term_of(objective, b, **options)[0].loss.item() for b in (forward, turned)]
    assert same[0] == pytest.approx(same[1], rel=1e-5)
    weights = (0.0, 0.01, 1.0)
    values = [term_of(objective, forward, positions=weight, **options)[0].loss.item() for weight in weights]
    assert len({round(value, 6) for value in values}) == 3  # 0.01 is not 1


def test_texts_are_the_states_behind_a_layer_of_the_frozen_llm_read_alone(objective, batch_of):
    batch = batch_of(0, 1, 2)
    for model in ({}, {"plora_rank": 2}, {"plora_rank": 2, "plora_positions": "all"}):
        built = objective({"ot_align": {"layers": 1}, **NO_QUANTITY}, **model).eval()
        llm = built.speech_llm
        with torch.no_grad():
            for name, p in llm.llm.named_parameters():
                if "lora_B" in name:
                    p.normal_()
        term = built.terms["ot_align"]
        found = term._text(llm, Step(llm, batch).input_ids, batch.n_tokens)
        base = objective({}).speech_llm.causal_lm.base_model
        for row, example in zip(found, batch.examples, strict=True):
            ids = torch.from_numpy(example.input).long()[None]
            wanted = base(ids, output_hidden_states=True).hidden_states[1][0]
            torch.testing.assert_close(row[:len(wanted)], wanted, rtol=1e-4, atol=1e-5)
        assert not found.requires_grad
    with pytest.raises(ConfigError, match="ot_align: layers: 3, but the LLM has 2"):
        objective({"ot_align": {"layers": 3}})


@pytest.mark.parametrize("terms, model, loss, message", [
    ({"ot_align": {"negatives": True, "shuffled": True}}, {}, {}, "ot_align: negatives, shuffled: the control has no"),
    ({"ot_align": {"blurr": 1}}, {}, {}, "ot_align: unknown key 'blurr'; did you mean 'blur'"),
    ({"ot_align": {"blur": -1}}, {}, {}, "ot_align: blur: -1.0 is below 0"),
    ({"ot_align": {"method": "sinkhron"}}, {}, {}, "method: 'sinkhron' is not one of ipot, sinkhorn; did you mean"),
    ({"ot_align": {"speech": "frames"}}, {}, {}, "ot_align: teaches the frames of the speech encoder, which is frozen"),
    ({"encoder_ctc": {}}, {}, {}, "encoder_ctc: teaches the frames of the speech encoder, which is frozen; set model"),
    ({"encoder_ctc": {"haed": "x"}}, {}, {}, "encoder_ctc: unknown key 'haed'; did you mean 'head'"),
    ({"ot_align": {"layers": 1}}, {}, {"w_response_ce": 0}, "ot_align: needs the LLM, which does not run, for w_input"),
    ({"match": {}}, {}, {"w_response_ce": 0}, "match: needs the LLM, which does not run"),
    ({"match": {"wieght": 1}}, {}, {}, "match: unknown key 'wieght'; did you mean 'weight'"),
])
def test_what_does_not_fit_is_said_before_any_model_is_loaded(terms, model, loss, message):
    loss = LossConfig(**{"w_input": 0, "w_response": 0, "w_response_ce": 1.0, **loss}, terms=terms)
    with pytest.raises(ConfigError) as error:
        resolved(TrainConfig(model=ModelConfig(adapter="conv", **model), loss=loss), "train.yaml")
    assert message in str(error.value)


def test_it_can_teach_an_adapter_without_the_llm():
    loss = LossConfig(w_input=0, w_response=0, terms={"ot_align": {}})
    assert "ot_align" in resolved(TrainConfig(model=ModelConfig(adapter="conv"), loss=loss)).loss.terms
