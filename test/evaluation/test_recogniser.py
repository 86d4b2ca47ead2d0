"""Transcribing a data directory with tiny Hugging Face recognisers: what is written, and what a kill costs."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from blspkd.audio import samples as audio
from blspkd.bin import transcribe as command
from blspkd.config_file import from_dict
from blspkd.errors import ConfigError, DataError, ModelError
from blspkd.evaluation.decode_dir import CONTROL
from blspkd.evaluation.recogniser import Recogniser, transcribe_set
from blspkd.evaluation_config import TranscribeConfig
from blspkd.kaldi.data_dir import KaldiDir


@pytest.fixture(scope="module")
def whisper(tmp_path_factory, tiny_llm) -> str:
    """A random Whisper with a window of 2 s that writes up to 8 tokens."""
    folder = tmp_path_factory.mktemp("whisper")
    AutoTokenizer.from_pretrained(tiny_llm).save_pretrained(folder)
    torch.manual_seed(5)
    config = WhisperConfig(d_model=24, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                           decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=20,
                           max_source_positions=100, max_target_positions=16, vocab_size=400, pad_token_id=0,
                           bos_token_id=1, eos_token_id=4, decoder_start_token_id=1, suppress_tokens=None,
                           begin_suppress_tokens=None, init_std=0.5)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(decoder_start_token_id=1, pad_token_id=0, bos_token_id=1, eos_token_id=4,
                                               max_length=9, is_multilingual=False, return_timestamps=False,
                                               no_timestamps_token_id=3)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20, chunk_length=2).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def wav2vec(tmp_path_factory) -> str:
    """A random wav2vec 2.0 that spells in CTC."""
    folder = tmp_path_factory.mktemp("wav2vec")
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    torch.manual_seed(6)
    config = Wav2Vec2Config(vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                            intermediate_size=24, conv_dim=(8,) * 3, conv_kernel=(10, 8, 8), conv_stride=(5, 8, 8),
                            num_feat_extract_layers=3, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
                            pad_token_id=0, initializer_range=0.5)
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return str(folder)


def options(**values) -> TranscribeConfig:
    return TranscribeConfig(device="cpu", batch_size=3, part_size=4, **values)


def waveforms_of(data_dir) -> list[np.ndarray]:
    return [audio.load(utterance.audio) for utterance in KaldiDir.read(data_dir)]


@pytest.mark.parametrize("kind", ["whisper", "wav2vec"])
def test_transcripts_do_not_depend_on_batch_mates(kind, data_dir, request):
    recogniser = Recogniser(request.getfixturevalue(kind), options())
    waveforms = waveforms_of(data_dir)
    together = recogniser.transcribe(waveforms)
    assert together == [recogniser.transcribe([waveform])[0] for waveform in waveforms]
    assert any(together)


def test_whisper_writes_what_hugging_face_generates(whisper, data_dir):
    recogniser, waveform = Recogniser(whisper, options()), waveforms_of(data_dir)[0]
    features = WhisperFeatureExtractor.from_pretrained(whisper)(waveform, sampling_rate=16000, return_tensors="pt")
    ids = WhisperForConditionalGeneration.from_pretrained(whisper).generate(features["input_features"])
    assert recogniser.transcribe([waveform]) == [recogniser.tokenizer.decode(ids[0], skip_special_tokens=True).strip()]


def test_ctc_is_the_best_path(wav2vec, data_dir):
    recogniser, waveform = Recogniser(wav2vec, options()), waveforms_of(data_dir)[0]
    values = Wav2Vec2FeatureExtractor.from_pretrained(wav2vec)(waveform, sampling_rate=16000, return_tensors="pt")
    path = Wav2Vec2ForCTC.from_pretrained(wav2vec)(values["input_values"]).logits[0].argmax(-1)
    letters = [number for number in torch.unique_consecutive(path).tolist() if number != 0]
    spelt = "".join("<pad> <s> </s> <unk> | a b c d e f g h".split()[number] for number in letters)
    assert recogniser.transcribe([waveform]) == [spelt.replace("|", " ").strip()]


def test_longer_speech_is_cut_into_windows(whisper):
    recogniser = Recogniser(whisper, options())
    speech = np.random.default_rng(0).standard_normal(5 * 16000).astype(np.float32) * 0.1
    pieces = recogniser.transcribe([speech[:32000], speech[32000:64000], speech[64000:]])
    assert recogniser.transcribe([speech]) == [" ".join(piece for piece in pieces if piece)]


def test_files_are_written_once_and_found_again(whisper, data_dir, tmp_path):
    folder = tmp_path / "asr"
    assert transcribe_set(lambda: Recogniser(whisper, options()), "w", data_dir, folder, options())
    assert {path.name for path in folder.iterdir()} == {"text", "hyp.jsonl", "decode.json"}
    rows = [json.loads(line) for line in (folder / "hyp.jsonl").read_text().splitlines()]
    assert [row["utt_id"] for row in rows] == sorted(KaldiDir.read(data_dir).utterances)
    text = dict(line.partition(" ")[::2] for line in (folder / "text").read_text(encoding="utf-8").split("\n") if line)
    assert text == {row["utt_id"]: " ".join(CONTROL.sub(" ", row["hypothesis"]).split()) for row in rows}
    assert json.loads((folder / "decode.json").read_text())["fingerprint"]["recogniser"] == "w"
    assert not transcribe_set(None, "w", data_dir, folder, options())


def test_a_killed_run_goes_on(whisper, data_dir, tmp_path, monkeypatch):
    whole, parted, heard = tmp_path / "whole", tmp_path / "parted", []
    transcribe_set(lambda: Recogniser(whisper, options()), "w", data_dir, whole, options())
    real = Recogniser.transcribe

    def dying(self, waveforms):
        if len(heard) >= 4:
            raise KeyboardInterrupt
        heard.extend(waveforms)
        return real(self, waveforms)

    monkeypatch.setattr(Recogniser, "transcribe", dying)
    with pytest.raises(KeyboardInterrupt):
        transcribe_set(lambda: Recogniser(whisper, options()), "w", data_dir, parted, options())
    heard.clear()
    monkeypatch.setattr(Recogniser, "transcribe", lambda self, waves: (heard.extend(waves), real(self, waves))[1])
    assert (parted / "parts").is_dir() and not (parted / "text").exists()
    transcribe_set(lambda: Recogniser(whisper, options()), "w", data_dir, parted, options())
    assert 0 < len(heard) < 12
    assert (whole / "hyp.jsonl").read_text() == (parted / "hyp.jsonl").read_text()


def test_another_recogniser_or_other_options_are_noticed(whisper, data_dir, tmp_path):
    folder = tmp_path / "asr"
    transcribe_set(lambda: Recogniser(whisper, options()), "w", data_dir, folder, options())
    assert transcribe_set(lambda: Recogniser(whisper, options()), "other", data_dir, folder, options())
    assert transcribe_set(lambda: Recogniser(whisper, options()), "other", data_dir, folder, options(num_beams=2))


def test_a_folder_of_something_else_is_left_alone(whisper, data_dir, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="choose another folder"):
        transcribe_set(lambda: Recogniser(whisper, options()), "w", data_dir, tmp_path / "precious", options())
    assert (tmp_path / "precious" / "thesis.tex").exists()


def test_options_that_a_model_does_not_have_are_mistakes(whisper, tiny_llm):
    with pytest.raises(ConfigError, match="language: .* one language only"):
        Recogniser(whisper, options(language="en"))
    with pytest.raises(ConfigError, match="task"):
        from_dict(TranscribeConfig, {"task": "sing"})
    with pytest.raises(ModelError, match="cannot be loaded as a speech recogniser"):
        Recogniser(tiny_llm, options())


def test_the_command(whisper, data_dir, tmp_path, capsys):
    words = ["--recogniser", whisper, "--data_dir", data_dir, "--output_dir", str(tmp_path / "asr")]
    command.main([*words, "--device", "cpu", "--batch_size", "5"])
    assert len((tmp_path / "asr/text").read_text(encoding="utf-8").splitlines()) == 12
    with pytest.raises(SystemExit):
        command.main([*words, "--batch_sizes", "5"])
    assert "did you mean 'batch_size'" in capsys.readouterr().err
