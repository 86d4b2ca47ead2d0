"""A trained model's folder: moved, copied, on the hub, with base models that are missing or others."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from blspkd import model_files
from blspkd.config import ModelConfig, PromptConfig
from blspkd.errors import ConfigError, ModelError
from blspkd.evaluation.decoding import fingerprint_model
from blspkd.models.base_models import model_identity
from blspkd.models.chat import SpeechLLM
from blspkd.models.misfit import misfit
from blspkd.models.model_folder import base_folder, check_replaceable, copy_with_base_models, find_folder
from blspkd.models.speech_llm import SpeechLlm

_spec = importlib.util.spec_from_file_location("hub_standin", Path(__file__).parents[1] / "hub_standin.py")
hub_standin = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hub_standin)

OPTIONS = {"heads": 2, "ffn_dim": 32, "num_pre_cif_layers": 1, "num_post_cif_layers": 1}
ROOT = Path(__file__).parents[2]


def build(llm: str | Path, encoder: str | Path, **options) -> SpeechLlm:
    torch.manual_seed(0)
    config = ModelConfig(llm=str(llm), speech_encoder=str(encoder), adapter_options=OPTIONS, pad_to_30s=False,
                         attn_implementation="eager", **options)
    return SpeechLlm.from_config(config, PromptConfig("Continue:"))


def change_weights(folder: Path) -> None:
    """A model like another, with a few other numbers."""
    tensors = load_file(folder / "model.safetensors")
    for tensor in tensors.values():
        tensor.flatten()[0] += 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def make_wide_llm(folder: Path, **options) -> None:
    config = {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(**config | options)).save_pretrained(folder)


def entries(folder: Path) -> dict:
    return json.loads((folder / "base_models.json").read_text())


@pytest.fixture
def work(tmp_path, tiny_llm, tiny_encoder, monkeypatch) -> Path:
    """recipe/llm, recipe/encoder and recipe/exp/model, trained from inside work with relative names."""
    folder = tmp_path / "recipe"
    shutil.copytree(tiny_llm, folder / "llm")
    shutil.copytree(tiny_encoder, folder / "encoder")
    monkeypatch.chdir(folder)
    build("llm", "encoder", plora_rank=2).save_pretrained("exp/model")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def model(work) -> Path:
    return work / "exp" / "model"


def bases(model: SpeechLlm) -> list[Path]:
    return [Path(model.config.llm), Path(model.config.speech_encoder)]


def test_it_works_from_any_working_directory(work, model, monkeypatch):
    (work.parent / "far" / "away").mkdir(parents=True)
    monkeypatch.chdir(work.parent / "far" / "away")
    assert bases(SpeechLlm.from_pretrained(model)) == [work / "llm", work / "encoder"]
    assert bases(SpeechLlm.from_pretrained("../../recipe/exp/model")) == [work / "llm", work / "encoder"]


def test_it_can_be_moved_together_with_its_base_models(work, model):
    before = SpeechLlm.from_pretrained(model).state_dict()
    moved = work.rename(work.parent / "moved")
    loaded = SpeechLlm.from_pretrained(moved / "exp" / "model")
    assert bases(loaded) == [moved / "llm", moved / "encoder"]
    after = loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_it_can_be_moved_alone(work, model):
    moved = work.parent / "a" / "b" / "c"
    moved.parent.mkdir(parents=True)
    assert bases(SpeechLlm.from_pretrained(model.rename(moved))) == [work / "llm", work / "encoder"]


def test_a_copy_of_everything_uses_its_own_base_models(work):
    copy = Path(shutil.copytree(work, work.parent / "copy"))
    assert bases(SpeechLlm.from_pretrained(copy / "exp" / "model")) == [copy / "llm", copy / "encoder"]


def test_another_model_at_the_relative_place_is_passed_over(work):
    copy = Path(shutil.copytree(work, work.parent / "copy"))
    change_weights(copy / "llm")
    assert bases(SpeechLlm.from_pretrained(copy / "exp" / "model")) == [work / "llm", copy / "encoder"]


def test_links_to_the_model_and_to_base_models_may_be_followed(work, model, tmp_path):
    (work / "linked").symlink_to("llm")
    build(work / "linked", work / "encoder").save_pretrained(work / "exp" / "second")
    (work / "exp" / "compared").mkdir()
    (work / "exp" / "compared" / "model").symlink_to("../second")
    moved = work.rename(tmp_path / "moved")
    assert bases(SpeechLlm.from_pretrained(moved / "exp/compared/model")) == [moved / "linked", moved / "encoder"]


def test_base_models_may_be_elsewhere(work, model, tmp_path):
    moved = (work / "llm").rename(tmp_path / "elsewhere")
    loaded = SpeechLlm.from_pretrained(model, base_models={"llm": moved})
    assert bases(loaded) == [moved, work / "encoder"]


def test_other_base_models_are_refused(work, model, tmp_path):
    other = Path(shutil.copytree(work / "llm", tmp_path / "other"))
    change_weights(other)
    with pytest.raises(ModelError) as refused:
        SpeechLlm.from_pretrained(model, base_models={"llm": str(other)})
    for part in (f"{model}: its LLM", f"{other}: another model, its model.safetensors differs", 'base_models={"llm":'):
        assert part in str(refused.value)
    (other / "config.json").unlink()
    with pytest.raises(ModelError, match=r"its config\.json is missing"):
        SpeechLlm.from_pretrained(model, base_models={"llm": other})


def test_a_base_model_that_was_trained_on_is_noticed(work, model):
    change_weights(work / "llm")
    with pytest.raises(ModelError, match="model.safetensors differs"):
        SpeechLlm.from_pretrained(model)


@pytest.mark.parametrize(("base", "name"), [
    ("llm", "adapter_config.json"), ("llm", "chat_template.jinja"), ("llm", "generation_config.json"),
    ("encoder", "adapter_config.json"), ("encoder", "processor_config.json")])
def test_a_file_that_transformers_reads_is_noticed_where_it_was_added(work, base, name):
    (work / base / name).unlink(missing_ok=True)
    build(work / "llm", work / "encoder").save_pretrained(work / "second")
    (work / base / name).write_text("{}")
    with pytest.raises(ModelError, match=rf"another model, its {re.escape(name)} was added"):
        SpeechLlm.from_pretrained(work / "second")


def test_a_full_download_is_the_model_that_was_read_in_part(work, model):
    for name in ("tokenizer.json", "generation_config.json", "normalizer.json", "vocab.json", "merges.txt"):
        (work / "encoder" / name).write_text("{}")
    for name in ("notes.json", "README.md", "processor_config.json"):
        (work / "llm" / name).write_text("{}")
    assert bases(SpeechLlm.from_pretrained(model)) == [work / "llm", work / "encoder"]


def test_a_record_without_digests_refuses_no_file(work, model):
    record = entries(model)
    del record["llm"]["files"]
    (model / "base_models.json").write_text(json.dumps(record))
    (work / "llm" / "special_tokens_map.json").write_text("{}")
    assert bases(SpeechLlm.from_pretrained(model))[0] == work / "llm"


def test_one_message_names_all_that_is_missing_and_where_it_was_looked_for(work, model, tmp_path):
    shutil.rmtree(work / "llm")
    with pytest.raises(ModelError) as refused:
        SpeechLlm.from_pretrained(model)
    said = str(refused.value)
    assert f"{model}: its LLM is missing ({work}/llm: there is no such folder; {tmp_path}/llm: " in said
    assert 'base_models={"llm": ...}' in said and "encoder" not in said.replace("speech_encoder", "")
    shutil.rmtree(work / "encoder")
    with pytest.raises(ModelError) as refused:
        SpeechLlm.from_pretrained(model)
    assert 'base_models={"llm": ..., "speech_encoder": ...}' in str(refused.value)
    with pytest.raises(ModelError, match="/nowhere: there is no such folder"):
        SpeechLlm.from_pretrained(model, base_models={"llm": "/nowhere"})


def test_an_unknown_base_model_is_a_mistake(model):
    with pytest.raises(ConfigError, match="base_models: unknown key 'speech_encodr'; did you mean 'speech_encoder'"):
        SpeechLlm.from_pretrained(model, base_models={"speech_encodr": "x"})


def test_a_model_of_an_older_version_loads_as_it_did(work, model, monkeypatch, tmp_path):
    (model / "base_models.json").unlink()
    monkeypatch.chdir(work)
    assert bases(SpeechLlm.from_pretrained("exp/model")) == [Path("llm"), Path("encoder")]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r'exp/model: its LLM is missing \(llm: there is no such folder\).*"llm": '):
        SpeechLlm.from_pretrained(model)
    change_weights(work / "llm")  # nobody can tell
    where = {"llm": work / "llm", "speech_encoder": work / "encoder"}
    assert bases(SpeechLlm.from_pretrained(model, base_models=where)) == list(where.values())


def test_another_llm_that_no_record_tells_is_refused_with_both_widths(work, model):
    (model / "base_models.json").unlink()
    shutil.rmtree(work / "llm")
    make_wide_llm(work / "llm")
    where = {"llm": work / "llm", "speech_encoder": work / "encoder"}
    with pytest.raises(ModelError) as refused:
        SpeechLlm.from_pretrained(model, base_models=where)
    for part in (f"do not fit {work}/encoder (24 wide) and {work}/llm (64 wide)",
                 "they were trained with an LLM 32 wide (to_llm."):
        assert part in str(refused.value)


@pytest.mark.parametrize(("saved", "here", "expected"), [
    ("[8, 16]", "[24, 16]", "trained with a speech encoder 8 wide (x.weight)"),
    ("[8, 16]", "[8, 32]", "trained with an LLM 16 wide (x.weight)"),
    ("[8, 16]", "[8, 20]", "x.weight is [8, 16] in the file and [8, 20] here"), ("[]", "[24]", "x.weight is [] in"),
])
def test_the_width_of_the_training_is_told_where_shapes_tell_it(saved, here, expected):
    error = RuntimeError(f"Error(s) in loading:\n\tsize mismatch for x.weight: copying a param with shape torch.Size("
                         f"{saved}) from checkpoint, the shape in current model is torch.Size({here}).")
    assert expected in misfit(error, ModelConfig(llm="L", speech_encoder="E"), 24, 32)


def test_plora_of_another_llm_is_refused_with_both_shapes(work, model):
    (model / "base_models.json").unlink()
    shutil.rmtree(work / "llm")
    make_wide_llm(work / "llm", hidden_size=32)
    where = {"llm": work / "llm", "speech_encoder": work / "encoder"}
    with pytest.raises(ModelError, match=r"lora_\w.* is \[.*48.*\] in the file and \[.*64.*\] here"):
        SpeechLlm.from_pretrained(model, base_models=where)


@pytest.mark.parametrize(("text", "message"), [
    ("{", "is not JSON"), ("[]", "expected"), ('{"llm": {"path": 3}}', "llm: path: expected str"),
    ('{"llm": {"files": {"a": []}}}', "files.a"), ('{"adapter": {}}', "unknown key 'adapter'"), ("\xff", "is not JSON"),
])
def test_a_damaged_record_is_explained(model, text, message):
    (model / "base_models.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match=rf"(?s){model}/base_models\.json.*{message}.*get the model again"):
        SpeechLlm.from_pretrained(model)


def test_base_models_are_read_once_however_many_checkpoints_are_saved(work, monkeypatch):
    model = build(work / "llm", work / "encoder")
    for path in work.rglob("*"):
        os.utime(path, (1e9, 1e9))
    seen, digest = [], model_files.file_digest
    monkeypatch.setattr(model_files, "file_digest", lambda path: seen.append(path.name) or digest(path))
    for step in (1, 2, 3):
        model.save_pretrained(work / f"checkpoint-{step}")
    SpeechLlm.from_pretrained(work / "checkpoint-3")
    assert seen.count("model.safetensors") == 2 and len(seen) == len(entries(work / "checkpoint-3")["llm"]["files"]) + (
        len(entries(work / "checkpoint-3")["speech_encoder"]["files"]))
    change_weights(work / "llm")
    with pytest.raises(ModelError, match="differs"):
        SpeechLlm.from_pretrained(work / "checkpoint-3")


def test_a_checkpoint_is_saved_when_the_base_models_have_gone(work):
    model = build(work / "llm", work / "encoder")
    hidden = (work / "llm").rename(work / "hidden")
    model.save_pretrained(work / "checkpoint-1")
    assert "files" not in entries(work / "checkpoint-1")["llm"]
    hidden.rename(work / "llm")
    assert bases(SpeechLlm.from_pretrained(work / "checkpoint-1")) == [work / "llm", work / "encoder"]


def test_what_runs_or_is_not_read_is_no_part_of_a_base_model(work):
    for name in ("pytorch_model.bin", "model.py", "model.fp32.safetensors"):
        (work / "llm" / name).write_bytes(b"0")
    build(work / "llm", work / "encoder").save_pretrained(work / "second")
    assert set(entries(work / "second")["llm"]["files"]) == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja"}


@pytest.mark.parametrize(("umask", "modes"), [(0o022, (0o644, 0o755)), (0o077, (0o600, 0o700))])
def test_others_may_read_what_the_umask_lets_them(work, umask, modes):
    before = os.umask(umask)
    try:
        model = build(work / "llm", work / "encoder", plora_rank=2, train_encoder=True)
        model.save_pretrained(work / "mine")
        (work / "llm" / "model.safetensors").chmod(0o600)
        copy_with_base_models(work / "mine", work / "copy")
    finally:
        os.umask(before)
    for path in (work / "mine", work / "copy", *(work / "mine").rglob("*"), *(work / "copy").rglob("*")):
        assert path.stat().st_mode & 0o777 == modes[path.is_dir()], path


def test_where_base_models_are_is_no_part_of_what_was_trained(work, model, tmp_path):
    before = fingerprint_model(model, model_identity)
    moved = work.rename(tmp_path / "moved") / "exp" / "model"
    assert fingerprint_model(moved, model_identity) == before
    record = entries(moved)
    record["llm"]["absolute"] = "/on/another/machine"
    (moved / "base_models.json").write_text(json.dumps(record))
    assert fingerprint_model(moved, model_identity) == before


def test_a_self_contained_copy(work, model, tmp_path):
    build(work / "llm", work / "encoder", plora_rank=2).save_pretrained(model)
    (work / "llm" / "LICENSE").write_text("free")
    for name in ("llm/pytorch_model.bin", "llm/model.py", "exp/model/optimizer.pt", "exp/model/trainer_state.json"):
        (work / name).write_bytes(b"0")
    expected = SpeechLlm.from_pretrained(model).state_dict()
    copy_with_base_models(model, tmp_path / "copy")
    copy = (tmp_path / "copy").rename(tmp_path / "moved")
    shutil.rmtree(work)
    assert {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} == {
        "config.yaml", "config.json", "base_models.json", "adapter.safetensors", "plora/adapter_model.safetensors",
        "plora/adapter_config.json", "plora/README.md",
        *(f"base/llm/{name}" for name in ("config.json", "generation_config.json", "model.safetensors", "LICENSE",
                                          "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")),
        *(f"base/speech_encoder/{name}" for name in ("config.json", "model.safetensors", "preprocessor_config.json"))}
    loaded = SpeechLlm.from_pretrained(copy)
    assert bases(loaded) == [copy / "base/llm", copy / "base/speech_encoder"]
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    for path in copy.rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path


def test_a_copy_can_be_copied_again(work, model, tmp_path):
    copy_with_base_models(model, tmp_path / "copy")
    copy_with_base_models(tmp_path / "copy", tmp_path / "again")
    files = {path.relative_to(tmp_path / "copy"): path.read_bytes() for path in (tmp_path / "copy").rglob("*.*")}
    again = {path.relative_to(tmp_path / "again"): path.read_bytes() for path in (tmp_path / "again").rglob("*.*")}
    assert files == again


def test_a_copy_replaces_nothing_and_holds_no_pickles(work, model, tmp_path):
    with pytest.raises(ConfigError, match="is there already"):
        copy_with_base_models(model, work)
    (model / "plora" / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="plora/adapter_config.json: is damaged"):
        copy_with_base_models(model, tmp_path / "copy")
    (model / "base_models.json").unlink()
    (work / "llm" / "model.safetensors").rename(work / "llm" / "pytorch_model.bin")
    where = {"llm": work / "llm", "speech_encoder": work / "encoder"}
    with pytest.raises(ModelError, match="not in safetensors"):
        copy_with_base_models(model, tmp_path / "copy", where)
    assert not (tmp_path / "copy").exists()


def test_a_saved_model_takes_the_place_of_no_other_files(work, model, tmp_path):
    copy_with_base_models(model, tmp_path / "copy")
    before = {path: path.read_bytes() for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    with pytest.raises(ModelError, match=r"copy: holds base/llm/chat_template\.jinja, which would be lost"):
        SpeechLLM.from_pretrained(tmp_path / "copy", device="cpu").save_pretrained(tmp_path / "copy")
    assert before == {path: path.read_bytes() for path in (tmp_path / "copy").rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["README.md", "results.json", "terms.safetensors", "plora/notes.txt", ".gitignore"])
def test_what_would_be_lost_is_named(model, name):
    (model / name).write_text("x")
    with pytest.raises(ModelError, match=rf"model: holds {re.escape(name)}, which would be lost.*name another folder"):
        check_replaceable(model)


def test_what_is_no_folder_is_not_replaced(tmp_path):
    (tmp_path / "thesis").write_text("x")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "plora").symlink_to("inner")
    for place in (tmp_path / "thesis", tmp_path / "folder"):
        with pytest.raises(ModelError, match="name another folder"):
            check_replaceable(place)


def test_a_model_and_an_empty_folder_are_replaced(work, tmp_path):
    trained = build(work / "llm", work / "encoder", plora_rank=2, train_encoder=True)
    (tmp_path / "new" / "folder").mkdir(parents=True)
    for _ in range(2):
        check_replaceable(tmp_path / "new" / "folder")
        trained.save_pretrained(tmp_path / "new" / "folder")
    check_replaceable(tmp_path / "new" / "folder")


def test_a_folder_is_found_or_missed_without_the_hub(model, tmp_path):
    assert find_folder(model) == model and find_folder(str(model)) == model
    with pytest.raises(ConfigError, match="revision: main: .* is a folder"):
        find_folder(model, "main")
    for name in ("nothing", "./x", str(tmp_path / "x"), "recipe/nothing", "a/b/c"):
        with pytest.raises(ModelError, match=f"{name}: there is no such folder; name"):
            find_folder(name)
    with pytest.raises(ModelError, match="some/model: .*as a Hugging Face id it cannot be downloaded"):
        find_folder("some/model")


def test_a_folder_is_looked_into_without_torch():
    code = "import sys, blspkd.models.model_folder; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# With a hub

SAVE = """
import sys
from blspkd.config import ModelConfig, PromptConfig
from blspkd.data.prompts import load_tokenizer
from blspkd.models.base_models import model_identity
from blspkd.models.speech_llm import SpeechLlm
options = {"heads": 2, "ffn_dim": 32, "num_pre_cif_layers": 1, "num_post_cif_layers": 1}
config = ModelConfig(llm="someone/llm", speech_encoder="someone/encoder", adapter_options=options, plora_rank=2,
                     pad_to_30s=False, attn_implementation="eager")
