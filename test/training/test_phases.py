"""Two phases of stage 3: an alignment without the LLM, then the distillation that goes on from it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from blspkd.bin import decode, train
from blspkd.config import LossConfig, ModelConfig, PromptConfig, TrainConfig
from blspkd.config_file import from_dict, load_config
from blspkd.errors import ConfigError
from blspkd.models.base_models import load_llm
from blspkd.models.embedding_table import EmbeddingTable
from blspkd.models.model_folder import SpeechLlmConfig
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training import phase
from blspkd.training.phases import alignment_of, phases
from blspkd.training.run import resolved

ALIGN = "{loss: {terms: {embedding: {weight: 2}}}, training: {max_steps: 4, learning_rate: 0.01}}"
OPTIONS = ["--pad_to_30s", "false", "--attn_implementation", "eager", "--batch_utterances", "4", "--num_workers", "0",
           "--warmup_steps", "1", "--save_steps", "2", "--log_steps", "1", "--learning_rate", "1e-3", "--max_steps",
           "4", "--adapter_options", "{num_pre_cif_layers: 1, num_post_cif_layers: 1, heads: 2, ffn_dim: 32}"]


def run(data_dir, llm, encoder, folder, *more):
    train.main(["--llm", llm, "--speech_encoder", encoder, "--train_dir", str(data_dir), "--valid_dir", str(data_dir),
                "--output_dir", str(folder), *OPTIONS, *more])
    return (folder / "model/adapter.safetensors").read_bytes()


def history(folder, step=4):
    return json.loads((folder / f"checkpoint-{step}/trainer_state.json").read_text())["log_history"]


def test_two_phases_are_two_runs_and_resume(data_dir, tiny_llm, tiny_encoder, tmp_path, monkeypatch, capsys):
    both = run(data_dir, tiny_llm, tiny_encoder, tmp_path / "both", "--align", ALIGN, "--plora_rank", "2")
    first, then = history(tmp_path / "both/align"), history(tmp_path / "both")
    assert {"embedding", "quantity", "count_accuracy"} <= first[0].keys() and "input_kl" not in first[0]
    assert "input_kl" in then[0] and "embedding" not in then[0]
    run(data_dir, tiny_llm, tiny_encoder, tmp_path / "one", "--w_input", "0", "--w_response", "0",
        "--terms.embedding.weight", "2", "--learning_rate", "0.01")
    two = run(data_dir, tiny_llm, tiny_encoder, tmp_path / "two", "--init_from", str(tmp_path / "one/model"),
              "--plora_rank", "2")
    assert two == both
    assert load_config(SpeechLlmConfig, tmp_path / "both/align/model/config.yaml").model.embedding_rms > 0

    trained = []
    original = phase.KdTrainer.train
    monkeypatch.setattr(phase.KdTrainer, "train",
                        lambda self, **known: trained.append(self.args.output_dir) or original(self, **known))
    shutil.rmtree(tmp_path / "both/model")
    shutil.rmtree(tmp_path / "both/checkpoint-4")
    again = ["--align", ALIGN, "--plora_rank", "2"]
    assert run(data_dir, tiny_llm, tiny_encoder, tmp_path / "both", *again) == both
    assert trained == [str(tmp_path / "both")]  # the alignment was done
    shutil.rmtree(tmp_path / "both/align/model")  # killed while it was written
    shutil.rmtree(tmp_path / "both/align/checkpoint-4")
    for path in tmp_path.glob("both/*"):
        if path.name != "align":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(data_dir, tiny_llm, tiny_encoder, tmp_path / "both", *again) == both
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run(data_dir, tiny_llm, tiny_encoder, tmp_path / "both", *again, "--align.training.max_steps", "3")
    assert "align/config.yaml: this run began with other options (training.max_steps was 4" in capsys.readouterr().err


def test_an_alignment_needs_neither_continuations_nor_the_llm(data_dir, tiny_llm, tiny_encoder, tmp_path, monkeypatch):
    alone = tmp_path / "corpus"
    shutil.copytree(data_dir, alone)
    for path in alone.glob("continuation*"):
        path.unlink()
    never = []
    monkeypatch.setattr("blspkd.models.speech_llm.load_llm", lambda *given: never.append(given))
    run(alone, tiny_llm, tiny_encoder, tmp_path / "exp", "--w_input", "0", "--w_response", "0",
        "--terms.embedding.weight", "2", "--cache_encoder_frames", "true")
    assert not never
    monkeypatch.undo()
    tasks = ["--tasks", "{repeat: {instruction: 'Repeat:', metrics: [wer]}}", "--systems", "[speech]"]
    decode.main(["--model_dir", str(tmp_path / "exp/model"), "--data_dir", str(data_dir), "--exp_dir",
                 str(tmp_path / "exp"), *tasks, "--max_new_tokens", "4"])
    assert (tmp_path / "exp/decode_repeat_train/hyp.jsonl").is_file()


def test_both_phases_share_the_frames(data_dir, tiny_llm, tiny_encoder, tmp_path, capfd):
    run(data_dir, tiny_llm, tiny_encoder, tmp_path / "exp", "--align", ALIGN, "--cache_encoder_frames", "true")
    assert capfd.readouterr().err.count("cache frames-train:   0%") == 1
    assert not (tmp_path / "exp/align/cache").exists() and (tmp_path / "exp/cache/frames-train").is_dir()


def test_the_distillation_leaves_what_is_frozen_as_the_alignment_made_it(data_dir, tiny_llm, tiny_encoder, tmp_path):
    frozen = ["--freeze_param", "[adapter.pre_cif, adapter.to_alpha]", "--align", ALIGN, "--plora_rank", "2"]
    weights = run(data_dir, tiny_llm, tiny_encoder, tmp_path / "exp", *frozen)
    before, after = (load_file(tmp_path / f"exp/{name}model/adapter.safetensors") for name in ("align/", ""))
    fresh = load_file(tmp_path / "exp/align/checkpoint-2/adapter.safetensors") if (
        tmp_path / "exp/align/checkpoint-2/adapter.safetensors").is_file() else {}
    for name, value in after.items():
        assert torch.equal(value, before[name]) == name.startswith(("pre_cif", "to_alpha")), name
    assert not fresh or not torch.equal(fresh["to_alpha.weight"], before["to_alpha.weight"])  # the alignment trains it
    shutil.rmtree(tmp_path / "exp/model")
    shutil.rmtree(tmp_path / "exp/checkpoint-4")
    assert run(data_dir, tiny_llm, tiny_encoder, tmp_path / "exp", *frozen) == weights  # goes on from checkpoint-2


def test_only_what_was_trained_before_is_frozen():
    with pytest.raises(ConfigError, match="training.freeze_param: adapter.to_alpha would stay as it was drawn"):
        load_config(TrainConfig, None, ["--freeze_param", "[adapter.to_alpha]"])


@pytest.mark.parametrize("align, message", [
    ("{loss: {w_input: 1}}", "an alignment runs without the LLM"),
    ("{model: {adapter: conv}}", "align: model: adapter: both phases train one model"),
    ("{model: {train_encoder: true}, loss: {terms: {embedding: {}}}}",
     "goes on with the encoder that the alignment trained"),
    ("{training: {max_stepz: 1}, loss: {terms: {embedding: {}}}}", "align: training: unknown key 'max_stepz'"),
    ("{loss: {terms: {quantity: {weight: 1}}}}", "no term trains what the LLM would read"),
    ("{training: {max_steps: 1}}", "align: loss: w_input, w_response and w_response_ce are all 0, and terms names"),
])
def test_what_an_alignment_cannot_be(align, message):
    with pytest.raises(ConfigError) as error:
        resolved(load_config(TrainConfig, None, ["--align", align]), "train.yaml")
    assert message in str(error.value)


def test_an_alignment_has_what_the_rest_says_but_for_its_own():
    config = load_config(TrainConfig, None, ["--align", ALIGN, "--plora_rank", "4", "--train_encoder", "true",
                                             "--cache_teacher", "true", "--batch_utterances", "7"])
    first = alignment_of(config)
    assert not first.loss.distils and first.model.plora_rank == 0 and not first.training.cache_teacher
    assert first.data.batch_utterances == 7 and first.model.train_encoder and first.training.max_steps == 4
    assert from_dict(TrainConfig, {}).align == {} and alignment_of(TrainConfig()) is None
    [(align, folder), (distil, last)] = phases(config, "exp/a")
    assert (str(folder), str(last)) == ("exp/a/align", "exp/a") and distil.training.init_from == "exp/a/align/model"
    assert align.training.max_steps == 4
    assert not distil.loss.terms and distil.loss.distils and LossConfig(w_input=0).distils


def test_the_embedding_table_is_that_of_the_whole_llm(tiny_llm, tmp_path):
    weight = load_llm(tiny_llm).get_input_embeddings().weight
    assert torch.equal(EmbeddingTable.from_pretrained(tiny_llm).get_input_embeddings().weight, weight)
    split = tmp_path / "split"  # in shards, and saved without the head
    load_llm(tiny_llm).save_pretrained(split, max_shard_size="10KB")
    assert len(list(split.glob("*.safetensors"))) > 1
    assert torch.equal(EmbeddingTable.from_pretrained(str(split)).get_input_embeddings().weight, weight)
    bare = tmp_path / "bare"
    shutil.copytree(tiny_llm, bare)
    tensors = {name.removeprefix("model."): value for name, value in load_file(bare / "model.safetensors").items()}
    save_file(tensors, bare / "model.safetensors", {"format": "pt"})
    assert torch.equal(EmbeddingTable.from_pretrained(str(bare)).get_input_embeddings().weight, weight)
    (bare / "model.safetensors").unlink()
    with pytest.raises(Exception, match="this LLM cannot be loaded"):
        EmbeddingTable.from_pretrained(str(bare))


def test_speech_tokens_are_as_loud_as_the_text_that_is_said(tiny_llm, tiny_encoder):
    said = torch.tensor([5, 5, 5, 9])
    for match in (True, False):
        model = SpeechLlm.from_config(ModelConfig(tiny_llm, tiny_encoder, adapter_options={
            "heads": 2, "ffn_dim": 32, "match_embedding_norm": match}), PromptConfig(), said.bincount(), with_llm=False)
        rows = model.llm.get_input_embeddings().weight[said]
        expected = rows.double().pow(2).mean().sqrt()
        assert model.embedding_rms == pytest.approx(float(expected)) and model.config.embedding_rms > 0
        speech = model.adapter(torch.randn(2, 40, 24), torch.tensor([40, 30]), torch.tensor([6, 5]))
        assert speech.rows().pow(2).mean().sqrt().item() == pytest.approx(float(expected), rel=0.2 * (not match) + 1e-3)
        again = SpeechLlm.from_config(model.config, PromptConfig(), with_llm=False)
        assert again.embedding_rms == model.embedding_rms


def test_a_file_may_switch_its_base_s_alignment_off(tmp_path):
    (tmp_path / "base.yaml").write_text(f"align: {ALIGN}\n")
    (tmp_path / "without.yaml").write_text("base: base.yaml\nalign:  # none\n")
    assert load_config(TrainConfig, tmp_path / "base.yaml").align
    assert alignment_of(load_config(TrainConfig, tmp_path / "without.yaml")) is None
