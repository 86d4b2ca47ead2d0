"""All engines write the same: greedy token for token, samples by their distribution."""

import math
import os
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from blspkd.config import ContinuationConfig, PromptConfig
from blspkd.errors import ConfigError, ModelError
from blspkd.generation.continuation import ContinuationWriter
from blspkd.generation.engines import ENGINES, make_engine
from blspkd.generation.engines.engine import Request, Written
from blspkd.models.sampling import utterance_seed

REAL = os.environ.get("BLSPKD_VLLM_PYTHON", "")
needs_vllm = pytest.mark.skipif(not REAL, reason="BLSPKD_VLLM_PYTHON names no interpreter that has vLLM")
TEXTS = ["the farmer sold six bags", "a cat", "we found two red cats in the park and then she reads a long book",
         "they ate", "Grüße, 你好 – ‘naïve’ 🦊", "the pilot bought a car at noon", "she", "a nurse saw the old house"]


def configured(**options) -> ContinuationConfig:
    return ContinuationConfig(**{"max_new_tokens": 24, "do_sample": False, "prompt": PromptConfig("Continue:"),
                                 **options})


@pytest.fixture(scope="module")
def options(vllm_stand_in, running_server):
    """Options of each engine, by its name."""
    return {"huggingface": {}, "vllm": {"python": vllm_stand_in}, "openai": {"url": running_server.url, "parallel": 4}}


def written_by(llm, config, requests, engine, options):
    writer = ContinuationWriter(str(llm), replace(config, engine=engine, engine_options=options))
    return writer.engine.write(requests(writer))


def make_requests(writer, texts=TEXTS, seed: int = 0) -> list[Request]:
    prompts = {f"utt{number}": writer.text.prompt.split(text) for number, text in enumerate(texts)}
    return [Request(utt_id, ids.prefix, ids.input + ids.suffix, utterance_seed(seed, utt_id))
            for utt_id, ids in prompts.items()]


@pytest.fixture(scope="module")
def ending_llm(tiny_llm, tmp_path_factory) -> str:
    """`tiny_llm` with further ends of a turn, which it writes."""
    usual = written_by(tiny_llm, configured(), make_requests, "huggingface", {})
    folder = tmp_path_factory.mktemp("ending") / "llm"
    shutil.copytree(tiny_llm, folder)
    GenerationConfig(eos_token_id=[4, usual[0].ids[9], usual[3].ids[-1]]).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("engine", ["vllm", "openai"])
@pytest.mark.parametrize("sampled", [False, True])
def test_greedy_ids_and_finish_reasons_equal_those_of_transformers(ending_llm, server, options, engine, sampled):
    """A sample from a nucleus of one token is greedy, too: another way through every engine."""
    config = configured(do_sample=sampled, top_p=1e-9)
    expected = written_by(ending_llm, configured(), make_requests, "huggingface", {})
    found = written_by(ending_llm, config, make_requests, engine, options[engine])
    assert found == expected
    assert {written.finish_reason for written in found} == {"stop", "length"}
    assert len({tuple(written.ids) for written in found}) > 4


def test_written_tokens_end_before_the_first_that_ends_the_turn():
    assert Written.until_end([5, 4, 6, 4], [3, 4]) == Written([5], "stop")
    assert Written.until_end([5, 6], [4]) == Written([5, 6], "length")
    assert Written.until_end([5, 6], [4], stopped=True) == Written([5, 6], "stop")


def critical(freedom: int, z: float = 3.09) -> float:
    """Chi square that is exceeded by chance once in a thousand (Wilson and Hilferty, PNAS 17, 1931)."""
    return freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3


def test_the_critical_value_is_that_of_the_tables():
    assert [critical(freedom) for freedom in (10, 30, 100)] == pytest.approx([29.588, 59.703, 149.449], rel=0.01)


