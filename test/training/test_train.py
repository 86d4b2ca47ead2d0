"""Stage 3 as a command: it learns, resumes bit for bit, and splits over micro-batches and ranks alike."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blspkd.bin.train import main
from blspkd.config import DataConfig, LossConfig, ModelConfig, PromptConfig, TrainConfig
from blspkd.config_file import load_config, save_config
from blspkd.data.batching import collate
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.data.features import FeatureExtractor
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ConfigError
from blspkd.kaldi.data_dir import KaldiDir, read_continuations
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.checkpoint import complete_checkpoints
from blspkd.training.objective import Denominators, KdObjective
from blspkd.training.run import check_unchanged, resolved

SMALL = {"adapter_options": {"heads": 2, "ffn_dim": 32, "num_pre_cif_layers": 1, "num_post_cif_layers": 1},
         "pad_to_30s": False, "attn_implementation": "eager"}
OPTIONS = ["--pad_to_30s", "false", "--adapter_options",
           "{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}",
           "--warmup_steps", "1", "--batch_utterances", "4", "--num_workers", "0",
           "--learning_rate", "3e-3", "--save_steps", "2", "--keep_checkpoints", "10", "--log_steps", "1"]


def train(data_dir, llm, encoder, output, *extra):
    main(["--llm", llm, "--speech_encoder", encoder, "--train_dir", data_dir, "--valid_dir", data_dir,
          "--output_dir", str(output), *OPTIONS, *extra])
    return weights(output / "model")


def weights(folder):
    return {f"{path.name}:{key}": value for path in sorted(Path(folder).rglob("*.safetensors"))
            for key, value in load_file(path).items()}


def assert_same(a, b, **tolerance):
    assert a.keys() == b.keys() and a
    for key in a:
        torch.testing.assert_close(a[key], b[key], **(tolerance or {"rtol": 0, "atol": 0}), msg=key)


@pytest.fixture
def objective(tiny_llm, tiny_encoder):
    def build(loss=None, seed=0, **model):
        torch.manual_seed(seed)
        config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, **{**SMALL, **model})
        return KdObjective(SpeechLlm.from_config(config, PromptConfig("Continue:")), loss or LossConfig())
    return build


@pytest.fixture
def batch_of(data_dir, tiny_llm, tiny_encoder):
    prompt = Prompt(load_tokenizer(tiny_llm), PromptConfig("Continue:"))
    items = make_examples(KaldiDir.read(data_dir), read_continuations(f"{data_dir}/continuation"), prompt,
                          DataConfig()).examples
    dataset = ExampleDataset(items, FeatureExtractor(tiny_encoder, False), DataConfig(), 0, augment=False)
    return lambda *indices: collate([dataset[(0, i)] for i in indices])


def test_training_lowers_the_loss_and_resumes_bit_for_bit(data_dir, tiny_llm, tiny_encoder, tmp_path):
    extra = ["--max_steps", "8", "--eval_steps", "4", "--plora_rank", "2", "--plora_dropout", "0.1", "--train_encoder",
             "true", "--encoder_learning_rate", "1e-3", "--adapter_options.dropout", "0.1", "--time_masks", "1"]
    straight = train(data_dir, tiny_llm, tiny_encoder, tmp_path / "a", *extra)
    assert [path.name for path in complete_checkpoints(tmp_path / "a")] == [f"checkpoint-{i}" for i in (2, 4, 6, 8)]
    history = json.loads((tmp_path / "a/checkpoint-8/trainer_state.json").read_text())["log_history"]
    losses = [row["loss"] for row in history if "loss" in row]
    assert losses[-1] < losses[0]
    for row in history:  # a term that is exactly 0 is shown as 0
        assert "loss" not in row or {"input_top1", "response_top1", "count_accuracy"} <= row.keys()

    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b/model")
    shutil.rmtree(tmp_path / "b/checkpoint-8")
    (tmp_path / "b/checkpoint-6/trainer_state.json").write_text('{"global_st')  # killed while it was written
    resumed = train(data_dir, tiny_llm, tiny_encoder, tmp_path / "b", *extra)
    assert_same(resumed, straight)


def test_a_training_goes_on_from_another_one(data_dir, tiny_llm, tiny_encoder, tmp_path, capsys):
    both = ["--plora_rank", "2", "--train_encoder", "true", "--encoder_learning_rate", "1e-3"]
    first = train(data_dir, tiny_llm, tiny_encoder, tmp_path / "first", *both, "--max_steps", "4")
    again = ["--init_from", str(tmp_path / "first/model"), *both]
    still = train(data_dir, tiny_llm, tiny_encoder, tmp_path / "still", *again, "--max_steps", "1",
                  "--learning_rate", "0", "--encoder_learning_rate", "0")
    assert_same(still, first)
    straight = train(data_dir, tiny_llm, tiny_encoder, tmp_path / "second", *again, "--max_steps", "4", "--seed", "1")
    scratch = train(data_dir, tiny_llm, tiny_encoder, tmp_path / "scratch", *both, "--max_steps", "4", "--seed", "1")
    assert any(not torch.equal(straight[key], scratch[key]) for key in scratch)
    losses = [json.loads((tmp_path / f"{name}/checkpoint-4/trainer_state.json").read_text())["log_history"][0]["loss"]
              for name in ("second", "scratch")]
    assert losses[0] < losses[1]

    shutil.rmtree(tmp_path / "second/checkpoint-4")  # resumes from its own checkpoint, and does not start again
    shutil.move(tmp_path / "first", tmp_path / "moved")
    resumed = train(data_dir, tiny_llm, tiny_encoder, tmp_path / "second", *again, "--max_steps", "4", "--seed", "1")
    assert_same(resumed, straight)

    shutil.copytree(tmp_path / "moved/checkpoint-2", tmp_path / "first/model")  # other weights of that name
    capsys.readouterr()
    with pytest.raises(SystemExit):
        train(data_dir, tiny_llm, tiny_encoder, tmp_path / "second", *again, "--max_steps", "4", "--seed", "1")
    assert "have changed since this run began" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(data_dir, tiny_llm, tiny_encoder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train(data_dir, tiny_llm, tiny_encoder, tmp_path / "a", "--max_steps", "9", "--learning_rate", "1e30",
              "--save_steps", "1", "--max_grad_norm", "0")
    assert "lower learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "a/model").exists()


def test_other_options_in_the_same_folder_are_refused(data_dir, tiny_llm, tiny_encoder, tmp_path):
    train(data_dir, tiny_llm, tiny_encoder, tmp_path / "a", "--max_steps", "2")
    train(data_dir, tiny_llm, tiny_encoder, tmp_path / "a", "--max_steps", "2", "--log_steps", "2")  # changes no result
    with pytest.raises(SystemExit):
        train(data_dir, tiny_llm, tiny_encoder, tmp_path / "a", "--max_steps", "2", "--learning_rate", "1e-4")


def test_tasks_of_the_validation_set_change_nothing(data_dir, tiny_llm, tiny_encoder, tmp_path):
    """Instructions and references, by which stage 4 can judge it, are none of stage 3's business."""
    found, logs = [], []
    for name in "without", "with":
        valid = shutil.copytree(data_dir, tmp_path / name / "valid")
        if name == "with":
            for table in "instruction", "text.qa", "text.translate":
                (valid / table).write_text("".join(f"{line.split()[0]} nothing like it\n" for line in
                                                   (valid / "text").read_text().splitlines()))
        extra = ["--valid_dir", str(valid), "--max_steps", "2", "--eval_steps", "1"]
        found.append(train(data_dir, tiny_llm, tiny_encoder, tmp_path / name / "exp", *extra))
        state = json.loads((tmp_path / name / "exp/checkpoint-2/trainer_state.json").read_text())
        logs.append([row for row in state["log_history"] if "eval_response_kl" in row])
    assert_same(*found)
    assert logs[0] == logs[1] and len(logs[0]) == 2


