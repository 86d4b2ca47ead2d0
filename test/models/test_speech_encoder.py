"""Encoders: the padded regime is Hugging Face's, the trimmed one does not depend on batch mates."""

import numpy as np
import pytest
import torch
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperModel,
)

from blspkd.data.features import FeatureExtractor, pad_windows
from blspkd.errors import ModelError
from blspkd.models.speech_encoder import SpeechEncoder


def noises(*lengths):
    generator = np.random.default_rng(0)
    return [generator.standard_normal(n).astype(np.float32) * 0.1 for n in lengths]


@torch.no_grad()
def encode(encoder, extractor, waveforms):
    features = [extractor(waveform) for waveform in waveforms]
    return encoder(pad_windows([w for item in features for w in item.windows]),
                   torch.tensor([n for item in features for n in item.lengths]), [len(f.windows) for f in features])


def load(name, pad_to_30s):
    encoder = SpeechEncoder.from_pretrained(name, pad_to_30s, "eager", torch.float32).eval()
    return encoder, FeatureExtractor(name, pad_to_30s)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padded_whisper_equals_hugging_face_bit_for_bit(tiny_encoder, attention):
    encoder = SpeechEncoder.from_pretrained(tiny_encoder, True, attention, torch.float32).eval()
    extractor = FeatureExtractor(tiny_encoder, True)
    waveforms = noises(16000, 24321, 9000)
    frames, lengths = encode(encoder, extractor, waveforms)
    inputs = extractor.extractor(waveforms, sampling_rate=16000, return_tensors="pt")["input_features"]
    model = WhisperModel.from_pretrained(tiny_encoder, attn_implementation=attention).get_encoder().eval()
    expected = model(inputs).last_hidden_state
    assert lengths.tolist() == [50, 76, 28]
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(frames[row, :length], expected[row, :length])
        assert not frames[row, length:].any()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_trimmed_whisper_equals_its_layers_on_what_there_is(tiny_encoder, attention):
    """Hugging Face's own encoder, were its window as long as the utterance."""
    encoder = SpeechEncoder.from_pretrained(tiny_encoder, False, attention, torch.float32).eval()
    features = FeatureExtractor(tiny_encoder, False)(noises(16000)[0])
    model = WhisperModel.from_pretrained(tiny_encoder, attn_implementation=attention).get_encoder().eval()
    frames, lengths = encoder(pad_windows(features.windows), torch.tensor(features.lengths), [1])
    mel = features.windows[0][None, :features.lengths[0]].transpose(1, 2)
    positions = model.embed_positions
    positions.weight.data = positions.weight.data[:mel.shape[2] // 2]
    positions.num_embeddings = model.config.max_source_positions = mel.shape[2] // 2
    torch.testing.assert_close(frames, model(mel).last_hidden_state, atol=1e-5, rtol=1e-5)
    assert lengths.tolist() == [50]


@pytest.mark.parametrize("pad_to_30s", [True, False])
def test_alone_equals_in_a_batch(tiny_encoder, pad_to_30s):
    encoder, extractor = load(tiny_encoder, pad_to_30s)
    waveforms = noises(16000, 31000, 9000, 700)
    frames, lengths = encode(encoder, extractor, waveforms)
    for row, waveform in enumerate(waveforms):
        alone, length = encode(encoder, extractor, [waveform])
        assert length.tolist() == [lengths[row]]
        torch.testing.assert_close(frames[row, :lengths[row]], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pad_to_30s", [True, False])
def test_long_audio_is_encoded_in_windows_and_joined(tiny_encoder, pad_to_30s):
    encoder, extractor = load(tiny_encoder, pad_to_30s)
    long, short = noises(32000 * 2 + 16000, 8000)
    frames, lengths = encode(encoder, extractor, [long, short])
    assert lengths.tolist() == [250, 25]
    for window in range(3):
        piece, _ = encode(encoder, extractor, [long[window * 32000:(window + 1) * 32000]])
        start = window * 100
        torch.testing.assert_close(frames[0, start:start + piece.shape[1]], piece[0], atol=1e-5, rtol=1e-5)


WAVEFORM_MODELS = {"wav2vec2": (Wav2Vec2Config, Wav2Vec2Model), "hubert": (HubertConfig, HubertModel),
                   "wavlm": (WavLMConfig, WavLMModel)}


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("kind", WAVEFORM_MODELS)
def test_waveform_encoders_load_and_do_not_see_their_padding(tmp_path, kind, norm):
    config_class, model_class = WAVEFORM_MODELS[kind]
    torch.manual_seed(0)
    config = config_class(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                          conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2,
                          num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, feat_extract_norm=norm,
                          do_stable_layer_norm=norm == "layer", mask_time_prob=0.0)
    model_class(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path)
    encoder, extractor = load(str(tmp_path), pad_to_30s=True)
    waveforms = noises(4000, 2500, 3333)
    frames, lengths = encode(encoder, extractor, waveforms)
    assert encoder.width == 16
    for row, waveform in enumerate(waveforms):
        alone, length = encode(encoder, extractor, [waveform])
        assert lengths[row] == length[0]
        torch.testing.assert_close(frames[row, :length[0]], alone[0], atol=1e-5, rtol=1e-5)
        assert not frames[row, length[0]:].any()


@pytest.mark.parametrize("group", ["layer", "group"])
def test_first_centre_and_stride_say_what_a_frame_looks_at(group):
    config = Wav2Vec2Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                            conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
                            feat_extract_norm=group, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    encoder = SpeechEncoder(Wav2Vec2Model(config), False)
    samples = torch.zeros(1, 200, requires_grad=True)
    frames = encoder.encoder.feature_extractor.conv_layers[1].conv(
        encoder.encoder.feature_extractor.conv_layers[0].conv(samples[:, None]))
    for t in (0, 3):
        gradient, = torch.autograd.grad(frames[0, 0, t], samples, retain_graph=True)
        seen = gradient[0].nonzero().squeeze(1)
        assert (seen.min() + seen.max()) / 2 == encoder.first_centre + t * encoder.stride


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(ModelError, match="./nowhere"):
        SpeechEncoder.from_pretrained("./nowhere", True, "eager", torch.float32)


def test_a_text_model_is_refused(tiny_llm):
    with pytest.raises(ModelError, match="not a speech encoder"):
        SpeechEncoder.from_pretrained(tiny_llm, True, "eager", torch.float32)
