import pytest

from blspkd.config import ContinuationConfig, ModelConfig, PromptConfig, TrainConfig
from blspkd.config_file import load_config, save_config, to_dict
from blspkd.errors import ConfigError
from blspkd.evaluation_config import DecodeConfig, TaskConfig, TranscribeConfig


def write(tmp_path, text):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    return path


def test_yaml_and_overrides_fill_the_dataclasses(tmp_path):
    path = write(tmp_path, "model: {llm: some/llm, plora_rank: 8}\ntraining: {learning_rate: 1e-3}\n")
    config = load_config(TrainConfig, path, ["--max_steps", "5", "--model.plora_rank=4",
                                             "--speed_factors", "[0.9, 1.1]", "--train_encoder", "true"])
    assert (config.model.llm, config.model.plora_rank, config.training.learning_rate) == ("some/llm", 4, 1e-3)
    assert config.training.max_steps == 5 and config.data.speed_factors == [0.9, 1.1] and config.model.train_encoder


def test_saved_and_loaded_is_the_same(tmp_path):
    config = load_config(DecodeConfig, write(tmp_path, "tasks: {qa: {metrics: [exact_match]}}"))
    save_config(config, tmp_path / "copy.yaml")
    assert to_dict(load_config(DecodeConfig, tmp_path / "copy.yaml")) == to_dict(config)
    assert config.tasks["qa"].metrics == ["exact_match"]


@pytest.mark.parametrize("text, message", [
    ("model: {plora_rnk: 8}", "model: unknown key 'plora_rnk'; did you mean 'plora_rank'"),
    ("modle: {}", "unknown key 'modle'; did you mean 'model'"),
    ("training: {max_steps: many}", "max_steps: expected int, found 'many'"),
    ("training: {max_steps: 1.5}", "max_steps: expected int"),
    ("training: {bf16: 1}", "bf16: expected bool"),
    ("training: {gradient_accumulation: 0}", "training: gradient_accumulation: 0 is below 1"),
    ("model: {dtype: float16}", "number of that type; use bfloat16"),
    ("loss: {temperature: 0}", "temperature: 0.0 is not a positive number"),
    ("model: {adapter_heads: 2}", "unknown key 'adapter_heads'; it is now adapter_options.heads"),
    ("model: {ctc_classes: 2}", "unknown key 'ctc_classes'; it is now adapter_options.ctc_classes"),
    ("model: {adapter_heads: 2, conv_layers: 1}", "now adapter_options.heads; unknown key 'conv_layers'; it is now "
     "adapter_options.layers (adapter conv only)"),
    ("loss: {w_ctc: 0.3}", "unknown key 'w_ctc'; it is now terms.ctc.weight"),
    ("loss: {terms: {ctc: 0.3}}", "loss: terms.ctc: expected"),
    ("loss: {w_input: 0, w_response: 0}", "there is nothing to learn from"),
    ("loss: {w_response_ce: 1, response_positions: released}", "w_response_ce: cross-entropy needs"),
    ("- a\n- b", "expected `key: value` lines"),
    ("model: [", "not valid YAML"),
])
def test_mistakes_name_the_file_the_key_and_the_remedy(tmp_path, text, message):
    with pytest.raises(ConfigError) as error:
        load_config(TrainConfig, write(tmp_path, text))
    assert message in str(error.value) and "train.yaml" in str(error.value)


@pytest.mark.parametrize("words, message", [
    (["--lerning_rate", "1"], "did you mean 'learning_rate'"),
    (["--max_steps"], "needs a value"),
    (["max_steps", "1"], "expected an option"),
    (["--max_steps", "x"], "expected int"),
    (["--speed_factors", "[0.9"], "not valid YAML"),
    (["--w_ctc", "1"], "it is now --terms.ctc.weight"),
    (["--model.conv_layers", "1"], "it is now --adapter_options.layers"),
    (["--options.heads", "1"], "unknown option"),
    (["--speed_factors", "[0]"], "positive"),
    (["--batch_utterances", "0"], "positive"),
])
def test_mistakes_on_the_command_line(words, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, None, words)