def test_another_llm_than_the_continuations_is_refused(data_dir, tiny_llm, tiny_encoder, tmp_path, capsys):
    copy = shutil.copytree(tiny_llm, tmp_path / "other_llm")
    with pytest.raises(SystemExit):
        train(data_dir, str(copy), tiny_encoder, tmp_path / "a", "--max_steps", "2")
    assert "LLM's own continuations" in capsys.readouterr().err


def test_micro_batches_add_up_to_one_big_batch(objective, batch_of):
    whole, parts = batch_of(0, 1, 2, 3, 4, 5), [batch_of(0, 1), batch_of(2), batch_of(3, 4, 5)]
    results = []
    for batches in ([whole], parts):
        model = objective(plora_rank=2)
        counts = Denominators.of(batches)
        loss = sum(model(batch, counts).loss for batch in batches)
        loss.backward()
        results.append([loss.detach()] + [p.grad for p in model.parameters() if p.requires_grad])
    for one, many in zip(*results, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-4, atol=1e-6)


def test_two_ranks_equal_one(warm, data_dir, tiny_llm, tiny_encoder, tmp_path):
    command = ["--llm", tiny_llm, "--speech_encoder", tiny_encoder, "--train_dir", data_dir, "--valid_dir", data_dir,
               *OPTIONS, "--max_steps", "3", "--schedule", "constant", "--weight_decay", "0.01"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    for name, extra in ("two", ["--batch_utterances", "3"]), ("one", ["--batch_utterances", "3",
                                                                      "--gradient_accumulation", "2"]):
        launcher = (["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if name == "two" else [])
        subprocess.run([warm / "bin/python", *launcher, "-m", "blspkd.bin.train", *command, *extra, "--output_dir",
                        str(tmp_path / name)], check=True, env=environment, capture_output=True, timeout=120)
    assert_same(weights(tmp_path / "two/model"), weights(tmp_path / "one/model"), rtol=1e-3, atol=1e-5)


def test_the_last_checkpoints_can_be_averaged(data_dir, tiny_llm, tiny_encoder, tmp_path):
    found = train(data_dir, tiny_llm, tiny_encoder, tmp_path / "a", "--max_steps", "4", "--average_checkpoints", "2")
    parts = [weights(tmp_path / f"a/checkpoint-{step}") for step in (2, 4)]
    assert_same(found, {key: (parts[0][key] + parts[1][key]) / 2 for key in found}, rtol=1e-6, atol=1e-7)


def test_teacher_and_student_agree_when_speech_tokens_are_the_text_embeddings(objective, batch_of):
    model = objective(LossConfig(terms={"quantity": {"weight": 0}})).eval()
    batch = batch_of(0, 1, 2)
    llm = model.speech_llm

    class Oracle(torch.nn.Module):
        aligned, reads = True, frozenset()

        def forward(self, frames, lengths, n_tokens):
            from blspkd.models.speech_tokens import SpeechTokens
            rows = [llm.causal_lm.get_input_embeddings()(torch.tensor(e.input)) for e in batch.examples]
            return SpeechTokens(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), n_tokens, n_tokens)

        def parameters(self, recurse=True):
            return iter([torch.zeros(1)])

    llm.adapter = Oracle()
    with torch.no_grad():
        sums = dict(zip(model.units, model(batch, Denominators.of([batch])).sums.tolist(), strict=True))
    assert sums["input_kl"] == 0 and sums["response_kl"] == 0
    assert sums["input_top1"] == batch.n_tokens.sum() and sums["response_top1"] == batch.sequences.response_mask.sum()


def test_response_positions_predict_the_response(objective, batch_of):
    """Changing only the end-of-turn token's label changes the cross-entropy of the last position, and nothing else."""
    model, batch = objective(LossConfig(w_input=0, w_response=0, w_response_ce=1.0)), batch_of(0)
    result = model(batch, Denominators.of([batch]))
    llm = model.speech_llm
    with torch.no_grad():
        speech = llm.speech_tokens(batch.features, batch.feature_lengths, batch.windows, batch.n_tokens)
        logits = llm.causal_lm.lm_head(llm.student_states(batch.sequences, speech))[0]
    response = batch.sequences.response_mask[0].nonzero().squeeze(1)
    expected = torch.nn.functional.cross_entropy(logits[response - 1], batch.sequences.ids[0, response])
    torch.testing.assert_close(result.loss.detach(), expected + result.sums[5])


def test_conv_adapter_trains_with_response_losses_and_refuses_input_kl(objective, batch_of):
    model = objective(LossConfig(w_input=0, w_response=0, w_response_ce=1.0), adapter="conv",
                      adapter_options={"bottleneck": 16})
    batch = batch_of(0, 1, 2)
    model(batch, Denominators.of([batch])).loss.backward()
    assert all(p.grad is not None for p in model.speech_llm.adapter.parameters())
    with pytest.raises(ConfigError, match="w_input"):
        objective(LossConfig(), adapter="conv", adapter_options={})


def test_released_positions_are_one_later(objective, batch_of):
    batch = batch_of(0, 1)
    losses = [objective(LossConfig(response_positions=kind))(batch, Denominators.of([batch])).sums[2].item()
              for kind in ("shifted", "released")]
    assert losses[0] != losses[1]


def test_released_positions_have_no_cross_entropy(objective, batch_of):
    """They do not predict the response, so that its tokens are no labels there, neither in training nor validation."""
    config, batch = LossConfig(response_positions="released"), batch_of(0, 1)
    model, counts = objective(config).eval(), Denominators.of([batch])
    sums = model(batch, counts).sums
    assert sums[list(model.units).index("response_ce")] == 0
    means = model.means(sums, counts, training=False)
    assert "response_kl" in means and "response_ce" not in means
    assert "response_ce" in objective().means(sums, counts, training=False)


def test_only_what_is_trained_gets_gradients(objective, batch_of):
    model = objective(plora_rank=2, train_encoder=True, train_encoder_layers=1)
    batch = batch_of(0, 1)
    model(batch, Denominators.of([batch])).loss.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert all("adapter" in n or "lora_" in n or "encoder.layers.1" in n for n in trained)
    assert any("encoder.layers.1" in n for n in trained) and not any("encoder.layers.0" in n for n in trained)


def test_gradient_checkpointing_gives_the_same_gradients(objective, batch_of):
    batch, results = batch_of(0, 1, 2), []
    for checkpointing in (False, True):
        model = objective(plora_rank=2, share_prefix=False)  # checkpointing excludes it
        if checkpointing:
            model.speech_llm.enable_gradient_checkpointing()
        model.train()
        model(batch, Denominators.of([batch])).loss.backward()
        results.append([p.grad for p in model.parameters() if p.requires_grad])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_continuations_that_were_cut_after_stage_2_are_noticed(data_dir, tiny_llm, tiny_encoder, tmp_path, capsys):
    folder = Path(data_dir)
    info = json.loads((folder / "continuation.info.json").read_text())
    lines = (folder / "continuation").read_text().splitlines(keepends=True)
    dropped, cut = (line.split()[0] for line in lines[-2:])
    info |= {"counts": {"written": len(lines) - 1}, "filtered": {"repetition": [dropped]}}
    (folder / "continuation.info.json").write_text(json.dumps(info))
    (folder / "continuation").write_text("".join(lines[:-2]))
    with pytest.raises(SystemExit):
        train(data_dir, tiny_llm, tiny_encoder, tmp_path / "a", "--max_steps", "1")
    assert f"lacks 1 utterances that were not filtered out: {cut};" in capsys.readouterr().err


ALIGNMENT = ["--w_input", "0", "--w_response", "0", "--terms.embedding.weight", "1"]


@pytest.mark.parametrize(("before", "now", "message"), [
    ([], ["--terms.embedding.weight", "3"], "loss.terms.embedding.weight was not there and is now 3"),
    (["--terms.embedding.weight", "3"], [], "loss.terms.embedding.weight was 3.0 and is now not there"),
    ([], ["--adapter", "conv", "--w_input", "0"], "model.adapter was cformer and is now conv"),
    ([], ["--terms.embedding.weight", "0"], ""),
    ([], ["--recount", "1"], ""),
    ([], ["--snap", "hard"], "model.snap was none and is now hard"),
    (ALIGNMENT, [*ALIGNMENT, "--snap", "hard"], ""),  # nobody reads its tokens yet
])
def test_a_run_does_not_go_on_with_other_terms_or_another_adapter(tmp_path, before, now, message):
    save_config(resolved(load_config(TrainConfig, None, before)), tmp_path / "config.yaml")
    config = resolved(load_config(TrainConfig, None, now))
    if not message:
        return check_unchanged(config, tmp_path, 1)
    with pytest.raises(ConfigError, match=message):
        check_unchanged(config, tmp_path, 1)
