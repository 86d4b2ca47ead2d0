"""Training on scored and tagged examples: exact losses, bit-identical bases, micro-batches, ranks, resumption."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blspkd.bin import decode
from blspkd.bin.train import main
from blspkd.config import DataConfig, LossConfig, ModelConfig, PromptConfig
from blspkd.data.batching import collate
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.data.features import FeatureExtractor
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.kaldi.data_dir import KaldiDir, read_continuations
from blspkd.models.description import as_text, describe
from blspkd.models.model_folder import read_config
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.objective import Denominators, KdObjective
from blspkd.training.terms.term import Step

OPTIONS = ["--pad_to_30s", "false", "--attn_implementation", "eager", "--adapter_options",
           "{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}", "--warmup_steps", "1",
           "--batch_utterances", "4", "--num_workers", "0", "--learning_rate", "3e-3", "--log_steps", "1"]
CE = ["--w_input", "0", "--w_response", "0", "--w_response_ce", "1"]
MARK = "{name: prefer, mode: mark}"
SYSTEMS = {
    "filter": ["--operations", "[{name: prefer, mode: filter}]"],
    "tag": ["--operations", "[{name: prefer, mode: tag, untagged: 0.2}]"],
    "weight": ["--operations", "[{name: prefer, mode: weight, beta: 0.2}]"],
    "unlikelihood": [*CE, "--operations", f"[{MARK}]", "--terms.unlikelihood.weight", "0.5"],
    "advantage": [*CE, "--operations", f"[{MARK}]", "--terms.advantage.weight", "0.5"],
    "tags": ["--operations", "[{name: tags, order: [task, style]}]"],
}


@pytest.fixture
def scored(data_dir):
    folder = Path(data_dir)
    ids = [line.split()[0] for line in (folder / "text").read_text().splitlines()]
    (folder / "utt2score").write_text("".join(f"{utt_id} {(7 * n % 12) / 11:.3f}\n" for n, utt_id in enumerate(ids)))
    (folder / "utt2score_equal").write_text("".join(f"{utt_id} 0.7\n" for utt_id in ids))
    (folder / "utt2tags").write_text("".join(f"{utt_id} task=continue style={('words', 'digits')[n % 2]}\n"
                                             for n, utt_id in enumerate(ids)))
    return data_dir


def train(data_dir, llm, encoder, output, *extra):
    main(["--llm", llm, "--speech_encoder", encoder, "--train_dir", data_dir, "--valid_dir", data_dir,
          "--output_dir", str(output), *OPTIONS, *extra])
    return {f"{path.name}:{key}": value for path in sorted((output / "model").rglob("*.safetensors"))
            for key, value in load_file(path).items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("ce", [False, True])
def test_what_asks_for_nothing_is_the_base_system_bit_for_bit(scored, tiny_llm, tiny_encoder, tmp_path, ce):
    """Parameters after 3 steps; every line also has to differ from the base once it asks for something."""
    nothing = {
        "weight": ("[{name: prefer, mode: weight, table: utt2score_equal}]", []),
        "filter": ("[{name: prefer, mode: filter, quantile: 0}]", []),
        "tags": ("[{name: tags, order: []}]", []),
    } if not ce else {
        "weight": ("[{name: prefer, mode: weight, table: utt2score_equal}]", []),
        "unlikelihood": (f"[{MARK}]", ["--terms.unlikelihood.weight", "0"]),
        "advantage": (f"[{MARK}]", ["--terms.advantage.weight", "0"]),
    }
    base = [*(CE if ce else []), "--max_steps", "3", "--save_steps", "3"]
    expected = train(scored, tiny_llm, tiny_encoder, tmp_path / "base", *base)
    config = (tmp_path / "base/model/config.yaml").read_bytes()
    for name, (operations, terms) in nothing.items():
        found = train(scored, tiny_llm, tiny_encoder, tmp_path / name, *base, "--operations", operations, *terms)
        assert equal(found, expected), name
        assert (tmp_path / name / "model/config.yaml").read_bytes() == config
        something = train(scored, tiny_llm, tiny_encoder, tmp_path / f"{name}+", *base, *SYSTEMS[name])
        assert not equal(something, expected), name


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_run_that_was_killed_goes_on_bit_for_bit(scored, tiny_llm, tiny_encoder, tmp_path, name):
    cached = "false" if "--w_response_ce" in SYSTEMS[name] else "true"  # without KL there is no teacher
    options = [*SYSTEMS[name], "--max_steps", "4", "--save_steps", "2", "--eval_steps", "2",
               "--cache_teacher", cached]
    whole = train(scored, tiny_llm, tiny_encoder, tmp_path / "whole", *options)
    halves = tmp_path / "halves"
    halves.mkdir()
    for kept in ("config.yaml", "operations.json", "checkpoint-2"):
        (halves / kept).symlink_to(tmp_path / "whole" / kept)
    assert equal(train(scored, tiny_llm, tiny_encoder, halves, *options), whole)
    history = json.loads((halves / "checkpoint-4/trainer_state.json").read_text())["log_history"]
    logged = {key for row in history for key in row}
    if name in ("unlikelihood", "advantage"):
        assert name in logged and f"eval_{name}" not in logged and "eval_response_ce" in logged


@pytest.mark.parametrize("name", ["weight", "advantage"])
def test_two_ranks_equal_one(warm, scored, tiny_llm, tiny_encoder, tmp_path, name):
    command = ["--llm", tiny_llm, "--speech_encoder", tiny_encoder, "--train_dir", scored, "--valid_dir", scored,
               *OPTIONS, *SYSTEMS[name], "--max_steps", "2", "--schedule", "constant", "--batch_utterances", "3"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    found = []
    for folder, extra in ("two", []), ("one", ["--gradient_accumulation", "2"]):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if folder == "two" else []
        subprocess.run([warm / "bin/python", *launcher, "-m", "blspkd.bin.train", *command, *extra, "--output_dir",
                        str(tmp_path / folder)], check=True, env=environment, capture_output=True, timeout=300)
        found.append(load_file(tmp_path / folder / "model/adapter.safetensors"))
    for key in found[0]:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-3, atol=1e-5)


def test_terms_that_go_by_scores_say_what_they_need(scored, tiny_llm, tiny_encoder, tmp_path, capsys):
    for options, message in (
            (["--operations", f"[{MARK}]"], "terms: unlikelihood: changes the cross-entropy of the response, and"),
            ([*CE], "terms: unlikelihood: needs to know which examples are good; add {name: prefer, mode: mark}")):
        with pytest.raises(SystemExit):
            train(scored, tiny_llm, tiny_encoder, tmp_path / "a", "--terms.unlikelihood.weight", "1", *options)
        assert message in capsys.readouterr().err


def test_a_model_knows_the_tags_of_its_training_and_tasks_have_no_others(scored, tiny_llm, tiny_encoder, tmp_path,
                                                                        capsys):
    frozen = Path(tiny_llm, "model.safetensors").read_bytes()
    train(scored, tiny_llm, tiny_encoder, tmp_path / "a", *SYSTEMS["tags"], "--max_steps", "1")
    assert read_config(tmp_path / "a/model").prompt.tags == {"task": ["continue"], "style": ["digits", "words"]}
    assert "tags             task: continue; style: digits, words" in as_text(describe(tmp_path / "a/model"))
    shutil.copytree(tmp_path / "a/model", tmp_path / "copy/model")
    assert Path(tiny_llm, "model.safetensors").read_bytes() == frozen

    def run(tags, *options):
        capsys.readouterr()
        decode.main(["--model_dir", str(tmp_path / "copy/model"), "--data_dir", scored, "--exp_dir",
                     str(tmp_path / "copy"), "--tasks", f"{{repeat: {{instruction: 'Repeat:', tags: {tags}}}}}",
                     "--systems", "[text, speech]", "--max_new_tokens", "2", *options])
        return json.loads((tmp_path / "copy/decode_repeat_train/hyp.jsonl").read_text().splitlines()[0])

    row = run("{style: digits}", "--tags", "{task: continue}")
    assert row["tags"] == {"task": "continue", "style": "digits"} and row["instruction"] == "Repeat:"
    assert "tags" not in run("{}")
    assert run("{style: digits}", "--tags", "{style: words}")["tags"] == {"style": "digits"}
    with pytest.raises(SystemExit):
        run("{style: roman}")
    assert "tasks: repeat: tags: style: 'roman' is none of the training's: digits, words" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        decode.main(["--llm", tiny_llm, "--prompt_of", scored, "--data_dir", scored, "--exp_dir", str(tmp_path / "b"),
                     "--tasks", "{repeat: {instruction: 'Repeat:'}}", "--systems", "[text]", "--tags", "{a: b}"])
    assert "tags: a: the training of this model had no tags" in capsys.readouterr().err


# --- one step, exactly ---

@pytest.fixture
def objective(tiny_llm, tiny_encoder):
    def build(loss, **model):
        torch.manual_seed(0)
        options = {"heads": 2, "ffn_dim": 32, "num_pre_cif_layers": 1, "num_post_cif_layers": 1}
        config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, **{
            "adapter_options": options, "pad_to_30s": False, "attn_implementation": "eager", **model})
        return KdObjective(SpeechLlm.from_config(config, PromptConfig("Continue:")), loss)
    return build


@pytest.fixture
def batch_of(data_dir, tiny_llm, tiny_encoder):
    """batch_of({index: {field: value}}) -> a batch of these examples with these fields."""
    prompt = Prompt(load_tokenizer(tiny_llm), PromptConfig("Continue:"))
    examples = make_examples(KaldiDir.read(data_dir), read_continuations(f"{data_dir}/continuation"), prompt,
                             DataConfig()).examples
    extractor = FeatureExtractor(tiny_encoder, False)

    def make(marks):
        items = [replace(examples[index], **fields) for index, fields in marks.items()]
        dataset = ExampleDataset(items, extractor, DataConfig(), 0, augment=False)
        return collate([dataset[(0, index)] for index in range(len(items))])
    return make


WITHOUT_QUANTITY = {"quantity": {"weight": 0}}
MARKS = {0: {"weight": 0.3, "score": 0.1, "is_bad": True}, 1: {"weight": 2.0, "score": 0.9},
         2: {"weight": 0.7, "score": 0.5}, 3: {"weight": 1.1, "score": 0.2, "is_bad": True}, 4: {"score": 1.0}}


@pytest.mark.parametrize("loss", [LossConfig(w_input=0, terms=WITHOUT_QUANTITY),
                                  LossConfig(w_input=0, w_response=0, w_response_ce=0.5, terms=WITHOUT_QUANTITY)])
def test_a_weight_multiplies_the_response_s_share_of_one_example(objective, batch_of, loss):
    model, batch = objective(loss), batch_of(MARKS)
    counts = Denominators.of([batch])
    alone = [batch_of({index: {}}) for index in MARKS]
    expected = sum(MARKS[index].get("weight", 1.0) * model(single, Denominators.of([single])).loss.item()
                   * Denominators.of([single]).response for index, single in zip(MARKS, alone, strict=True))
    found = model(batch, counts)
    assert found.loss.item() == pytest.approx(expected / counts.response, rel=1e-4)
    unweighted = model(batch_of(dict.fromkeys(MARKS, {})), counts)
    torch.testing.assert_close(found.sums, unweighted.sums)  # what is logged has no weights
    assert found.loss.item() != pytest.approx(unweighted.loss.item(), rel=1e-3)


def test_the_input_s_share_has_no_weight(objective, batch_of):
    model, loss = objective(LossConfig(w_response=0, terms=WITHOUT_QUANTITY)), []
    for marks in (MARKS, dict.fromkeys(MARKS, {})):
        batch = batch_of(marks)
        loss.append(model(batch, Denominators.of([batch])).loss)
    assert torch.equal(*loss)


TERMS = {"unlikelihood": {"weight": 0.4}, "advantage": {"weight": 0.3, "beta": 0.5}}
LOSSES = {"weights": LossConfig(w_response_ce=0.5),
          **{name: LossConfig(w_input=0, w_response=0, w_response_ce=0.7, terms={name: options} | WITHOUT_QUANTITY)
             for name, options in TERMS.items()}}


def moved(model):
    """The value head, where there is one, at something else than 0."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.terms.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("adapter", ["cformer", "conv"])
