"""BLSP (arXiv 2309.00916) as the mini recipe's blsp.yaml has it: its loss, what it trains, and that it listens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from blspkd.config import DataConfig, PromptConfig, TrainConfig
from blspkd.config_file import load_config
from blspkd.data.batching import Batch, collate
from blspkd.data.examples import Example, ExampleDataset, LoadedExample, make_examples
from blspkd.data.features import FeatureExtractor, Features
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.kaldi.data_dir import KaldiDir, read_continuations
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.objective import Denominators, KdObjective
from blspkd.training.trainer import KdTrainer, training_arguments

YAML = Path(__file__).parents[2] / "egs/mini/blspkd1/conf/compare/blsp.yaml"


@pytest.fixture
def config(tiny_llm, tiny_encoder) -> TrainConfig:
    """The recipe's file, with a bottleneck and a training that fit the small models."""
    return load_config(TrainConfig, YAML, [
        "--llm", tiny_llm, "--speech_encoder", tiny_encoder, "--adapter_options.bottleneck", "48", "--max_steps", "2",
        "--batch_utterances", "4", "--bf16", "false", "--warmup_steps", "0", "--save_steps", "99", "--eval_steps", "0"])


@pytest.fixture
def objective(config) -> KdObjective:
    torch.manual_seed(0)
    return KdObjective(SpeechLlm.from_config(config.model, PromptConfig("Continue:")), config.loss)


@pytest.fixture
def examples(data_dir, tiny_llm) -> list[Example]:
    prompt = Prompt(load_tokenizer(tiny_llm), PromptConfig("Continue:"))
    return make_examples(KaldiDir.read(data_dir), read_continuations(f"{data_dir}/continuation"), prompt,
                         DataConfig()).examples


def loss_of(objective: KdObjective, batch: Batch) -> torch.Tensor:
    return objective(batch, Denominators.of([batch])).loss


def test_the_loss_is_the_cross_entropy_of_the_response(objective, examples, tiny_encoder):
    """L = -1/|y| sum_j log p(y_j | prefix, speech, suffix, y_<j) over all responses of the batch, from whole logits."""
    dataset = ExampleDataset(examples, FeatureExtractor(tiny_encoder, False), DataConfig(), 0, augment=False)
    batch = collate([dataset[(0, index)] for index in range(len(examples))])
    found = loss_of(objective, batch)
    model = objective.speech_llm
    logits, labels = [], []
    with torch.no_grad():
        speech = model.speech_tokens(batch.features, batch.feature_lengths, batch.windows)
        embed = model.causal_lm.get_input_embeddings()
        for row, example in enumerate(batch.examples):
            pieces = [embed(torch.tensor(example.prefix)), speech.tokens[row, :speech.n_tokens[row]],
                      embed(torch.tensor(example.suffix)), embed(torch.tensor(example.response))]
            whole = model.causal_lm(inputs_embeds=torch.cat(pieces)[None]).logits[0].double()
            logits.append(whole[-len(example.response) - 1:-1])
            labels.append(torch.tensor(example.response).long())
    assert len(set(map(len, labels))) > 1  # a mean of utterances' means would be another number
    expected = cross_entropy(torch.cat(logits), torch.cat(labels))
    torch.testing.assert_close(found.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_two_steps_change_the_adapter_and_nothing_else(objective, config, examples, tiny_encoder, tmp_path):
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    KdTrainer(objective, config, training_arguments(config, tmp_path), examples, examples,
              FeatureExtractor(tiny_encoder, False)).train()
    after = objective.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert after.keys() == before.keys()
    assert changed == {name for name in after if name.startswith("speech_llm.adapter.")}
    assert {name.split(".")[1] for name in after.keys() - changed} == {"encoder", "llm"}


ANSWERS, WIDTH = 8, 24  # what can be said; the encoder's width
ONE_ANSWER = np.zeros(1, dtype=np.int32)


def spoken(template: Example, said: np.ndarray, seed: int) -> list[LoadedExample]:
    """Utterances that say `said` [n], a noisy pattern of frames each; the answer is a token that depends on it."""
    patterns = np.random.default_rng(0).standard_normal((ANSWERS, 12, WIDTH))
    noise = np.random.default_rng(seed).standard_normal((len(said), 12, WIDTH))
    frames = torch.from_numpy(patterns[said] + 0.3 * noise).float()
    return [LoadedExample(replace(template, utt_id=str(place), response=ONE_ANSWER + 20 + word),
                          Features([frames[place]], [12]), encoded=True) for place, word in enumerate(said)]


def other_audio(loaded: list[LoadedExample], kind: str) -> list[LoadedExample]:
    """The same texts with their own audio, with that of others, as often each, or with none."""
    order = np.random.default_rng(5).permutation(len(loaded)) if kind == "shuffled" else range(len(loaded))
    silence = Features([torch.zeros(12, WIDTH)], [12])
    return [replace(item, features=silence if kind == "none" else loaded[place].features)
            for item, place in zip(loaded, order, strict=True)]


def test_held_out_cross_entropy_falls_for_the_right_audio_and_stays_at_the_level_of_none_for_shuffled(
        config, examples):
    """What is learnt from shuffled audio is how often each answer comes, which needs no audio."""
    said = np.arange(512) % ANSWERS
    train, held_out = (spoken(examples[0], said, seed) for seed in (1, 2))
    found = {}
    for kind in ("own", "shuffled", "none"):
        torch.manual_seed(0)
        objective = KdObjective(SpeechLlm.from_config(config.model, PromptConfig("Continue:")), config.loss)
        optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
        items = other_audio(train, kind)
        for step in range(50):
            chosen = np.random.default_rng(step).choice(len(items), 32, replace=False)
            loss_of(objective, collate([items[place] for place in chosen])).backward()
            optimiser.step()
            optimiser.zero_grad()
        with torch.no_grad():
            right = held_out if kind != "none" else other_audio(held_out, "none")
            found[kind] = float(loss_of(objective.eval(), collate(right)))
    assert found["own"] < found["none"] - 2
    assert abs(found["shuffled"] - found["none"]) < 0.4, found
