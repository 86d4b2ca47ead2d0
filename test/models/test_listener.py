"""What a listener takes for sound: arrays of every usual kind, at the rate that is told."""

import numpy as np
import pytest
import soxr
import torch
from tokenizers import AddedToken

from blspkd.config import ModelConfig, PromptConfig
from blspkd.data.features import FeatureExtractor
from blspkd.data.prompts import load_tokenizer
from blspkd.errors import AudioError, ConfigError
from blspkd.models.listener import GenerationOptions, Listener
from blspkd.models.speech_llm import SpeechLlm

SPEECH = (np.sin(np.arange(16000) / 7) * np.linspace(0, 0.5, 16000)).astype(np.float32)

OPTIONS = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}


@pytest.fixture(scope="module")
def listener(tiny_llm, tiny_encoder):
    torch.manual_seed(0)
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=OPTIONS,
                         pad_to_30s=False, attn_implementation="eager")
    model = SpeechLlm.from_config(config, PromptConfig("Continue:"))
    return Listener(model, load_tokenizer(tiny_llm), FeatureExtractor(tiny_encoder, pad_to_30s=False))


@pytest.mark.parametrize("samples", [(SPEECH * 2**15).round().astype(np.int16), torch.from_numpy(SPEECH)[None]],
                         ids=["int16", "tensor"])
def test_the_same_speech_gives_the_same_tokens(listener, samples):
    expected = listener.listen([SPEECH])[0]
    torch.testing.assert_close(listener.listen([samples])[0], expected, rtol=0, atol=0.05 * expected.abs().max().item())


def test_another_rate_is_converted(listener):
    slow = soxr.resample(SPEECH, 16000, 8000)
    expected = listener.listen([soxr.resample(slow, 8000, 16000)])[0]
    assert torch.equal(listener.listen([slow], sampling_rate=8000)[0], expected)
    replies = [listener.generate_from_speech([samples], ["Continue:"], GenerationOptions(max_new_tokens=3), **rate)
               for samples, rate in ((slow, {"sampling_rate": 8000}), (soxr.resample(slow, 8000, 16000), {}))]
    assert replies[0] == replies[1]


def test_a_bad_waveform_is_named_by_its_number(listener):
    bad = SPEECH.copy()
    bad[77] = np.nan
    with pytest.raises(AudioError, match="waveform 1 .*sample 77"):
        listener.generate_from_speech([SPEECH, bad], ["a", "b"])


def test_one_waveform_instead_of_a_list_is_explained(listener):
    with pytest.raises(AudioError, match="list of waveforms"):
        listener.listen(SPEECH)


def test_tokens_may_be_snapped_to_text_embeddings(listener):
    control = listener.prompt.control_ids
    assert len(control) >= len(listener.tokenizer.all_special_ids)
    text = [number for number in sorted(listener.tokenizer.get_vocab().values()) if number not in control]
    table = listener.model.embedding_table[text]
    [plain], [hard], [soft] = (listener.listen([SPEECH], snap=how) for how in ("none", "hard", "soft"))
    distances = torch.cdist(plain, table)
    assert torch.equal(hard, table[distances.argmin(1)]) and plain.shape == soft.shape
    assert bool(((soft - hard).norm(dim=1) <= (plain - hard).norm(dim=1) + 1e-6).all())


def test_a_model_that_was_trained_with_snapped_tokens_listens_so(listener, monkeypatch):
    [plain], [hard] = (listener.listen([SPEECH], snap=how) for how in ("none", "hard"))
    assert torch.equal(listener.listen([SPEECH])[0], plain)
    monkeypatch.setattr(listener.model.config, "snap", "hard")
    assert torch.equal(listener.listen([SPEECH])[0], hard) and not torch.equal(plain, hard)
    assert torch.equal(listener.listen([SPEECH], snap="none")[0], plain)


def test_tokens_are_snapped_to_no_control_token(tiny_llm, tiny_encoder):
    """Also to none that the tokenizer only knows as added and special."""
    tokenizer = load_tokenizer(tiny_llm)
    tokenizer.add_tokens([AddedToken("<file_sep>", special=True)])
    added = tokenizer.convert_tokens_to_ids("<file_sep>")
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=OPTIONS, pad_to_30s=False)
    model = SpeechLlm.from_config(config, PromptConfig("Continue:"))
    model.causal_lm.resize_token_embeddings(max(added + 1, len(model.embedding_table)))
    listener = Listener(model, tokenizer, FeatureExtractor(tiny_encoder, pad_to_30s=False))
    assert added not in tokenizer.all_special_ids and added in listener.prompt.control_ids
    table = model.embedding_table
    assert int(model.nearest(table[added:added + 1] * 0.99)[0]) != added
    [hard] = listener.listen([SPEECH], snap="hard")
    assert not (hard[:, None] == table[sorted(listener.prompt.control_ids)]).all(2).any()


def test_the_output_head_never_sees_a_slice(listener):
    """On a CPU a product of bfloat16 with the last positions of a batch copies the head for every row."""
    seen = []
    hook = listener.model.causal_lm.get_output_embeddings().register_forward_hook(
        lambda layer, inputs, output: seen.append(inputs[0].is_contiguous()))
    listener.generate_from_speech([SPEECH, SPEECH[:9000]], ["a", "bb"], GenerationOptions(max_new_tokens=2))
    hook.remove()
    assert seen and all(seen)


def test_an_oracle_tells_how_many_tokens_there_are(listener, tiny_llm, tiny_encoder):
    """Alone and in a batch, and told what the model would have said, nothing changes."""
    own = listener.listen([SPEECH, SPEECH[:9000]])
    counts = [len(tokens) for tokens in own]
    for told, expected in zip(listener.listen([SPEECH, SPEECH[:9000]], n_tokens=counts), own, strict=True):
        assert torch.equal(told, expected)
    told = listener.listen([SPEECH, SPEECH[:9000]], n_tokens=[7, 3], recount=-1)
    assert [len(tokens) for tokens in told] == [7, 3]
    torch.testing.assert_close(listener.listen([SPEECH[:9000]], n_tokens=[3])[0], told[1], rtol=1e-3, atol=1e-5)
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter="conv", pad_to_30s=False)
    conv = Listener(SpeechLlm.from_config(config, PromptConfig("Continue:")), load_tokenizer(tiny_llm),
                    FeatureExtractor(tiny_encoder, pad_to_30s=False))
    with pytest.raises(ConfigError, match="count: transcript: the tokens of adapter 'conv' stand for no text tokens"):
        conv.listen([SPEECH], n_tokens=[3])