def test_micro_batches_add_up(objective, batch_of, name, adapter):
    loss = replace(LOSSES[name], w_input=0, terms=LOSSES[name].terms if name != "weights" else {})
    conv = {"adapter": "conv", "adapter_options": {"bottleneck": 16}} if adapter == "conv" else {}
    loss = replace(loss, terms={key: value for key, value in loss.terms.items() if key != "quantity" or not conv})
    splits = [[MARKS], [{0: MARKS[0]}, {1: MARKS[1], 2: MARKS[2]}, {3: MARKS[3], 4: MARKS[4]}]]
    results = []
    for split in splits:
        batches, model = list(map(batch_of, split)), moved(objective(loss, **conv))
        counts = Denominators.of(batches)
        objectives = [model(batch, counts) for batch in batches]
        total = sum(one.loss for one in objectives)
        total.backward()
        sums = sum(one.sums for one in objectives)
        results.append([total.detach(), sums] + [p.grad for p in model.parameters() if p.requires_grad])
    for one, many in zip(*results, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-4, atol=1e-5)


def logits_and_labels(model, batch):
    """Of every response, [m, V] and [m] in float64, by a plain pass."""
    llm = model.speech_llm
    speech = llm.speech_tokens(batch.features, batch.feature_lengths, batch.windows, batch.n_tokens)
    states = llm.student_states(batch.sequences, speech)
    for row, mask in zip(range(len(states)), batch.sequences.response_mask, strict=True):
        places = mask.nonzero().squeeze(1)
        hidden = states[row, places - 1]
        yield hidden, llm.causal_lm.lm_head(hidden).double(), batch.sequences.ids[row, places]