load_tokenizer("someone/llm")
SpeechLlm.from_config(config, PromptConfig("Continue:")).save_pretrained(sys.argv[1])
alone = SpeechLlm.from_config(config, PromptConfig("Continue:"), with_llm=False)
print(alone.config.llm, model_identity("someone/llm"))
"""
LOAD = """
import json, sys
import torch
from blspkd.errors import BlspkdError
from blspkd.data.prompts import load_tokenizer
from blspkd.data.features import FeatureExtractor
from blspkd.models.embedding_table import EmbeddingTable
from blspkd.models.model_folder import copy_with_base_models
from blspkd.models.speech_llm import SpeechLlm
from pathlib import Path

def load(name, **options):
    try:
        model = SpeechLlm.from_pretrained(name, **options)
        load_tokenizer(model.config.llm), FeatureExtractor(model.config.speech_encoder, False)
        return [model.config.llm, model.config.speech_encoder, model.embedding_table.double().sum().item()]
    except BlspkdError as error:
        return f"{type(error).__name__}: {error}"

def table(name):
    return EmbeddingTable.from_pretrained(name).get_input_embeddings().weight.double().sum().item()

def copy(name, destination):
    copy_with_base_models(Path(name), Path(destination))

said = []
for call, name, options in json.loads(sys.argv[1]):
    said.append(globals()[call](name, **options))
