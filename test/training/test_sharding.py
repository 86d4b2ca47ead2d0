"""An LLM in parts trains what a whole one does, bit for bit, and no process holds more than its parts."""

import json
import os
import subprocess
import threading
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from blspkd.config import DataConfig, LossConfig, ModelConfig, PromptConfig
from blspkd.data.batching import collate
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.data.features import FeatureExtractor
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ModelError
from blspkd.free_memory import give_back
from blspkd.kaldi.data_dir import KaldiDir, read_continuations
from blspkd.models.base_models import load_llm
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.checkpoint import complete_checkpoints
from blspkd.training.objective import Denominators, KdObjective
from blspkd.training.sharding import Sharding, data_parallel, decoder_layers, is_sharded
from blspkd.training.shared_weights import share_frozen

SMALL = {"adapter_options": {"heads": 2, "ffn_dim": 32, "num_pre_cif_layers": 1, "num_post_cif_layers": 1},
         "pad_to_30s": False}
CPU = torch.device("cpu")


def start(run, world: int, folder: Path, *arguments, machines: int = 1) -> None:
    mp.start_processes(joined, (run, world, machines, folder, arguments), nprocs=world, start_method="fork")


def joined(rank: int, run, world: int, machines: int, folder: Path, arguments: tuple) -> None:
    local = world // machines
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(local), "LOCAL_RANK": str(rank % local)}
    dist.init_process_group("gloo", f"file://{folder}/rendezvous{hash(arguments)}", rank=rank, world_size=world,
                            timeout=timedelta(seconds=60))
    run(rank, folder, *arguments)
    dist.destroy_process_group()


def batches_of(llm: str, encoder: str, data: str) -> list:
    prompt = Prompt(load_tokenizer(llm), PromptConfig("Continue:"))
    examples = make_examples(KaldiDir.read(data), read_continuations(f"{data}/continuation"), prompt,
                             DataConfig()).examples
    dataset = ExampleDataset(examples, FeatureExtractor(encoder, False), DataConfig(), 0, augment=False)
    return [collate([dataset[(0, 3 * i + j)] for j in range(3)]) for i in range(4)]


def train(rank: int, folder: Path, llm: str, encoder: str, data: str, which: str, how: str) -> None:
    """Three steps of two micro-batches, validation after each; the first process writes what it has trained."""
    torch.manual_seed(0)
    spread = Sharding.over(which, CPU).load if which != "none" else None
    config = ModelConfig(llm=llm, speech_encoder=encoder, plora_rank=2, **SMALL)
    objective = KdObjective(SpeechLlm.from_config(config, PromptConfig("Continue:"), spread=spread), LossConfig())
    model = objective.speech_llm
    if how == "checkpointing":
        model.enable_gradient_checkpointing()
    parallel = data_parallel(objective, CPU)
    batches, validation = batches_of(llm, encoder, data), []
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    for step in range(3):
        objective.train()
        micro = [batches[(2 * step + k + rank) % 4] for k in range(2)]
        for k, batch in enumerate(micro):
            with parallel.no_sync() if k == 0 else nullcontext():
                parallel(batch, Denominators.of(micro), step).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        objective.eval()
        with torch.no_grad():
            validation.append(objective(batches[rank], Denominators.of(batches)).sums)
    sharded = [p for p in model.parameters() if is_sharded(p)]
    held = sum(p.to_local().numel() for p in sharded) / max(1, sum(p.numel() for p in sharded))
    assert all(not p.requires_grad for p in sharded) and (held <= 0.6) == (which != "none" or not sharded)
    assert len(sharded) == (which != "none") * sum(not p.requires_grad for p in decoder_layers(model.llm).parameters())
    if rank == 0:
        model.save_pretrained(folder / which / how)
        torch.save(validation, folder / which / how / "validation.pt")


