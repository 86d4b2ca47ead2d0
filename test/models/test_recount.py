"""The number of tokens by how sure the tokens are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.config import ModelConfig, PromptConfig
from blspkd.data.prompts import load_tokenizer
from blspkd.errors import ConfigError
from blspkd.models.count_posterior import log_count_posterior
from blspkd.models.listener import Listener
from blspkd.models.nearest import nearest
from blspkd.models.recount import COST, recount
from blspkd.models.rescore import log_p_text
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.speech_tokens import SpeechTokens

TABLE = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
MEAN_SQUARE = float(TABLE.pow(2).mean())


def nearest_of_table(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return nearest(tokens, TABLE, MEAN_SQUARE)


def certainty(tokens: torch.Tensor) -> float:
    """From the formula: mean log of the nearest embedding's share."""
    shares = []
    for token in tokens.double():
        weights = (-(TABLE.double() - token).pow(2).sum(1) / (0.1 * 6 * MEAN_SQUARE)).exp()
        shares.append(float((weights.max() / weights.sum()).log()))
    return sum(shares) / len(shares)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2), st.integers(0, 1000))
def test_it_is_the_surest_number_within_reach(counted, reach, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = {(row, n): torch.randn(n, 6, generator=generator) for row in range(len(counted)) for n in range(1, 9)}

    def tokens_of(numbers):
        rows = [drawn[row, n] for row, n in enumerate(numbers.tolist())]
        return SpeechTokens(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), numbers, numbers)

    found = recount(tokens_of, tokens_of(torch.tensor(counted)), reach, nearest_of_table)
    for row, (n, own) in enumerate(zip(found.n_tokens.tolist(), counted, strict=True)):
        scores = {change: certainty(drawn[row, max(1, own + change)]) - COST * abs(change)
                  for change in range(-reach, reach + 1)}
        best = max(scores.values())
        assert n >= 1 and abs(n - own) <= reach
        of_found = max(score for change, score in scores.items() if max(1, own + change) == n)
        assert of_found == pytest.approx(best, abs=1e-3)


def test_one_too_many_and_one_too_few_are_mended():
    """Tokens of the right number are text embeddings; of another one, blends of neighbours."""
    words = TABLE[:8]

    def tokens_of(numbers):
        rows = []
        for right, n in zip((5, 7), numbers.tolist(), strict=True):
            places = torch.linspace(0, right - 1, n)
            low = places.floor().long()
            rows.append(torch.lerp(words[low], words[(low + 1).clamp(max=right - 1)], (places - low)[:, None]))
        return SpeechTokens(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), numbers, numbers)

    for counted in ([6, 6], [5, 7]):
        found = recount(tokens_of, tokens_of(torch.tensor(counted)), 1, nearest_of_table)
        assert found.n_tokens.tolist() == found.n_predicted.tolist() == [5, 7] and found.tokens.shape == (2, 7, 6)
    assert recount(tokens_of, tokens_of(torch.tensor([6, 6])), 0, nearest_of_table).n_tokens.tolist() == [6, 6]


def test_a_model_recounts_where_nobody_tells_the_number(tiny_llm, tiny_encoder, monkeypatch):
    monkeypatch.setattr("blspkd.models.recount.COST", 0.0)
    torch.manual_seed(0)
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, pad_to_30s=False, recount=2, adapter_options={
        "num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32})
    model = SpeechLlm.from_config(config, PromptConfig("Continue:"))
    frames, lengths = torch.randn(3, 30, model.adapter.to_alpha.in_features), torch.tensor([30, 24, 30])
    frames[1, 24:] = 0
    own = model.adapter(frames, lengths)
    expected = recount(lambda n: model.adapter(frames, lengths, n), own, 2, model.nearest).n_tokens
    speech = model.adapt(frames, lengths)
    assert speech.n_tokens.tolist() == speech.n_predicted.tolist() == expected.tolist() != own.n_tokens.tolist()
    torch.testing.assert_close(speech.tokens, model.adapter(frames, lengths, expected).tokens)
    assert model.adapt(frames, lengths, reach=0).n_tokens.tolist() == own.n_tokens.tolist()
    assert model.adapt(frames, lengths, own.n_tokens).n_tokens.tolist() == own.n_tokens.tolist()  # told in training
    with pytest.raises(ConfigError, match="recount: -1 is below 0"):
        ModelConfig(recount=-1)


@pytest.fixture
def listening(tiny_llm, tiny_encoder):
    """A model that knows its prompt's turn, and three recordings' frames."""
    torch.manual_seed(0)
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, pad_to_30s=False, recount=2, recount_by="llm",
                         plora_rank=2, adapter_options={"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2,
                                                        "ffn_dim": 32, "ctc_classes": 5})
    model = SpeechLlm.from_config(config, PromptConfig("Continue:")).eval()
    listener = Listener(model, load_tokenizer(tiny_llm), None)
    frames, lengths = torch.randn(3, 30, model.adapter.to_alpha.in_features), torch.tensor([30, 24, 30])
    frames[1, 24:] = 0
    return listener, frames, lengths


