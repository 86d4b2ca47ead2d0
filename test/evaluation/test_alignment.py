"""Alignment of speech with text: the measures against slow references, and the command that takes them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from blspkd.bin import align
from blspkd.config import DataConfig, ModelConfig, PromptConfig
from blspkd.data.batching import collate
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.evaluation.text_vs_speech import measure_batch
from blspkd.kaldi.data_dir import KaldiDir, read_continuations, read_table
from blspkd.models.listener import Listener
from blspkd.models.plora import speech_positions
from blspkd.models.speech_llm import SpeechLlm

CONTINUE = PromptConfig(instruction="Continue:")


SMALL = {"heads": 2, "ffn_dim": 32, "num_pre_cif_layers": 1, "num_post_cif_layers": 1, "stack_frames": 2}


@pytest.fixture(params=["cformer", "conv"])
def adapter(request):
    return request.param


@pytest.fixture
def model_dir(tiny_llm, tiny_encoder, adapter, tmp_path):
    torch.manual_seed(0)
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, pad_to_30s=False, adapter=adapter, plora_rank=2,
                         adapter_options=SMALL if adapter == "cformer" else {})
    model = SpeechLlm.from_config(config, CONTINUE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "exp" / "model")
    (tmp_path / "exp" / "config.yaml").write_text(
        f"{{system: tiny, training: {{seed: 5}}, model: {{adapter: {adapter}}}}}")
    return tmp_path / "exp" / "model"


@pytest.fixture
def listener(model_dir):
    return Listener.from_pretrained(model_dir)


def load_batch(listener, data_dir, number=4):
    data = KaldiDir.read(data_dir)
    continuations = read_continuations(f"{data_dir}/continuation")
    examples = make_examples(data, continuations, listener.prompt, DataConfig()).examples
    dataset = ExampleDataset(examples, listener.extractor, DataConfig(), 0, augment=False)
    return collate([dataset[0, index] for index in range(number)])


@torch.no_grad()
def slow(model, batch, row, n_tokens):
    """KL and agreement at every position of one utterance alone, from whole logits in float64."""
    example = batch.examples[row]
    starts = np.cumsum([0, *batch.windows])[row]
    length = batch.feature_lengths[starts:starts + 1]
    speech = model.speech_tokens(batch.features[starts:starts + 1, :int(length)], length, [1], n_tokens)
    embed = model.causal_lm.get_input_embeddings()
    prefix, inputs, suffix, response = (torch.from_numpy(ids.astype(np.int64)) for ids in (
        example.prefix, example.input, example.suffix, example.response))
    n = int(speech.n_tokens[0])
    text = embed(torch.cat([prefix, inputs, suffix, response]))[None]
    heard = torch.cat([embed(prefix), speech.tokens[0], embed(torch.cat([suffix, response]))])[None]
    mask = torch.zeros(1, heard.shape[1], dtype=torch.bool)
    mask[0, len(prefix):len(prefix) + n] = True
    log_p = model.causal_lm(inputs_embeds=text).logits[0].double().log_softmax(-1)
    with speech_positions(mask):
        log_q = model.causal_lm(inputs_embeds=heard).logits[0].double().log_softmax(-1)
    before = slice(-len(response) - 1, -1)  # a position predicts the token behind it

    def compare(p, q):
        return (p.exp() * (p - q)).sum(-1), p.argmax(-1) == q.argmax(-1)

    own = slice(len(prefix), len(prefix) + n)
    return speech, compare(log_p[before], log_q[before]), compare(log_p[own], log_q[own]) if n == len(inputs) else None


def test_measures_equal_the_plain_formulas(listener, data_dir, adapter):
    batch = load_batch(listener, data_dir)
    measured = measure_batch(listener.model, batch)
    for row, item in enumerate(measured):
        speech, (kl, top1), _ = slow(listener.model, batch, row, None)
        assert item.n_speech_tokens == int(speech.n_tokens[0])
        np.testing.assert_allclose(item.response.kl, kl, rtol=1e-3, atol=1e-5)
        assert item.response.top1 == top1.tolist()
        if adapter == "conv":
            assert item.input is item.alpha is item.response_true is None
            continue
        np.testing.assert_allclose(item.fire_times, speech.fire_times[0], rtol=1e-4)
        assert len(item.alpha) == speech.alpha.shape[1]
        speech, (kl, top1), (input_kl, input_top1) = slow(listener.model, batch, row, batch.n_tokens[row:row + 1])
        np.testing.assert_allclose(item.input.kl, input_kl, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(item.response_true.kl, kl, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(item.fire_times_true, speech.fire_times[0], rtol=1e-4)
        assert (item.input.top1, item.response_true.top1) == (input_top1.tolist(), top1.tolist())


@pytest.mark.parametrize("adapter", ["cformer"], indirect=True)
def test_speech_that_is_the_text_has_no_divergence(listener, data_dir, monkeypatch):
    batch = load_batch(listener, data_dir)
    embed = listener.model.causal_lm.get_input_embeddings()
    adapt = listener.model.adapter.forward

    def perfect(frames, lengths, n_tokens=None):
        speech = adapt(frames, lengths, batch.n_tokens)
        for row, example in enumerate(batch.examples):
            speech.tokens[row, :example.n_tokens] = embed(torch.from_numpy(example.input.astype(np.int64)))
        return speech

    monkeypatch.setattr(listener.model.adapter, "forward", perfect)
    with torch.no_grad():
        for name, parameter in listener.model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    for item in measure_batch(listener.model, batch):
        for positions in (item.input, item.response, item.response_true):
            assert max(positions.kl) < 1e-5 and all(positions.top1)


def run(model_dir, data_dir, *words):
    align.main(["--model_dir", str(model_dir), "--data_dir", str(data_dir), "--exp_dir", str(model_dir.parent),
                "--device", "cpu", "--batch_size", "3", "--part_size", "6", "--num_bootstrap", "20", *words])
    folder = model_dir.parent / "align_train"
    rows = [json.loads(line) for line in (folder / "utterances.jsonl").read_text().splitlines()]
    results = {row["metric"]: row for row in json.loads((model_dir.parent / "results.json").read_text())
               if row["task"] == "alignment"}
    return rows, json.loads((folder / "summary.json").read_text()), results


def write_word_times(data_dir):
    """Every word takes 0.1 s."""
    with open(f"{data_dir}/word_times", "w", encoding="utf-8") as file:
        for utt_id, text in read_table(f"{data_dir}/text").items():
            for i, word in enumerate(text.split()):
                file.write(f"{utt_id} {i / 10} {(i + 1) / 10} {word}\n")


def test_the_command_writes_rows_summary_and_results(model_dir, data_dir, adapter, capsys):
    write_word_times(data_dir)
    rows, summary, results = run(model_dir, data_dir, "--train_dir", data_dir)
    assert len(rows) == summary["n"] == 12 and summary["without_continuation"] == 0
    pooled = np.concatenate([row["response_kl"] for row in rows])
    assert results["response_kl"]["value"] == pytest.approx(np.mean(pooled), abs=1e-4)
    assert results["first_kl"]["value"] == pytest.approx(np.mean([row["response_kl"][0] for row in rows]), abs=1e-4)
    assert {(row["system"], row["set"], row["seed"], row["n"]) for row in results.values()} == {
        ("tiny", "train", 5, 12)}
    for row in results.values():
        assert row["ci95"][0] <= row["value"] <= row["ci95"][1] and row["signature"]
    assert "response_kl" in capsys.readouterr().out
    if adapter == "conv":
        assert not {"input_kl", "top1", "count_accuracy", "boundary_mean_ms"} & set(results)
        return
    counts = np.array([[row["n_predicted"], row["n_tokens"]] for row in rows])
    assert results["count_accuracy"]["value"] == pytest.approx(100 * np.mean(counts[:, 0] == counts[:, 1]), abs=1e-3)
    assert results["count_mae"]["value"] == pytest.approx(np.abs(counts[:, 0] - counts[:, 1]).mean(), abs=1e-3)
    errors = np.concatenate([[1000 * (row["fire_times_true"][token] - end) for token, end in row["boundaries"]]
                             for row in rows])
    assert results["boundary_median_ms"]["value"] == pytest.approx(np.median(np.abs(errors)), abs=0.1)
    assert results["boundary_within_100"]["value"] == pytest.approx(100 * np.mean(np.abs(errors) <= 100), abs=1e-3)
    for row in rows:
        assert "".join(row["tokens"]) == row["transcript"] and len(row["fire_times_true"]) == row["n_tokens"]
        assert len(row["frame_times"]) == len(row["alpha"]) + 1
        assert row["frame_times"][-1] == pytest.approx(row["duration"], abs=0.05)
        assert 0 <= row["fire_times"][0] <= row["fire_times"][-1] <= row["duration"]
        assert row["tokens"][row["boundaries"][0][0]].strip() == row["transcript"].split()[0][-len(
            row["tokens"][row["boundaries"][0][0]].strip()):]
    assert {"duration", "speaking rate", "speaker"} <= set(summary["slices"])
    assert summary["token_slices"]["training frequency"]
    assert summary["by_position"]["input_kl"][0]["n"] == 12


@torch.no_grad()
def test_retrieval_equals_every_cosine_of_utterances_alone(listener, model_dir, data_dir, adapter):
    text = Path(data_dir) / "text"
    lines = text.read_text().splitlines()
    lines[3] = f"{lines[3].split()[0]} {lines[8].split(' ', 1)[1]}"  # one transcript twice
    text.write_text("\n".join(lines) + "\n")
    rows, summary, results = run(model_dir, data_dir)
    batch, embed = load_batch(listener, data_dir, 12), listener.model.causal_lm.get_input_embeddings()
    said = [sorted(example.input.tolist()) for example in batch.examples]
    speech, texts = [], [embed(torch.tensor(ids)).double().mean(0) for ids in said]
    for row in range(12):
        heard, *_ = slow(listener.model, batch, row, None)
        speech.append(heard.tokens[0, :int(heard.n_tokens[0])].double().mean(0))
    cosines = torch.stack([torch.cosine_similarity(one, torch.stack(texts), dim=-1) for one in speech])
    for row in range(12):
        assert rows[row]["retrieves_text"] == (said[int(cosines[row].argmax())] == said[row])
        assert rows[row]["is_retrieved"] == (said[int(cosines[:, row].argmax())] == said[row])
    for metric, key in ("r1_speech_to_text", "retrieves_text"), ("r1_text_to_speech", "is_retrieved"):
        assert results[metric]["value"] == pytest.approx(100 * np.mean([row[key] for row in rows]), abs=1e-3)
        assert results[metric]["n"] == 12
        assert summary["measures"][metric] == pytest.approx(results[metric]["value"], abs=1e-3)
    assert not any("pooled" in row for row in rows)


@pytest.mark.parametrize("adapter", ["cformer"], indirect=True)
def test_without_continuations_only_the_first_response_token_is_compared(model_dir, data_dir, tmp_path):
    with_response, _, _ = run(model_dir, data_dir)
    (tmp_path / "data" / "train" / "continuation").unlink()
    rows, summary, results = run(model_dir, data_dir)
    assert summary["without_continuation"] == 12 and "response_kl" not in results and "boundary_mean_ms" not in results
    assert [row["first_kl"] for row in rows] == pytest.approx([row["first_kl"] for row in with_response], abs=1e-4)
    assert [row["input_kl"] for row in rows] == [pytest.approx(row["input_kl"], abs=1e-4) for row in with_response]


@pytest.mark.parametrize("adapter", ["cformer"], indirect=True)
def test_a_killed_run_goes_on_and_gives_the_same(model_dir, data_dir, monkeypatch):
    whole, _, _ = run(model_dir, data_dir)
    (model_dir.parent / "align_train" / "align.json").unlink()
    calls, death = [], [4]

    def dies(model, batch):
        calls.append(batch.utt_ids)
        if len(calls) in death:
            raise KeyboardInterrupt
        return measure_batch(model, batch)

    monkeypatch.setattr("blspkd.evaluation.alignment.measure_batch", dies)
    with pytest.raises(SystemExit):
        run(model_dir, data_dir)
    calls.clear()
    death.clear()
    again, _, _ = run(model_dir, data_dir)
    assert len(calls) == 2 and again == whole  # the second part only
    run(model_dir, data_dir)
    assert len(calls) == 2  # finished: nothing is measured
    few, _, results = run(model_dir, data_dir, "--max_utterances", "5")
    assert len(few) == 5 and results["input_kl"]["n"] == 5


@pytest.mark.parametrize("adapter", ["cformer"], indirect=True)
def test_scorings_count_accuracy_stays(model_dir, data_dir):
    row = {"system": "tiny", "set": "train", "task": "alignment", "metric": "count_accuracy", "value": 50.0,
           "ci95": [25.0, 75.0], "n": 12, "seed": 5, "signature": "scored"}
    other = {**row, "task": "repeat", "metric": "wer"}
    (model_dir.parent / "results.json").write_text(json.dumps([other, row]))
    _, _, results = run(model_dir, data_dir)
    assert results["count_accuracy"]["signature"] == "scored"
    assert other in json.loads((model_dir.parent / "results.json").read_text())
