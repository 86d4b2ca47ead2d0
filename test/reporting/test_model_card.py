"""The model card: metadata that the hub can read, the very numbers of results.json, an example that runs."""

import ast
import json
import re
import runpy

import numpy as np
import pytest
import soundfile
import torch
import yaml
from huggingface_hub import ModelCard

from blspkd.config import ModelConfig, PromptConfig
from blspkd.config_file import save_config
from blspkd.data.conversation import ids_around_audios, read_messages
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.models.model_folder import read_config
from blspkd.models.speech_llm import SpeechLlm
from blspkd.reporting.model_card import licence_in, write_card

ADAPTER = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}
VALUES = {("blspkd", "repeat", "wer"): 0.412345, ("blspkd", "translate", "bleu"): 98.7654,
          ("text", "repeat", "wer"): 0.0, ("chance", "repeat", "wer"): 100.1,
          ("blspkd", "repeat", "count_accuracy"): 95.6667,
          ("blspkd", "repeat", "empty"): 0.0, ("blspkd", "qa:who", "exact_match"): 50.0}


@pytest.fixture
def folder(tiny_llm, tiny_encoder, tmp_path):
    """exp/train/model of a recipe, with what stage 4 writes beside it."""
    torch.manual_seed(0)
    exp = tmp_path / "recipe" / "exp" / "train"
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=ADAPTER, pad_to_30s=False,
                         plora_rank=2)
    SpeechLlm.from_config(config, PromptConfig("It's \"this\":")).save_pretrained(exp / "model")
    (exp / "config.yaml").write_text("system: blspkd\n")
    rows = [{"system": system, "set": "test_heard", "task": task, "metric": metric, "value": value,
             "ci95": [0.0, 101.0], "n": 300, "seed": 0, "signature": "s"}
            for (system, task, metric), value in VALUES.items()]
    (exp / "results.json").write_text(json.dumps(rows))
    return exp / "model"


def test_its_numbers_equal_those_of_results_json(folder):
    card = ModelCard(write_card(folder, "me/listener"))
    found = {("blspkd", result.task_name, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert found == {key: value for key, value in VALUES.items()
                     if key[0] == "blspkd" and key[2] != "empty" and ":" not in key[1]}
    assert {result.dataset_name for result in card.data.eval_results} == {"test_heard"}
    assert "| text | 0.0 [0.0, 101.0] |" in card.text and "| chance | 100.1" in card.text


def test_its_metadata_are_what_the_hub_reads(folder):
    data = ModelCard(write_card(folder, "me/listener")).data
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("blspkd", "audio-text-to-text", "listener")
    assert data.base_model is None and data.license is None  # folders of this machine, without a licence


def test_base_models_of_the_hub_are_named_with_their_licence(folder, tiny_llm, tiny_encoder):
    records = json.loads((folder / "base_models.json").read_text())
    for key, name in (("llm", "org/llm"), ("speech_encoder", "org/encoder")):
        records[key]["id"], records[key]["revision"] = name, "0" * 40
    (folder / "base_models.json").write_text(json.dumps(records))
    card = ModelCard(write_card(folder, "me/listener"))
    assert card.data.base_model == ["org/llm", "org/encoder"] and "org/llm hears through org/encoder" in card.text
    assert "| LLM | org/llm |" in card.text


def test_licences_are_read_where_a_model_names_them(tmp_path):
    assert licence_in(tmp_path) == ""
    (tmp_path / "LICENSE").write_text("                 Apache License\n        Version 2.0")
    assert licence_in(tmp_path) == "apache-2.0"
    (tmp_path / "README.md").write_text("---\nlicense: llama3.2\n---\n# Model\n")
    assert licence_in(tmp_path) == "llama3.2"
    (tmp_path / "README.md").write_text("---\nlicense: [unclosed\n---\n")
    assert licence_in(tmp_path) == "apache-2.0"


def test_licences_of_the_data_are_those_that_the_recipe_writes_down(folder):
    assert "which are not written down here" in write_card(folder)
    recipe = folder.parents[2]
    (recipe / "run.sh").touch()
    (recipe / "README.md").write_text("# Recipe\n\nThe corpus has the licence CC BY 4.0.\n\nOther words.\n")
    assert "- data: The corpus has the licence CC BY 4.0." in write_card(folder)
    (recipe / "LICENCES").write_text("corpus: CC BY 4.0\nvoices: GPL\n")
    assert "- data: voices: GPL" in write_card(folder) and "Other words" not in write_card(folder)


def test_its_example_runs(folder, tmp_path, monkeypatch, capsys):
    soundfile.write(tmp_path / "speech.wav", np.random.default_rng(0).standard_normal(16000) * 0.1, 16000)
    code = re.search(r"```python\n(.*?)```", write_card(folder), re.DOTALL)[1]
    (tmp_path / "example.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("example.py")
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize("options", [
    {"instruction": ""}, {"instruction": "Continue:", "speech_position": "before"}, {"instruction": "Say \"it\":"},
    {"instruction": " \n"}], ids=["no instruction", "speech first", "speech last", "white space"])
def test_its_example_has_the_layout_of_the_training(folder, tiny_llm, options):
    saved = read_config(folder)
    saved.prompt = PromptConfig(**options)
    save_config(saved, folder / "config.yaml")
    code = re.search(r"model\.chat\((.*)\)\nprint", write_card(folder), re.DOTALL)[1]
    prompt = Prompt(load_tokenizer(tiny_llm), saved.prompt)
    expected = prompt.around(options["instruction"].strip())
    assert ids_around_audios(prompt, read_messages(ast.literal_eval(code))) == list(expected)


def test_a_model_that_was_not_measured_has_a_card_without_results(folder):
    (folder.parent / "results.json").unlink()
    card = write_card(folder, "me/listener")
    assert "model-index" not in yaml.safe_load(card.split("---\n")[1]) and "## Results" not in card