def test_unlikelihood_is_the_formula(objective, batch_of):
    """w_ce (-sum_good log p) - a sum_bad log max(1 - p, 1e-20), over the number of response tokens."""
    model = objective(LOSSES["unlikelihood"])
    marks = {index: fields | {"weight": 1.0} for index, fields in MARKS.items()}
    batch = batch_of(marks)
    good = bad = 0.0
    for fields, (_, logits, labels) in zip(marks.values(), logits_and_labels(model, batch), strict=True):
        p = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
        if fields.get("is_bad"):
            bad = bad - (1 - p).clamp(min=1e-20).log().sum()
        else:
            good = good - p.log().sum()
    counts = Denominators.of([batch])
    expected = (0.7 * good + 0.4 * bad) / counts.response
    found = model(batch, counts)
    torch.testing.assert_close(found.loss.double(), expected, rtol=1e-5, atol=1e-6)
    gradients = []
    for loss in (found.loss, expected):
        model.zero_grad()
        loss.backward()
        gradients.append([p.grad.clone() for p in model.speech_llm.adapter.parameters() if p.grad is not None])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5)


def test_without_bad_examples_unlikelihood_is_cross_entropy_bit_for_bit(objective, batch_of):
    batch = batch_of({1: MARKS[1], 2: MARKS[2]})
    losses = [objective(replace(LOSSES["unlikelihood"], terms=terms | WITHOUT_QUANTITY))(
        batch, Denominators.of([batch])).loss for terms in ({}, {"unlikelihood": {"weight": 0.4}})]
    assert torch.equal(*losses)


