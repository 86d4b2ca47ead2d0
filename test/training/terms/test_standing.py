"""What holds for each of these terms: weight 0 is not there, batches split as one likes, a killed training resumes."""

import json

import pytest
import torch

from blspkd.bin import train
from blspkd.training.objective import Denominators
from blspkd.training.terms.term import Step

ENCODER = {"train_encoder": True}
TERMS = {
    "ot_align": ("ot_align", {}, {}),
    "ot_align with negatives": ("ot_align", {"negatives": True}, {"adapter": "cformer"}),
    "ot_align shuffled": ("ot_align", {"shuffled": True, "positions": 0.3, "cost": "euclidean"}, {}),
    "ot_align on frames": ("ot_align", {"method": "sinkhorn", "speech": "frames", "positions": 1.0}, ENCODER),
    "ot_align to states": ("ot_align", {"layers": 1}, {}),
    "match": ("match", {}, {}),
    "match with PLoRA": ("match", {}, {"adapter": "cformer", "plora_rank": 2}),
    "encoder_ctc": ("encoder_ctc", {}, ENCODER),
}


@pytest.fixture(params=TERMS)
def case(request, objective):
    name, options, model = TERMS[request.param]
    return name, lambda: objective({name: {**options, "weight": 2.0}, "quantity": {"weight": 0}}, **model).eval()


def results(model, batches):
    """Sums by name, and the gradients of all that is trained."""
    counts, sums = Denominators.of(batches), 0
    for batch in batches:
        found = model(batch, counts)
        found.loss.backward()
        sums = sums + found.sums
    return dict(zip(model.units, sums.tolist(), strict=True)), [
        p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]


def test_alone_as_in_a_batch_and_micro_batches_add_up(case, batch_of):
    name, build = case
    whole, grads = results(build(), [batch_of(0, 1, 2, 3, 4, 5)])
    for split in ([(0, 1, 2, 3, 4, 5)[i:i + 1] for i in range(6)], [(5, 0), (3,), (4, 2, 1)]):
        parts, part_grads = results(build(), [batch_of(*indices) for indices in split])
        for key in (name, *(key for key in whole if key.startswith(name))):
            assert parts[key] == pytest.approx(whole[key], rel=1e-4, abs=1e-5), key
        for one, many in zip(grads, part_grads, strict=True):
            torch.testing.assert_close(many, one, rtol=1e-3, atol=2e-5)


def test_its_gradient_reaches_all_that_it_is_to_teach(case, batch_of):
    name, build = case
    model = build()
    llm = model.speech_llm
    loss = model.terms[name](Step(llm, batch_of(0, 1, 2))).loss
    loss.backward()
    assert loss.dtype == torch.float32
    for part in (model.terms[name], llm.encoder if llm.config.train_encoder else llm.adapter):
        for key, p in part.named_parameters():
            touched = p.grad is not None and p.grad.abs().sum() > 0
            # alpha moves tokens only by where they are cut; position tables are never trained; a bias that is added to
            # all keys changes no attention
            assert touched or not p.requires_grad or "k_proj.bias" in key or "to_alpha" in key, key


def trained(data_dir, llm, encoder, output, model, terms, steps=3):
    adapter = {"cformer": "{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}",
               "conv": "{layers: 2, bottleneck: 16}"}
    model = {"adapter": "conv", **model}
    options = [word for key, value in model.items() for word in (f"--{key}", str(value).lower())]
    train.main(["--llm", llm, "--speech_encoder", encoder, "--train_dir", data_dir, "--valid_dir", data_dir,
                "--output_dir", str(output), "--adapter_options", adapter[model["adapter"]], *options, "--pad_to_30s",
                "false", "--attn_implementation", "eager", "--batch_utterances", "4", "--num_workers", "0",
                "--warmup_steps", "1", "--save_steps", "2", "--log_steps", "1", "--learning_rate", "1e-2",
                "--encoder_learning_rate", "1e-3", "--w_input", "0", "--w_response", "0", "--w_response_ce", "1",
                "--time_masks", "1", "--speed_factors", "[0.9, 1.1]", "--max_steps", str(steps), "--terms", terms])
    return {path.relative_to(output / "model"): path.read_bytes() for path in (output / "model").rglob("*.safetensors")}


@pytest.mark.parametrize("key", ["ot_align with negatives", "ot_align on frames", "match with PLoRA", "encoder_ctc"])
def test_weight_0_is_the_base_system_and_a_killed_training_resumes(key, data_dir, tiny_llm, tiny_encoder, tmp_path):
    name, options, model = TERMS[key]
    run = (data_dir, tiny_llm, tiny_encoder)
    terms = {weight: json.dumps({name: {**options, "weight": weight}}) for weight in (0, 1)}
    base = trained(*run, tmp_path / "base", model, "{}")
    assert trained(*run, tmp_path / "zero", model, terms[0]) == base
    whole = trained(*run, tmp_path / "whole", model, terms[1])
    assert {file: whole[file] for file in base} != base
    halves = tmp_path / "halves"
    halves.mkdir()
    for file in ("config.yaml", "checkpoint-2"):
        (halves / file).symlink_to(tmp_path / "whole" / file)
    assert trained(*run, halves, model, terms[1]) == whole
    log = json.loads((tmp_path / "whole/checkpoint-3/trainer_state.json").read_text())["log_history"]
    assert name in log[0] and log[0].get(f"{name}_skipped", 0) == 0