@pytest.mark.parametrize("how", ["prefix", "checkpointing"])
@pytest.mark.parametrize(("which", "world", "machines"), [("all", 2, 1), ("node", 4, 2)])
def test_parts_train_what_whole_layers_train(which, world, machines, how, tiny_llm, tiny_encoder, data_dir, tmp_path):
    for kind in ("none", which):
        start(train, world, tmp_path, tiny_llm, tiny_encoder, data_dir, kind, how, machines=machines)
    files = [path.relative_to(tmp_path / which) for path in (tmp_path / which).rglob("*.safetensors")]
    assert len(files) == 2
    for file in files:
        whole, parts = (load_file(tmp_path / kind / file) for kind in ("none", which))
        assert whole.keys() == parts.keys()
        for name in whole:
            torch.testing.assert_close(parts[name], whole[name], rtol=1e-6, atol=1e-7, msg=name)
    whole, parts = (torch.load(tmp_path / kind / how / "validation.pt", weights_only=True) for kind in ("none", which))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def anonymous() -> int:
    """MiB of this process that belong to no file."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon:")) // 1024


class Highest(threading.Thread):
    """The most memory that the process has of its own while this runs, above what it had before."""

    def __enter__(self) -> "Highest":
        self.before = self.most = anonymous()
        self.ended = threading.Event()
        self.start()
        return self

    def run(self) -> None:
        while not self.ended.wait(0.0005):
            self.most = max(self.most, anonymous())

    def __exit__(self, *exception) -> None:
        self.ended.set()
        self.join()
        self.used = self.most - self.before


LAYERS, LAYER_MIB = 16, 8


def load(rank: int, folder: Path) -> None:
    sharding = Sharding.over("all", CPU)
    give_back()  # what the tests before had freed, this forked process would fill without asking for memory
    with Highest() as loading:
        llm = sharding.load(lambda: load_llm(str(folder / "llm")))
    (folder / f"used-{rank}").write_text(str(loading.used))
    logits = llm(input_ids=torch.arange(8)[None]).logits
    if rank == 0:
        torch.testing.assert_close(logits, load_llm(str(folder / "llm"))(input_ids=torch.arange(8)[None]).logits)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_no_process_ever_has_the_whole_llm(tmp_path):
    """Weights that are stored as they are wanted are mapped; each process copies its own parts, layer by layer."""
    config = LlamaConfig(vocab_size=64, hidden_size=256, intermediate_size=2389, num_hidden_layers=LAYERS,
                         num_attention_heads=4)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llm")
    whole = (tmp_path / "llm/model.safetensors").stat().st_size >> 20
    assert whole >= LAYERS * LAYER_MIB
    start(load, 2, tmp_path)
    for rank in range(2):
        used = int((tmp_path / f"used-{rank}").read_text())
        assert whole / 4 < used <= whole / 2 + 3 * LAYER_MIB, f"{used} of {whole} MiB"


def leave_alone(rank: int, folder: Path, llm: str) -> None:
    model = load_llm(llm)
    Sharding.over("all", CPU).shard(model)
    local = {name: p.to_local().clone() for name, p in model.named_parameters() if is_sharded(p)}
    pointers = {name: p.to_local().data_ptr() for name, p in model.named_parameters() if is_sharded(p)}
    expected = model(input_ids=torch.arange(8)[None]).logits
    share_frozen(model, folder / "weights")
    now = {name: p for name, p in model.named_parameters() if is_sharded(p)}
    assert now.keys() == local.keys() and local
    for name, p in now.items():
        assert torch.equal(p.to_local(), local[name]) and p.to_local().data_ptr() == pointers[name]
    assert torch.equal(model(input_ids=torch.arange(8)[None]).logits, expected)


def test_weights_that_processes_share_are_the_whole_ones(tiny_llm, tmp_path):
    start(leave_alone, 2, tmp_path, tiny_llm)


def refuse(rank: int, folder: Path, llm: str) -> None:
    model = load_llm(llm)
    layer = decoder_layers(model)[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match=r"mlp\.up_proj\.weight is torch\.int8: quantised"):
        Sharding.over("all", CPU).shard(model)


def test_quantised_layers_are_refused(tiny_llm, tmp_path):
    start(refuse, 2, tmp_path, tiny_llm)


def test_the_command_trains_validates_and_goes_on_with_parts(warm, data_dir, tiny_llm, tiny_encoder, tmp_path):
    """Three batches of validation for two processes, several prefixes, autocast; what began whole goes on in parts."""
    info = Path(data_dir, "continuation.info.json")
    values = json.loads(info.read_text())
    values["prompt"]["instructions"] = {"Continue:": 1, "Say what comes next in one line:": 1}
    info.write_text(json.dumps(values))
    command = ["--llm", tiny_llm, "--speech_encoder", tiny_encoder, "--train_dir", data_dir, "--valid_dir", data_dir,
               "--pad_to_30s", "false", "--adapter_options", json.dumps(SMALL["adapter_options"]), "--plora_rank", "2",
               "--warmup_steps", "1", "--batch_utterances", "5", "--num_workers", "0", "--save_steps", "2",
               "--eval_steps", "2", "--log_steps", "1", "--max_steps", "4", "--schedule", "constant", "--bf16", "true"]

    def run(name: str, *options: str) -> str:
        done = subprocess.run([warm / "bin/python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
                               "2", "-m", "blspkd.bin.train", *command, "--output_dir", str(tmp_path / name), *options],
                              env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
                              capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run("whole", "--share_prefix", "false")
    assert "share_prefix: off" in run("parts", "--shard_llm", "all")
    expected = model_of(tmp_path / "whole")
    assert_close(model_of(tmp_path / "parts"), expected)
    history = [json.loads((tmp_path / name / "checkpoint-4/trainer_state.json").read_text())["log_history"]
               for name in ("whole", "parts")]
    losses = [[row["eval_response_kl"] for row in rows if "eval_response_kl" in row] for rows in history]
    assert len(losses[0]) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-5)

    for path in ("model", "checkpoint-4"):
        subprocess.run(["rm", "-r", tmp_path / "whole" / path], check=True)
    run("whole", "--share_prefix", "false", "--shard_llm", "node")
    assert [path.name for path in complete_checkpoints(tmp_path / "whole")] == ["checkpoint-2", "checkpoint-4"]
    assert_close(model_of(tmp_path / "whole"), expected)


def model_of(folder: Path) -> dict:
    return {f"{path.name}:{key}": value for path in sorted((folder / "model").rglob("*.safetensors"))
            for key, value in load_file(path).items()}


def assert_close(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() and found
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-7, msg=key)
