"""Masked words: exactly their stretch of time, another choice every epoch, and the teacher sees all."""

from pathlib import Path

import numpy as np
import pytest
import torch

from blspkd.bin.train import main
from blspkd.config import DataConfig, PromptConfig
from blspkd.data.batching import collate
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.data.features import Augmenter, FeatureExtractor, Features
from blspkd.data.operations import apply_operations, make_operations
from blspkd.data.operations.mask_speech import WordMasking
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ConfigError, DataError
from blspkd.kaldi.data_dir import KaldiDir, read_continuations

OPTIONS = ["--pad_to_30s", "false", "--attn_implementation", "eager", "--adapter_options",
           "{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}", "--warmup_steps", "1",
           "--batch_utterances", "4", "--num_workers", "0", "--max_steps", "3", "--save_steps", "2"]
MASKS = [{"name": "mask_speech", "share": 0.4}]


@pytest.fixture
def timed(data_dir):
    """Word times: every word of an utterance takes a tenth of a second."""
    lines = []
    for utterance in KaldiDir.read(data_dir):
        lines += [f"{utterance.utt_id} {i / 10:.2f} {i / 10 + 0.1:.2f} {word}"
                  for i, word in enumerate(utterance.text.split())]
    (Path(data_dir) / "word_times").write_text("".join(f"{line}\n" for line in lines))
    return data_dir


@pytest.fixture
def datasets(timed, tiny_llm, tiny_encoder):
    """A dataset without masks and one with them, whose augmentation is `config`."""
    data = KaldiDir.read(timed)
    examples = make_examples(data, read_continuations(data.path / "continuation"),
                             Prompt(load_tokenizer(tiny_llm), PromptConfig("Continue:")), DataConfig()).examples
    masked, _ = apply_operations(MASKS, examples, data, 0)

    def build(augment=True, **config):
        extractor = FeatureExtractor(tiny_encoder, False)
        return [ExampleDataset(items, extractor, DataConfig(**config), 5, augment) for items in (examples, masked)]

    return build


@pytest.mark.parametrize("config", [{}, {"noise_snr_db": [0, 9], "time_masks": 1}, {"speed_factors": [0.8]},
                                    {"speed_factors": [1.25]}])
def test_exactly_the_frames_of_the_drawn_words_are_masked(datasets, config):
    plain, masked = datasets(**config)
    speed = config.get("speed_factors", [1.0])[0]
    seen = set()
    for key in ((0, 0), (1, 0), (2, 0), (0, 3), (0, 9)):
        before, after = plain[key].features.windows[0], masked[key].features.windows[0]
        words = masked.examples[key[1]].masking.draw(5, *key)
        frames = (torch.arange(len(before)).double() / 100 * speed)[:, None]  # seconds of the recording
        starts, ends = torch.from_numpy(words).unbind(1)
        inside = ((frames >= starts - 1e-9) & (frames < ends - 1e-9)).any(1)
        # a changed speed ends with a whole sample: which of two neighbours has its middle on the edge is a rounding
        clear = ((frames - torch.cat([starts, ends])).abs().amin(1) > 1e-4) | (speed == 1)
        assert torch.equal(after[~inside & clear], before[~inside & clear]) and clear.sum() > 0.9 * len(clear)
        inside &= clear
        assert inside.any() and torch.equal(after[inside], before.mean().expand_as(after[inside]))
        seen.add(tuple(words[:, 0]))
    assert len(seen) > 2  # another choice in another epoch


def test_windows_and_waveforms_are_masked_at_their_own_places():
    stretches = np.array([[0.05, 0.15], [0.30, 0.32]])
    for shape in ((20, 3), (20,)):
        windows = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(2)]
        augmenter = Augmenter(DataConfig(), 100.0)
        found = augmenter.mask(Features([w.clone() for w in windows], [20, 20]), stretches)
        for number, (window, frames) in enumerate(zip(windows, (range(5, 15), range(10, 12)), strict=True)):
            wanted = window.clone()
            wanted[list(frames)] = window.mean()
            assert torch.equal(found.windows[number], wanted)


def test_the_share_holds_on_average_and_is_never_off_by_a_word():
    words = np.array([[i, i + 1.0] for i in range(5)])
    drawn = [WordMasking(words, 0.15).draw(0, epoch, 0) for epoch in range(4000)]
    assert {len(found) for found in drawn} == {0, 1}
    assert np.mean([len(found) / 5 for found in drawn]) == pytest.approx(0.15, abs=0.01)
    starts = np.concatenate([found[:, 0] for found in drawn])
    assert np.allclose(np.bincount(starts.astype(int)) / len(starts), 0.2, atol=0.03)
    assert len(WordMasking(words, 1.0).draw(0, 0, 0)) == 5
    assert np.array_equal(WordMasking(words, 0.6).draw(1, 2, 3), WordMasking(words, 0.6).draw(1, 2, 3))


def test_the_teacher_sees_all_and_validation_is_not_masked(datasets):
    plain, masked = (collate([dataset[(0, i)] for i in range(4)]) for dataset in datasets())
    assert torch.equal(plain.sequences.ids, masked.sequences.ids) and not torch.equal(plain.features, masked.features)
    plain, masked = (collate([dataset[(0, i)] for i in range(4)]) for dataset in datasets(augment=False))
    assert torch.equal(plain.features, masked.features)


def train(folder, llm, encoder, output, *extra):
    main(["--llm", llm, "--speech_encoder", encoder, "--train_dir", folder, "--valid_dir", folder, "--output_dir",
          str(output), *OPTIONS, *extra])
    return (output / "model/adapter.safetensors").read_bytes()


def test_a_share_of_0_is_the_training_without_and_a_killed_one_resumes(timed, tiny_llm, tiny_encoder, tmp_path):
    runs = {share: train(timed, tiny_llm, tiny_encoder, tmp_path / str(share), "--operations",
                         f"[{{name: mask_speech, share: {share}}}]") for share in (0, 0.5)}
    assert runs[0] == train(timed, tiny_llm, tiny_encoder, tmp_path / "base") != runs[0.5]
    whole, halves = tmp_path / "0.5", tmp_path / "halves"
    halves.mkdir()
    for name in ("config.yaml", "operations.json", "checkpoint-2"):
        (halves / name).symlink_to(whole / name)
    assert train(timed, tiny_llm, tiny_encoder, halves, "--operations",
                 "[{name: mask_speech, share: 0.5}]") == runs[0.5]


def test_what_cannot_be_masked_is_said(timed, tiny_llm, tiny_encoder, tmp_path, capsys):
    with pytest.raises(ConfigError, match="mask_speech: share: is a share of the words, from 0 to 1, and not 15"):
        make_operations([{"name": "mask_speech", "share": 15}])
    with pytest.raises(SystemExit):
        train(timed, tiny_llm, tiny_encoder, tmp_path / "a", "--operations", str(MASKS), "--cache_encoder_frames",
              "true")
    assert "because of data.operations: mask_speech" in capsys.readouterr().err
    data = KaldiDir.read(timed)
    examples = make_examples(data, None, Prompt(load_tokenizer(tiny_llm), PromptConfig("")), DataConfig()).examples
    times = data.path / "word_times"
    times.write_text("".join(line for line in times.read_text().splitlines(keepends=True)
                             if not line.startswith("spk1-utt003 ")))
    with pytest.raises(DataError, match="nothing of 1 utterances: spk1-utt003; add their lines"):
        apply_operations(MASKS, examples, data, 0)
    times.unlink()
    with pytest.raises(DataError, match="word_times: not there; mask_speech needs to know"):
        apply_operations(MASKS, examples, data, 0)
