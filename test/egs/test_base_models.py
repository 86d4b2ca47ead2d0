"""The base models that a recipe builds itself: what these scripts leave behind is a plain Hugging Face LLM and a plain
Whisper."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCausalLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
)

from blspkd.config import PromptConfig
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ConfigError
from blspkd.kaldi.tables import read_table
from blspkd.kaldi.word_times import Word, read_word_times

REPO = Path(__file__).resolve().parents[2]
BASE = REPO / "egs/mini/blspkd1/base"
PERSONS, VERBS, THINGS = ["anna", "the farmer", "peter"], ["sold", "bought", "saw"], ["bag", "car", "house", "tree"]
LLM_SIZE = ["--hidden_size", "32", "--num_layers", "1", "--num_heads", "2", "--ffn_size", "48", "--batch_size", "8",
            "--eval_rows", "6", "--save_steps", "4"]
RECOGNISER_SIZE = ["--width", "16", "--num_encoder_layers", "1", "--num_decoder_layers", "1", "--num_heads", "2",
                   "--ffn_size", "24", "--text_pieces", "20", "--mel_bins", "20", "--chunk_seconds", "2",
                   "--batch_size", "4", "--eval_utterances", "4", "--save_steps", "4", "--padded_share", "0.5"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A folder with the text (lm/) and speech (train/) of a very small world."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    sentences = [f"{p} {v} the {t}" for p in PERSONS for v in VERBS for t in THINGS]
    (folder / "lm").mkdir()
    for name, count in (("train", 80), ("dev", 12)):
        rows = []
        for number in range(count):
            text = str(random.choice(sentences))
            task, instruction, output = [("repeat", "Repeat it.", text), ("qa", "What was it?", text.split()[-1]),
                                         ("translate", "Say it in German.", "größe " + text[::-1]),
                                         ("continue", "Go on.", "and went home")][number % 4]
            rows.append({"task": task, "instruction": instruction, "input": text, "output": output})
        (folder / f"lm/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "train").mkdir()
    tables = {name: [] for name in ("wav.scp", "text", "utt2spk", "spk2utt", "word_times")}
    for number, text in enumerate(sentences[:16]):
        utt = f"speaker-{number:03d}"
        words = text.split()
        samples = np.concatenate([np.sin(np.arange(4000) * (0.1 + 0.02 * len(word))) * 0.3 for word in words])
        soundfile.write(folder / f"train/{utt}.wav", samples, 16000, subtype="PCM_16")
        tables["wav.scp"].append(f"{utt} {folder}/train/{utt}.wav")
        tables["text"].append(f"{utt} {text}")
        tables["utt2spk"].append(f"{utt} speaker")
        tables["word_times"] += [f"{utt} {i * 0.25:.4f} {(i + 1) * 0.25:.4f} {w}" for i, w in enumerate(words)]
    tables["spk2utt"] = ["speaker " + " ".join(row.split()[0] for row in tables["text"])]
    for name, rows in tables.items():
        (folder / "train" / name).write_text("".join(row + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def command(warm) -> Callable[..., subprocess.CompletedProcess]:
    """`command(["python", script], *options)`: with the warm Python."""
    path = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_HUB_OFFLINE": "1",
                   "PATH": os.pathsep.join([str(warm / "bin"), os.environ["PATH"]])}
    return lambda program, *options: subprocess.run([*program, *map(str, options)], env=environment, text=True,
                                                    capture_output=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def base_models(command, corpus) -> Callable[..., subprocess.CompletedProcess]:
    """`base_models(output_dir, *options)`: base_models.sh on the corpus."""
    return lambda output_dir, *options: command(
        [str(BASE / "base_models.sh")], "--lm_dir", corpus / "lm", "--train_dirs", corpus / "train", "--dev_dirs",
        corpus / "train", "--output_dir", output_dir, "--pieces", 60, "--llm_steps", 8, "--recogniser_steps", 8,
        "--llm_args", " ".join(LLM_SIZE), "--recogniser_args", " ".join(RECOGNISER_SIZE), *options)


@pytest.fixture(scope="module")
def made(base_models, tmp_path_factory) -> Path:
    """The folder that one run of base_models.sh leaves behind."""
    folder = tmp_path_factory.mktemp("exp") / "base"
    result = base_models(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "translate BLEU" in result.stdout and "train WER" in result.stdout
    return folder


@pytest.fixture(scope="module")
def tokenizer(made):
    return load_tokenizer(str(made / "llm"))


@pytest.mark.parametrize("text", ["anna sold the bag", "Größe und 漢字 😀!", "a\nb", "x", "two  spaces", "UPPER case"])
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids


def test_offsets_point_at_the_words(tokenizer):
    text = "anna sold\nthe bag"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert encoded["offset_mapping"][0][0] == 0 and encoded["offset_mapping"][-1][1] == len(text)
    pieces = "".join(text[start:end] for start, end in encoded["offset_mapping"])
    assert pieces.replace(" ", "") == text.replace(" ", "")


def test_a_word_has_the_same_tokens_wherever_it_stands(tokenizer):
    alone = tokenizer("anna", add_special_tokens=False)["input_ids"]
    for text in ("the anna", "it.\nanna", "<|user|>anna"):
        assert tokenizer(text, add_special_tokens=False)["input_ids"][-len(alone):] == alone


def test_a_turn_is_its_parts_one_after_the_other(tokenizer):
    prompt = Prompt(tokenizer, PromptConfig(instruction="Repeat it."))
    parts = prompt.split("anna sold the bag")
    turns = [{"role": "user", "content": "Repeat it.\nanna sold the bag"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert parts.prefix + parts.input + parts.suffix == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(parts.input) == "anna sold the bag"
    assert (parts.prefix, parts.suffix) == prompt.around()
    assert tokenizer.convert_ids_to_tokens(prompt.end_of_turn) == "<|end|>"


def test_the_template_has_room_for_a_system_message_and_refuses_unknown_roles(tokenizer):
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello {{ x }}"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|system|>Be kind.<|end|><|user|>Hello {{ x }}<|end|><|assistant|>"
    with pytest.raises(Exception, match="roles are"):
        tokenizer.apply_chat_template([{"role": "robot", "content": "x"}], tokenize=False)


def test_training_sees_the_tokens_of_the_rendered_turn(corpus, tokenizer, monkeypatch):
    monkeypatch.syspath_prepend(str(BASE))
    from lm_rows import Exchanges, read_rows

    rows = read_rows(corpus / "lm/train.jsonl")
    prompt = Prompt(tokenizer, PromptConfig())
    exchanges = Exchanges.encode(rows, prompt)
    batch = exchanges.batch(np.arange(len(rows)), tokenizer.pad_token_id)
    for place, row in enumerate(rows):
        parts = prompt.split(row.input, row.instruction)
        response = prompt.response(row.output)
        assert batch.ids[place][batch.is_real[place]].tolist() == parts.prefix + parts.input + parts.suffix + response
        assert batch.ids[place][batch.is_input[place]].tolist() == parts.input
        assert batch.ids[place][batch.is_response[place]].tolist() == response


def test_the_llm_is_a_hugging_face_llm(made, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(made / "llm")
    inputs = tokenizer("<|user|>Repeat it.\nanna sold the bag<|end|><|assistant|>", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert inputs["input_ids"].shape[1] < output.shape[1] <= inputs["input_ids"].shape[1] + 4
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")


def test_the_recogniser_is_a_hugging_face_recogniser(made, corpus):
    processor = AutoProcessor.from_pretrained(made / "recogniser")
    model = AutoModelForSpeechSeq2Seq.from_pretrained(made / "recogniser")
    audio, rate = soundfile.read(corpus / "train/speaker-000.wav", dtype="float32")
    inputs = processor(audio, sampling_rate=rate, return_tensors="pt")
    text = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    assert len(text) == 1 and "<|" not in text[0]
    extractor = AutoFeatureExtractor.from_pretrained(made / "recogniser")
    alone = extractor(audio, sampling_rate=rate, return_tensors="pt")["input_features"]
    assert torch.equal(alone, inputs["input_features"])
    assert alone.shape == (1, 20, 2 * model.config.max_source_positions)
    spoken = " anna sold the bag"
    assert processor.tokenizer.decode(processor.tokenizer(spoken)["input_ids"], skip_special_tokens=True) == spoken


def test_features_do_not_depend_on_the_padding(made, corpus, monkeypatch):
    """Behind the end the padded regime has what `pad_to_chunk` writes there, before it the trimmed features."""
    monkeypatch.syspath_prepend(str(BASE))
    from recogniser_augment import pad_to_chunk
    from speech_set import log_mel

    extractor = AutoFeatureExtractor.from_pretrained(made / "recogniser")
    audio, rate = soundfile.read(corpus / "train/speaker-000.wav", dtype="float32")
    padded = extractor(audio, sampling_rate=rate, return_tensors="pt")["input_features"].transpose(1, 2)
    trimmed = torch.from_numpy(log_mel(audio, extractor))[None]
    again = pad_to_chunk(trimmed, torch.tensor([trimmed.shape[1]]), padded.shape[1])
    near_end = slice(trimmed.shape[1] - 2, trimmed.shape[1] + 2)  # here windows reach over the end
    padded[:, near_end] = again[:, near_end] = 0
    torch.testing.assert_close(again, padded)


def test_teacher_forcing_with_nothing_masked_is_hugging_faces(made, monkeypatch):
    monkeypatch.syspath_prepend(str(BASE))
    from recogniser_model import RecogniserWithHeads

    model = AutoModelForSpeechSeq2Seq.from_pretrained(made / "recogniser", attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 2 * model.config.max_source_positions, 20, generator=generator)
    tokens = torch.randint(0, 200, (2, 5), generator=generator)
    ours = RecogniserWithHeads(model, 3, 3)
    frames = ours.encode_padded(features)
    theirs = model(features.transpose(1, 2), decoder_input_ids=tokens).logits
    torch.testing.assert_close(ours.decode(tokens, frames, None)[0], theirs)
    lengths = torch.tensor([features.shape[1], features.shape[1]])
    torch.testing.assert_close(ours.encode(features, lengths), frames)


@pytest.fixture
def speech(monkeypatch):
    """Two utterances of 40 and 30 frames; in each frame every bin holds the number of the word spoken, over 10."""
    monkeypatch.syspath_prepend(str(BASE))
    from speech_set import SpeechSet

    words = np.repeat([1, 2, 3, 4, 5, 6, 7], 10).astype(np.int16)
    frames = np.repeat(words[:, None] / 10, 8, axis=1).astype(np.float16)
    return SpeechSet(frames, words, np.array([0, 40, 70]), ["a b c d", "e f g"], [[], []], 8)


def vary(speech, strength: float, seed: int = 0, max_frames: int = 300):
    from recogniser_augment import make_batch
    from train_recogniser import RecogniserOptions

    options = RecogniserOptions(max_stretch=0.5)
    return make_batch(speech, np.array([0, 1]), options, max_frames, strength, torch.Generator().manual_seed(seed))


def test_augmentation_of_no_strength_changes_nothing(speech):
    batch = vary(speech, 0.0)
    assert batch.lengths.tolist() == [40, 30]
    for place in range(2):
        original = torch.from_numpy(speech.frames[speech.starts[place]:speech.starts[place + 1]]).float()
        torch.testing.assert_close(batch.features[place, : len(original)], original)
        assert not batch.features[place, len(original):].any()
    assert batch.words[1].tolist() == [5] * 5 + [6] * 5 + [7] * 5 + [-100] * 9


def test_what_is_drawn_and_computed_stays_what_it_was(speech):
    """The formulas in float64, with the draws in their order: a recogniser of the same seed stays the same one."""
    from recogniser_augment import make_batch
    from recogniser_options import RecogniserOptions

    options = RecogniserOptions(max_stretch=0.2, max_warp=0.1, max_tilt=0.3, noise_share=0.6, max_mask_bins=0)
    for seed in range(4):
        batch = make_batch(speech, np.array([0, 1]), options, 300, 0.5, torch.Generator().manual_seed(seed))
        random = torch.Generator().manual_seed(seed)
        tempo, warp = (torch.exp((2 * torch.rand(2, generator=random).double() - 1) * math.log(1 + 0.5 * largest))
                       for largest in (0.2, 0.1))
        shape = batch.features.shape
        tilt = torch.randn(2, 5, generator=random).double()
        below = 1.5 + 3 * torch.rand(2, 1, 1, generator=random).double()
        colour, grain = (torch.randn(*size, generator=random).double() for size in ((2, 5), shape))
        noisy = torch.rand(2, generator=random) <= 0.5 * 0.6
        basis = torch.tensor([[math.cos(math.pi * k * (m + 0.5) / 8) for m in range(8)] for k in range(5)]).double()
        for place, original in enumerate((40, 30)):
            frames = torch.from_numpy(speech.frames[speech.starts[place]:speech.starts[place + 1]]).double()
            length = int(original * tempo[place])
            assert batch.lengths[place] == length
            time = ((torch.arange(shape[1]).double() + 0.5) * original / length - 0.5).clamp(0, original - 1)
            low = time.long().clamp(max=original - 2)
            rows = torch.lerp(frames[low], frames[low + 1], (time - low)[:, None])
            bins = (torch.arange(8).double() * warp[place]).clamp(max=7)
            left = bins.long().clamp(max=6)
            expected = torch.lerp(rows[:, left], rows[:, left + 1], (bins - left)[None])
            peak = expected.max()
            double = torch.tensor([2.0, 1, 1, 1, 1]).double()
            expected += 0.25 * 0.5 * 0.3 * (double * tilt[place]) @ basis
            noise = peak - 0.25 * below[place] + 0.25 * (0.3 * (double * colour[place]) @ basis + 0.25 * grain[place])
            if noisy[place]:
                expected = torch.log10(10 ** (4 * expected) + 10 ** (4 * noise)) / 4
            expected = expected.maximum(expected.max() - 2).clamp(min=-1.5)
            ours = batch.features[place, :length].double()
            kept = ours.amax(1) > ours.amin(1)  # frames that are not masked
            torch.testing.assert_close(ours[kept], expected[:length][kept], rtol=0, atol=1e-4)
            assert kept.sum() > length // 2


def test_word_labels_follow_a_changed_tempo(speech):
    lengths = set()
    for seed in range(5):
        batch = vary(speech, 1.0, seed)
        lengths.add(int(batch.lengths[0]))
        words = batch.words[0][batch.words[0] >= 0]
        assert torch.equal(words, words.sort().values)
        shares = torch.bincount(words)[1:] / len(words)  # all four words are as long as each other
        torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.06, rtol=0)
        torch.testing.assert_close(batch.frames_per_second, 25 * batch.lengths / torch.tensor([40.0, 30.0]))
    assert len(lengths) > 1


def test_a_batch_is_never_longer_than_a_chunk(speech):
    for seed in range(5):
        batch = vary(speech, 1.0, seed, max_frames=42)
        assert batch.lengths.max() <= batch.features.shape[1] <= 42


def test_words_get_the_times_of_the_segments_they_are_in(monkeypatch):
    monkeypatch.syspath_prepend(str(BASE))
    from speech_set import RARE, SILENCE, label_frames, word_spans

    segments = [Word(0.1, 0.3, "she"), Word(0.3, 0.6, "in the")]
    assert word_spans("she in the", segments) == [(0.1, 0.3), (0.3, 0.6), (0.3, 0.6)]
    assert word_spans("she was in the", segments) == []
    labels = label_frames(segments, {"she": 1}, num_frames=8, frame_seconds=0.1)
    assert labels.tolist() == [SILENCE, 1, 1, RARE, RARE, RARE, SILENCE, SILENCE]


def test_attention_loss_is_small_where_heads_look_at_the_word(monkeypatch):
    monkeypatch.syspath_prepend(str(BASE))
    from recogniser_model import attention_loss

    spans = torch.tensor([[[4.0, 6.0], [torch.nan, torch.nan]]])  # [B=1, U=2, 2]
    right, wrong = torch.zeros(1, 2, 2, 12), torch.zeros(1, 2, 2, 12)  # [B, H, U, T]
    right[..., 5] = wrong[..., 11] = 1
    assert attention_loss([right], spans) < 0.01 < 5 < attention_loss([wrong], spans)
    assert attention_loss([wrong], torch.full_like(spans, torch.nan)) == 0  # nobody knows when the words are spoken


def test_aligned_recordings_are_spliced_into_new_sentences(command, corpus, made, tmp_path):
    people = tmp_path / "people"
    shutil.copytree(corpus / "train", people)
    (people / "word_times").unlink()
    result = command([sys.executable, str(BASE / "align_words.py")], "--recogniser", made / "recogniser",
                     "--tokenizer_dir", made / "tokenizer", "--data_dirs", people)
    assert result.returncode == 0, result.stderr
    aligned = read_word_times(people / "word_times")
    texts = read_table(people / "text")
    assert len(aligned) + int(result.stdout.split("aligned, ")[1].split()[0]) == len(texts)

    shutil.copy(corpus / "train/word_times", people / "word_times")  # so that it is known what is to come out
    words = [word for text in texts.values() for word in text.split()]
    forbidden = "anna sold the car"
    (tmp_path / "forbidden").write_text(f"x {forbidden}\n")
    spliced = tmp_path / "spliced"
    options = ["--data_dir", people, "--count", 40, "--forbidden", tmp_path / "forbidden", "--output_dir", spliced,
               "--wav_dir", tmp_path / "wav", "--max_words", 5]
    result = command(["python", str(BASE / "splice.py")], *options)
    assert result.returncode == 0, result.stderr
    new = read_table(spliced / "text")
    assert len(new) == len(set(new.values())) == 40
    assert not set(new.values()) & {forbidden, *texts.values()}
    for key, spoken in read_word_times(spliced / "word_times").items():
        assert ([word.text for word in spoken] == new[key].split() and len(spoken) <= 5
                and set(new[key].split()) <= set(words))
        samples, _ = soundfile.read(tmp_path / f"wav/{key}.wav")
        for word in spoken:  # words of different lengths have different pitches, see `corpus`
            middle = samples[round((word.start + word.end) * 8000) - 1000:][:2000]
            pitch = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 16)).argmax() / (1 << 16) * 2 * np.pi
            assert abs(pitch - (0.1 + 0.02 * len(word.text))) < 0.005
    before = (spliced / "text").read_text(), (tmp_path / f"wav/{key}.wav").read_bytes()
    assert command(["python", str(BASE / "splice.py")], *options).returncode == 0
    assert before == ((spliced / "text").read_text(), (tmp_path / f"wav/{key}.wav").read_bytes())


def test_some_past_tokens_are_disturbed_and_the_first_never(monkeypatch):
    monkeypatch.syspath_prepend(str(BASE))
    from recogniser_training import disturb

    tokens = torch.arange(4000).reshape(40, 100)
    assert torch.equal(disturb(tokens, 0.0, torch.Generator().manual_seed(0)), tokens)
    disturbed = disturb(tokens, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(disturbed[:, 0], tokens[:, 0])
    assert 0.25 < (disturbed != tokens)[:, 1:].float().mean() < 0.35


def test_an_epoch_repeats_the_sets(monkeypatch):
    monkeypatch.syspath_prepend(str(BASE))
    from recogniser_training import rows_of_an_epoch

    assert rows_of_an_epoch([2, 1], "").tolist() == [0, 1, 2]
    assert rows_of_an_epoch([2, 1], "1 3").tolist() == [0, 1, 2, 2, 2]
    for wrong in ("1", "1 0", "1 two"):
        with pytest.raises(ConfigError, match="repeats"):
            rows_of_an_epoch([2, 1], wrong)


def test_recordings_without_word_times_train_beside_synthetic_speech(command, corpus, made, tmp_path):
    people = tmp_path / "people"
    shutil.copytree(corpus / "train", people)
    (people / "word_times").unlink()
    for name in ("wav.scp", "text", "utt2spk", "spk2utt"):
        text = (people / name).read_text()
        (people / name).write_text(text.replace("speaker", "human") if name != "wav.scp" else
                                   "".join(line.replace("speaker", "human", 1) for line in text.splitlines(True)))
    words = train_recogniser(corpus, made, tmp_path / "recogniser")
    words[words.index("--train_dirs") + 1] = f"{corpus / 'train'} {people}"
    result = command([*words, "--repeats", "1 2", "--eval_utterances", "2", "--attention_floor", "0.3"])
    assert result.returncode == 0, result.stderr
    assert "32 utterances" in result.stdout
    alone = train_recogniser(corpus, made, tmp_path / "alone")
    alone[alone.index("--train_dirs") + 1] = str(people)
    result = command([*alone, "--eval_utterances", "2"])
    assert result.returncode == 0, result.stderr
    further = train_recogniser(corpus, made, tmp_path / "further")
    further[further.index("--train_dirs") + 1] = str(people)
    result = command([*further, "--eval_utterances", "2", "--init_dir", tmp_path / "recogniser",
                      "--learning_rate", "0"])
    assert result.returncode == 0, result.stderr
    for path in ("model.safetensors", "ctc_head.safetensors"):
        new, old = load_file(tmp_path / "further" / path), load_file(tmp_path / "recogniser" / path)
        assert new.keys() == old.keys() and all(torch.equal(new[name], old[name]) for name in new)


def test_a_second_run_does_nothing(base_models, made, corpus):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if "log" not in path.parts}
    result = base_models(made)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("is there already") == 5  # tokenizer, LLM, recogniser and two early ones
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*") if "log" not in path.parts}


def test_order_and_number_of_inputs_are_noticed(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BASE))
    from base_output import describe
    from train_recogniser import RecogniserOptions

    places = [tmp_path / name / "data/text" for name in ("a", "b", "c")]
    for place in places:
        place.parent.mkdir(parents=True)
        place.write_text(str(place))
    found = [describe(RecogniserOptions(), (), order) for order in (places, places[::-1], places[1:])]
    assert found[0] != found[1] and found[1] != found[2] and len(found[0]["inputs"]) == 3


def test_changed_options_and_data_are_noticed(made, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BASE))
    from base_output import RECORD, is_made

    made_from = json.loads((made / "llm" / RECORD).read_text())["made_from"]
    assert is_made(made / "llm", made_from, "LLM")
    assert not is_made(made / "llm", {**made_from, "options": {**made_from["options"], "llm_steps": 3}}, "LLM")
    assert not is_made(made / "llm", {**made_from, "inputs": {**made_from["inputs"], "1 lm/train.jsonl": "0"}}, "LLM")
    said = capsys.readouterr().out
    assert "llm_steps: 8 -> 3" in said and "train.jsonl changed" in said


def test_a_model_of_a_version_without_the_option_was_made_by_adamw(made, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BASE))
    from base_output import is_made

    record = json.loads((made / "llm/training.json").read_text())
    made_from = record["made_from"]
    assert made_from["options"].pop("optimizer") == "muon"
    (tmp_path / "training.json").write_text(json.dumps(record))
    now = [{**made_from, "options": {**made_from["options"], "optimizer": kind}} for kind in ("adamw", "muon")]
    assert [is_made(tmp_path, one, "LLM") for one in now] == [True, False]


def train_llm(corpus: Path, made: Path, output_dir: Path) -> list:
    return ["python", str(BASE / "train_llm.py"), "--lm_dir", str(corpus / "lm"), "--tokenizer_dir",
            str(made / "tokenizer"), "--output_dir", str(output_dir), "--llm_steps", "8", *LLM_SIZE]


def train_recogniser(corpus: Path, made: Path, output_dir: Path) -> list:
    return ["python", str(BASE / "train_recogniser.py"), "--train_dirs", str(corpus / "train"), "--dev_dirs",
            str(corpus / "train"), "--tokenizer_dir", str(made / "tokenizer"), "--output_dir", str(output_dir),
            "--recogniser_steps", "8", *RECOGNISER_SIZE]


@pytest.mark.parametrize("program", [train_llm, train_recogniser])
def test_a_killed_run_ends_with_the_same_weights(command, program, corpus, made, tmp_path):
    parted = program(corpus, made, tmp_path / "parted")
    # Dies like a killed process: without a chance to clean up, in the step after the first checkpoint.
    dying = ("import os, runpy, sys; sys.path.insert(0, os.path.dirname(sys.argv[1])); sys.argv = sys.argv[1:]\n"
             "import training_loop; save = training_loop._save\n"
             "def save_and_die(*args): save(*args); os._exit(9)\n"
             "training_loop._save = save_and_die; runpy.run_path(sys.argv[0], run_name='__main__')")
    assert command(["python", "-c", dying, *parted[1:]]).returncode == 9
    assert (tmp_path / "parted.checkpoint.safetensors").is_file() and not (tmp_path / "parted").exists()
    result = command(parted)
    assert result.returncode == 0, result.stderr
    assert "going on after step 4" in result.stdout
    name = program.__name__.removeprefix("train_")
    endings = ["", *(["_early40", "_early70"] if name == "recogniser" else [])]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"parted{ending}" for ending in endings]
    for ending in endings:
        whole, parted = (load_file(folder.with_name(folder.name + ending) / "model.safetensors")
                         for folder in (made / name, tmp_path / "parted"))
        assert whole.keys() == parted.keys()
        assert all(torch.equal(whole[key], parted[key]) for key in whole)


def test_early_recognisers_are_complete_and_differ(made):
    models = [load_file(made / name / "model.safetensors") for name in ("recogniser", "recogniser_early40")]
    assert not torch.equal(models[0]["model.encoder.conv1.weight"], models[1]["model.encoder.conv1.weight"])
    for name in ("recogniser_early40", "recogniser_early70"):
        files = [{path.name for path in (made / one).iterdir()} for one in ("recogniser", name)]
        assert files[0] == files[1]


def test_early_percents_are_checked(command, corpus, made, tmp_path):
    result = command(train_recogniser(corpus, made, tmp_path / "x"), "--early_percents", "40 100")
    assert result.returncode == 1 and "early_percents" in result.stderr


def test_mistakes_are_told_in_one_line(command, corpus, made, tmp_path):
    result = command([str(BASE / "base_models.sh")], "--llm_stepz", 3)
    assert result.returncode == 1 and "unknown option --llm_stepz" in result.stderr
    result = command(["python", str(BASE / "train_llm.py")], "--lm_dir", tmp_path)
    assert result.returncode == 1 and "make the corpus first" in result.stderr and "Traceback" not in result.stderr
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm/train.jsonl").write_text('{"task": "repeat", "instruction": "x", "input": "y"}\n')
    result = command(["python", str(BASE / "train_tokenizer.py")], "--lm_dir", tmp_path / "lm")
    assert result.returncode == 1 and "train.jsonl:1" in result.stderr and "Traceback" not in result.stderr


def test_when_one_training_fails_the_other_stops(base_models, corpus, tmp_path):
    result = base_models(tmp_path / "base", "--llm_steps", 1_000_000,
                         "--recogniser_args", "--early_percents none")
    assert result.returncode == 1
    assert "training the recogniser failed" in result.stderr and "early_percents: 'none'" in result.stderr
    assert not (tmp_path / "base/llm").exists()