def chi_square(counts: Counter, probabilities: torch.Tensor) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; tokens expected fewer than 5 times are one cell."""
    total = counts.total()
    expected = {token: total * p for token, p in enumerate(probabilities.tolist()) if p > 0}
    if impossible := counts.keys() - expected.keys():
        return math.inf, len(impossible)
    cells = [(counts[token], mean) for token, mean in expected.items() if mean >= 5]
    rest = [(counts[token], mean) for token, mean in expected.items() if mean < 5]
    if sum(mean for _, mean in rest) >= 5:
        cells.append((sum(count for count, _ in rest), sum(mean for _, mean in rest)))
    return sum((count - mean) ** 2 / mean for count, mean in cells), len(cells) - 1


def first_token_statistics(llm, engine, options, nucleus, count: int = 2000) -> dict[str, float]:
    """Chi square by its critical value, of `count` first tokens, for the distribution and for wrong ones."""
    temperature, top_p = 1.3, 0.8
    config = configured(do_sample=True, temperature=temperature, top_p=top_p, max_new_tokens=1, engine=engine,
                        engine_options=options)
    writer = ContinuationWriter(str(llm), config)
    requests = make_requests(writer, ["they ate nine cakes"] * count)
    counts = Counter()
    for start in range(0, count, 500):
        counts.update(written.ids[0] if written.ids else writer.text.ends[0]
                      for written in writer.engine.write(requests[start:start + 500]))
    [logits] = LlamaForCausalLM.from_pretrained(llm)(torch.tensor([requests[0].ids])).logits[:, -1].detach()
    statistics = {}
    for name, (t, p) in {"true": (temperature, top_p), "temperature 1": (1.0, top_p), "all tokens": (temperature, 1.0),
                         "top_p 0.7": (temperature, 0.7)}.items():
        statistic, freedom = chi_square(counts, nucleus(logits, t, p))
        statistics[name] = statistic / critical(freedom)
    return statistics


@pytest.mark.parametrize("engine", ENGINES)
def test_first_tokens_are_drawn_from_softmax_with_temperature_and_top_p(tiny_llm, server, options, engine, nucleus):
    statistics = first_token_statistics(tiny_llm, engine, options[engine], nucleus)
    assert statistics.pop("true") < 1, statistics
    assert all(statistic > 1 for statistic in statistics.values()), statistics


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sample_belongs_to_its_utterance_not_to_its_batch(tiny_llm, server, options, engine):
    config = configured(do_sample=True, temperature=1.5, top_p=0.95, engine=engine, engine_options=options[engine])
    writer = ContinuationWriter(str(tiny_llm), config)
    requests = make_requests(writer)
    together = writer.engine.write(requests)
    assert writer.engine.write(requests[::-1])[::-1] == together
    assert [writer.engine.write([request])[0] for request in requests] == together
    assert writer.engine.write(make_requests(writer, seed=1)) != together


@pytest.mark.parametrize("engine", ENGINES)
def test_texts_and_verdicts_are_the_writers_whatever_the_engine(tiny_llm, server, options, engine):
    config = configured(engine=engine, engine_options=options[engine], max_input_tokens=12, drop_unfinished=True)
    transcripts = {f"utt{number}": text for number, text in enumerate(TEXTS)}
    expected = ContinuationWriter(str(tiny_llm), replace(config, engine="huggingface", engine_options={}))
    writer = ContinuationWriter(str(tiny_llm), config)
    assert writer.plan(transcripts) == expected.plan(transcripts)
    assert writer.write(transcripts) == expected.write(transcripts)
    assert {"torch", "transformers"} <= writer.versions.keys()


# What cannot be, before anything is loaded


@pytest.mark.parametrize("words, message", [
    ({"engine": "vlm"}, "engine: there is no 'vlm'; did you mean 'vllm'"),
    ({"engine_options": {"url": "x"}}, "engine_options: unknown key 'url'; known: none"),
    ({"engine": "vllm"}, "engine_options.python: name the Python interpreter"),
    ({"engine": "vllm", "engine_options": {"python": "nowhere"}}, "--engine_options.python nowhere: there is no such"),
    ({"engine": "vllm", "engine_options": {"pyton": "x"}}, "unknown key 'pyton'; did you mean 'python'"),
    ({"engine": "vllm", "engine_options": {"python": "true", "tensor_parallel_size": 0}},
     "engine_options.tensor_parallel_size: 0 is below 1"),
    ({"engine": "vllm", "do_sample": True, "temperature": 0.001}, "samples with no less than 0.01, not with 0.001"),
    ({"engine": "openai"}, "engine_options.url: '' is no address of a server"),
    ({"engine": "openai", "dtype": "bfloat16"}, "dtype: bfloat16: engine openai cannot choose"),
    ({"engine": "openai", "do_sample": True, "temperature": 0.0}, "engine openai samples with no less than 0.01"),
    ({"engine": "openai", "engine_options": {"url": "http://localhost:1", "parallel": 0}}, "parallel at least 1"),
    ({"engine": "openai", "engine_options": {"url": "http://localhost:1", "api_key_variable": "NO_SUCH_KEY"}},
     "the environment has no NO_SUCH_KEY with a key"),
])
def test_options_that_cannot_be_are_told_before_anything_is_loaded(words, message):
    with pytest.raises(ConfigError) as raised:
        make_engine(configured(**words))
    assert message in str(raised.value)


@pytest.mark.parametrize("engine", ["vllm", "openai"])
def test_a_gguf_file_is_refused_before_it_is_loaded(server, options, tmp_path, engine):
    (tmp_path / "llm.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"this is a GGUF file; convert it once"):
        ContinuationWriter(str(tmp_path / "llm.gguf"), configured(engine=engine, engine_options=options[engine]))
    assert not server.seen


# The real one


@pytest.fixture(scope="module")
def wide_llm(tiny_llm, tmp_path_factory) -> str:
    """With heads as wide as vLLM's kernels want them."""
    folder = tmp_path_factory.mktemp("wide") / "llm"
    shutil.copytree(tiny_llm, folder)
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_llm, hidden_size=128, num_attention_heads=4, head_dim=32,
                                                 initializer_range=0.1)).save_pretrained(folder)
    return str(folder)