print(json.dumps(said))
"""


class Shared:
    """A hub with base models, a second commit of the LLM, and a trained model that used the first."""

    def __init__(self, hub, folder: Path, llm: Path, encoder: Path, python: Path):
        self.hub, self.folder, self.python = hub, folder, python
        self.llm, self.encoder = hub.add("someone/llm", llm), hub.add("someone/encoder", encoder)
        self.saved = self.run("first", SAVE, str(folder / "model"))
        self.first = llm
        self.changed = Path(shutil.copytree(llm, folder / "changed"))
        change_weights(self.changed)
        self.newer = hub.add("someone/llm", self.changed)
        files = {path.relative_to(folder / "model").as_posix(): path.read_bytes()
                 for path in (folder / "model").rglob("*.*")}
        pickles = {"optimizer.bin": b"0", "data.pkl": b"0", "code.py": b"0"}
        self.old = hub.add("someone/speech", {"README.md": b"nothing yet"})
        self.speech = hub.add("someone/speech", files | pickles)

    def run(self, home: str, code: str, *arguments: str, **environment: str) -> str:
        done = subprocess.run([self.python, "-c", code, *arguments], capture_output=True, text=True, check=False,
                              cwd=self.folder, env=self.hub.environment(self.folder / home, **environment))
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    def load(self, home: str, *calls: list, **environment: str) -> list:
        return json.loads(self.run(home, LOAD, json.dumps(calls), **environment))


@pytest.fixture(scope="module")
def shared(warm, tiny_llm, tiny_encoder, tmp_path_factory):
    with hub_standin.serve() as hub:
        yield Shared(hub, tmp_path_factory.mktemp("shared"), Path(tiny_llm), Path(tiny_encoder), warm / "bin/python")


def test_the_commits_that_were_loaded_are_recorded(shared):
    recorded = entries(shared.folder / "model")
    assert {key: (entry["id"], entry["revision"]) for key, entry in recorded.items()} == {
        "llm": ("someone/llm", shared.llm), "speech_encoder": ("someone/encoder", shared.encoder)}
    digests = model_files.model_digests(shared.first)
    assert recorded["llm"]["files"].items() <= digests.items()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= recorded["llm"]["files"].keys()
    assert yaml.safe_load((shared.folder / "model/config.yaml").read_text())["model"]["llm"] == (
        f"someone/llm@{shared.llm}")
    assert shared.saved == f"someone/llm@{shared.llm} {({'id': 'someone/llm', 'revision': shared.llm})}"


def test_a_model_of_the_hub_is_loaded_with_the_commits_it_was_trained_with(shared):
    before = len(shared.hub.requests)
    total = load_file(shared.first / "model.safetensors")["model.embed_tokens.weight"].double().sum().item()
    first = [f"someone/llm@{shared.llm}", f"someone/encoder@{shared.encoder}", total]
    found = shared.load("second", ["load", "someone/speech", {}], ["load", "someone/speech", {"revision": shared.old}],
                        ["load", "someone/nothing", {}], ["load", str(shared.folder / "model"), {}],
                        ["table", first[0], {}])
    assert found[4] == total
    assert found[0] == found[3] == first
    assert found[1].startswith("ModelError: someone/speech: there is no trained model of blspkd in it")
    assert found[2].startswith("ModelError: someone/nothing: there is no such folder, and as a Hugging Face id")
    asked = [path for method, path in shared.hub.requests[before:] if method == "GET" and "/resolve/" in path]
    assert any(path.endswith("adapter_model.safetensors") for path in asked)
    assert not [path for path in asked if path.endswith((".bin", ".pkl", ".py"))]
    offline = shared.load("second", ["load", "someone/speech", {}], HF_HUB_OFFLINE="1")
    assert offline == [first]


def test_other_models_of_the_hub_are_refused(shared, tmp_path):
    alone = Path(shutil.copytree(shared.folder / "model", tmp_path / "alone"))
    record = json.loads((alone / "base_models.json").read_text())
    record["llm"]["revision"] = "0" * 40
    (alone / "base_models.json").write_text(json.dumps(record))
    model = str(shared.folder / "model")
    found = shared.load(
        "third", ["load", model, {"base_models": {"llm": "someone/llm@main"}}], ["load", str(alone), {}],
        ["load", model, {"base_models": {"llm": "someone/llm"}}],
        ["load", model, {"base_models": {"llm": str(shared.first)}}],
        ["load", model, {"base_models": {"llm": str(shared.changed)}}])
    assert f"{model}: its LLM is missing (someone/llm@main: another revision, {shared.newer} where" in found[0]
    assert f"{alone}: its LLM is missing (someone/llm@{'0' * 40}: cannot be downloaded" in found[1]
    assert found[2][0] == f"someone/llm@{shared.llm}" and found[3][0] == str(shared.first)
    assert "another model, its model.safetensors differs" in found[4]


def test_a_folder_of_the_training_may_be_replaced_by_the_same_model_on_the_hub(shared, tmp_path, tiny_encoder):
    llm = Path(shutil.copytree(shared.first, tmp_path / "llm"))
    build(llm, tiny_encoder).save_pretrained(tmp_path / "model")
    shutil.rmtree(llm)
    found = shared.load("fourth", ["load", str(tmp_path / "model"), {"base_models": {"llm": "someone/llm"}}],
                        ["load", str(tmp_path / "model"), {"base_models": {"llm": f"someone/llm@{shared.llm}"}}])
    assert "another model, its model.safetensors differs" in found[0]
    assert found[1][0] == f"someone/llm@{shared.llm}"


def test_a_self_contained_copy_keeps_the_names_of_its_base_models(shared, tmp_path):
    copy = tmp_path / "copy"
    shared.load("fifth", ["copy", str(shared.folder / "model"), {"destination": str(copy)}])
    recorded = entries(copy)["llm"]
    assert (recorded["id"], recorded["revision"], recorded["path"]) == ("someone/llm", shared.llm, "base/llm")
    assert yaml.safe_load((copy / "config.yaml").read_text())["model"]["llm"] == "someone/llm"
    assert bases(SpeechLlm.from_pretrained(copy)) == [copy / "base/llm", copy / "base/speech_encoder"]
    shutil.rmtree(copy / "base")
    assert shared.load("fifth", ["load", str(copy), {}])[0][0] == f"someone/llm@{shared.llm}"


def test_a_base_models_folder_is_told_without_a_download(tiny_llm):
    assert base_folder(tiny_llm) == Path(tiny_llm)
    assert base_folder("some/model@main", download=False) is None
    with pytest.raises(ModelError, match="some/model@main: cannot be downloaded"):
        base_folder("some/model@main")