@torch.no_grad()
def test_log_p_of_a_text_is_the_llm_s_own(listening, monkeypatch):
    """From the logits of one sequence at a time; alone as among longer ones, whatever the chunks."""
    model = listening[0].model
    prefix, suffix = model.turn
    texts = [[20, 31, 9], [7], [40, 41, 42, 43, 44, 45]]
    for chunk in (1, 1 << 24):
        monkeypatch.setattr("blspkd.models.rescore.CHUNK", chunk)
        for text, found in zip(texts, log_p_text(model, texts).tolist(), strict=True):
            ids = torch.tensor([[*prefix, *text, suffix[0]]])
            with model.llm.disable_adapter():
                log_p = model.causal_lm(input_ids=ids).logits[0].double().log_softmax(-1)
            places = range(len(prefix), ids.shape[1])
            assert found == pytest.approx(sum(float(log_p[i - 1, ids[0, i]]) for i in places), rel=1e-5)
            assert len(places) == len(text) + 1


@pytest.mark.parametrize("weight", [0.0, 0.7, 1e6])
@torch.no_grad()
def test_the_llm_chooses_among_what_the_numbers_make_of_an_utterance(listening, weight):
    listener, frames, lengths = listening
    model = listener.model
    listener.decide_numbers(recount_weight=weight)
    own = model.adapter(frames, lengths)
    log_p = log_count_posterior(own.ctc_logits, lengths, 40)
    speech = model.adapt(frames, lengths)
    for row, length in enumerate(lengths.tolist()):
        scores = {}
        for change in sorted(range(-2, 3), key=abs):
            n = max(1, int(own.n_tokens[row]) + change)
            tokens = model.adapter(frames[row:row + 1, :length], lengths[row:row + 1], torch.tensor([n])).rows()
            text = log_p_text(model, [model.nearest(tokens)[0].tolist()])
            scores.setdefault(n, float(text + weight * log_p[row, n]))
        assert int(speech.n_tokens[row]) == max(scores, key=scores.get)
    told = model.adapt(frames, lengths, torch.tensor([2, 3, 4]))
    assert told.n_tokens.tolist() == [2, 3, 4]


def test_a_weight_needs_a_counter(tiny_llm, tiny_encoder):
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, pad_to_30s=False, recount=1,
                         adapter_options={"heads": 2, "ffn_dim": 32})
    listener = Listener(SpeechLlm.from_config(config, PromptConfig("Continue:")), load_tokenizer(tiny_llm), None)
    frames = torch.randn(1, 20, listener.model.adapter.to_alpha.in_features)
    listener.decide_numbers(recount_by="llm")
    with pytest.raises(ConfigError, match="recount_by: llm: the adapter has no token counter"), torch.no_grad():
        listener.model.adapt(frames, torch.tensor([20]))
    listener.decide_numbers(recount_weight=0.0)
    with torch.no_grad():
        assert listener.model.adapt(frames, torch.tensor([20])).n_tokens.min() >= 1
    with pytest.raises(ConfigError, match="recount_weight: -2 is below 0"):
        ModelConfig(recount_weight=-2)