@needs_vllm
def test_vllm_itself_and_a_server_write_greedily_what_transformers_writes(wide_llm, serving, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    texts = [f"{text} {number}" for number in range(8) for text in TEXTS]  # 64

    def requests(writer):
        return make_requests(writer, texts)

    expected = written_by(wide_llm, configured(), requests, "huggingface", {})
    assert len({tuple(written.ids) for written in expected}) > 32
    for size in 1, 2:
        options = {"python": REAL, "tensor_parallel_size": size}
        assert written_by(wide_llm, configured(), requests, "vllm", options) == expected
    with serving(wide_llm) as server:
        assert written_by(wide_llm, configured(), requests, "openai", {"url": server.url}) == expected


@needs_vllm
def test_vllm_itself_samples_more_prompts_than_fit_into_a_step(wide_llm, monkeypatch):
    """On a CPU a prompt that it reads in two steps, and that has a seed, would be its end."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    config = configured(do_sample=True, engine="vllm", engine_options={"python": REAL})
    writer = ContinuationWriter(wide_llm, config)
    requests = make_requests(writer, [f"{number} {TEXTS[2] * 4}" for number in range(300)])
    assert sum(len(request.ids) for request in requests) > 20_000
    first, again = (writer.engine.write(requests) for _ in range(2))
    assert len({tuple(written.ids) for written in first}) > 200
    assert sum(one == other for one, other in zip(first, again, strict=True)) > 290  # but for rounding


@needs_vllm
def test_first_tokens_of_vllm_itself_have_the_distribution(wide_llm, nucleus, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    statistics = first_token_statistics(wide_llm, "vllm", {"python": REAL}, nucleus)
    assert statistics.pop("true") < 1, statistics
    assert all(statistic > 1 for statistic in statistics.values()), statistics