def test_advantage_is_the_formula_and_its_gradients_keep_apart(objective, batch_of):
    """w_ce / 2 sum w(A) CE + weight / 2 sum (R - V)^2; the adapter sees CE alone, with A constant, V the square."""
    model = moved(objective(LOSSES["advantage"]))
    value = model.terms["advantage"].value
    batch = batch_of({index: fields | {"weight": 1.0} for index, fields in MARKS.items()})
    entropy = squares = weights = 0.0
    for fields, (hidden, logits, labels) in zip(MARKS.values(), logits_and_labels(model, batch), strict=True):
        ce = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        advantage = fields["score"] - (hidden.detach().double() @ value.weight[0].double() + value.bias.double())
        factor = (advantage / 0.5).exp().clamp(max=1000).detach()
        entropy = entropy + 0.5 * (factor * ce).sum()
        squares = squares + 0.5 * advantage.square().sum()
        weights = weights + factor.sum()
    counts = Denominators.of([batch])
    found = model(batch, counts)
    torch.testing.assert_close(found.loss.double(), (0.7 * entropy + 0.3 * squares) / counts.response,
                               rtol=1e-5, atol=1e-6)
    sums = dict(zip(model.units, found.sums.tolist(), strict=True))
    assert sums["advantage_weight"] == pytest.approx(float(weights), rel=1e-5)
    assert sums["advantage"] == pytest.approx(float(squares), rel=1e-5)

    adapter, head = list(model.speech_llm.adapter.parameters()), list(value.parameters())
    found.loss.backward()
    of_entropy = torch.autograd.grad(0.7 * entropy / counts.response, adapter, allow_unused=True)
    of_squares = torch.autograd.grad(0.3 * squares / counts.response, head)
    for parameter, gradient in [*zip(adapter, of_entropy, strict=True), *zip(head, of_squares, strict=True)]:
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


def test_the_square_does_not_reach_the_adapter_at_all(objective, batch_of):
    model, batch = moved(objective(LOSSES["advantage"])), batch_of(MARKS)
    term = model.terms["advantage"]
    step = Step(model.speech_llm, batch)
    assert not term.ce_factors(step).requires_grad
    term(step).loss.backward()
    assert all(p.grad is None for p in model.speech_llm.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in term.parameters())


def test_weights_of_advantage_are_cut_at_1000(objective, batch_of):
    loss = replace(LOSSES["advantage"], terms={"advantage": {"beta": 0.01}} | WITHOUT_QUANTITY)
    model, batch = objective(loss), batch_of({4: MARKS[4]})
    found = model(batch, Denominators.of([batch]))
    sums = dict(zip(model.units, found.sums.tolist(), strict=True))
    assert torch.isfinite(found.loss) and sums["advantage_weight"] == pytest.approx(
        1000 * Denominators.of([batch]).response, rel=1e-4)


def test_unmarked_examples_are_plain_cross_entropy(objective, batch_of):
    batch = batch_of({0: {}, 1: {}})
    plain = objective(replace(LOSSES["advantage"], terms=WITHOUT_QUANTITY))(batch, Denominators.of([batch])).loss
    for name in TERMS:
        assert torch.equal(moved(objective(LOSSES[name]))(batch, Denominators.of([batch])).loss, plain)