@pytest.mark.parametrize("cls, text, message", [
    (PromptConfig, "speech_position: befor",
     "speech_position: 'befor' is not one of after, before; did you mean 'before'"),
    (ContinuationConfig, "dtype: bf16", "dtype: 'bf16' is not one of float32, bfloat16, float16"),
    (DecodeConfig, "systems: [text, speach]",
     "systems: 'speach' is not one of text, chance, speech, cascade; did you mean 'speech'"),
    (DecodeConfig, "systems: speech", "systems: expected list, found 'speech'"),
    (TranscribeConfig, "task: translat",
     "task: 'translat' is not one of (empty), transcribe, translate; did you mean 'translate'"),
    (TranscribeConfig, "task: no", "task: 'False' is not one of"),
])
def test_a_choice_lists_what_may_be_chosen_and_names_the_nearest(tmp_path, cls, text, message):
    with pytest.raises(ConfigError) as error:
        load_config(cls, write(tmp_path, text))
    assert message in str(error.value) and "train.yaml" in str(error.value)


def test_a_list_of_choices_can_be_given_as_an_option():
    assert load_config(DecodeConfig, None, ["--systems", "[speech, text]"]).systems == ["speech", "text"]


def test_a_tasks_name_cannot_be_mistaken_for_a_type_of_question():
    with pytest.raises(ConfigError, match="tasks: 'qa:who' has a colon"):
        DecodeConfig(tasks={"qa:who": TaskConfig()})


def test_overrides_reach_into_mappings(tmp_path):
    path = write(tmp_path, "model: {adapter_options: {heads: 4, dropout: 0.1}}\nloss: {terms: {ctc: {weight: 1}}}")
    config = load_config(TrainConfig, path, ["--adapter_options.heads", "2", "--model.adapter_options.ffn_dim=1e2",
                                             "--terms.ctc.weight", "0.3", "--terms.quantity", "{weight: 2}"])
    assert config.model.adapter_options == {"heads": 2, "dropout": 0.1, "ffn_dim": "1e2"}  # types: the adapter's
    assert config.loss.terms == {"ctc": {"weight": 0.3}, "quantity": {"weight": 2}}


def test_another_name_leaves_the_options_of_the_base_behind(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {adapter: cformer, adapter_options: {heads: 4}}\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nmodel: {adapter: conv}\n")
    (tmp_path / "c.yaml").write_text("base: a.yaml\nmodel: {adapter: cformer, adapter_options: {dropout: 0.1}}\n")
    assert load_config(TrainConfig, tmp_path / "b.yaml").model.adapter_options == {}
    assert load_config(TrainConfig, tmp_path / "c.yaml").model.adapter_options == {"heads": 4, "dropout": 0.1}
    overridden = load_config(TrainConfig, tmp_path / "a.yaml", ["--adapter", "conv", "--adapter_options.layers", "2"])
    assert overridden.model.adapter_options == {"layers": 2}


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match="nowhere.yaml"):
        load_config(PromptConfig, "nowhere.yaml")

def test_a_file_holds_what_differs_from_its_base(tmp_path):
    (tmp_path / "a.yaml").write_text("system: a\nloss: {w_input: 0.5, w_response: 0.25}\n"
                                     "data: {speed_factors: [0.9, 1.1]}\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.yaml").write_text("base: ../a.yaml\nsystem: b\nloss: {w_input: 0}\n")
    (tmp_path / "sub/c.yaml").write_text("base: b.yaml\ndata: {speed_factors: []}\n")
    config = load_config(TrainConfig, tmp_path / "sub/c.yaml", ["--w_response", "2"])
    assert (config.system, config.loss.w_input, config.loss.w_response) == ("b", 0, 2)
    assert config.data.speed_factors == []


def test_a_base_that_is_missing_or_leads_back_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("base: nosuch.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: base: .*nosuch\.yaml: there is no such"):
        load_config(TrainConfig, tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("base: c.yaml\n")
    (tmp_path / "c.yaml").write_text("base: b.yaml\n")
    with pytest.raises(ConfigError, match="leads back"):
        load_config(TrainConfig, tmp_path / "b.yaml")


def test_a_trained_model_may_listen_in_float16():
    assert ModelConfig(dtype="float16").dtype == "float16"
