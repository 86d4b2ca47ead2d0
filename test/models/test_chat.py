"""A trained model in conversation."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from blspkd.config import ModelConfig, PromptConfig
from blspkd.data.features import FeatureExtractor
from blspkd.data.prompts import load_tokenizer
from blspkd.errors import AudioError, ConfigError, ContextError, MessageError, ModelError
from blspkd.models.chat import SpeechLLM
from blspkd.models.listener import GenerationOptions, Listener
from blspkd.models.past import Past
from blspkd.models.plora import PLoraLinear
from blspkd.models.reply import ChatOptions
from blspkd.models.speech_llm import SpeechLlm

RATE = 16000
OPTIONS = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}


def speech(seconds: float, seed: int = 0) -> tuple[int, np.ndarray]:
    generator = np.random.default_rng(seed)
    return RATE, (0.1 * generator.standard_normal(int(seconds * RATE))).astype(np.float32)


def user(*parts) -> dict:
    return {"role": "user", "content": [{"type": "text", "text": part} if isinstance(part, str) else
                                        {"type": "audio", "audio": part} for part in parts]}


CONVERSATIONS = [
    [user("Translate:", speech(0.7))],
    [user("the farmer", speech(1.4, 1), "and", speech(0.5, 2)), {"role": "assistant", "content": "a book"},
     user("Continue:", speech(0.9, 3))],
    [user("she reads a book on monday")],
    [{"role": "system", "content": "Be brief."}, user(speech(0.6, 4))],
]


@pytest.fixture(scope="module", params=["plora", "adapter"])
def model(request, tiny_llm, tiny_encoder) -> SpeechLLM:
    torch.manual_seed(0)
    rank = 2 if request.param == "plora" else 0
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=OPTIONS, pad_to_30s=False,
                         plora_rank=rank)
    network = SpeechLlm.from_config(config, PromptConfig("Continue:"))
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return SpeechLLM(Listener(network, load_tokenizer(tiny_llm), FeatureExtractor(tiny_encoder, False)))


def count_positions(model: SpeechLLM) -> list[int]:
    """Positions that the LLM reads in each call from now on."""
    read = []
    model.listener.model.causal_lm.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["inputs_embeds"].shape[1] if
                                                 kwargs.get("inputs_embeds") is not None else
                                                 kwargs["input_ids"].shape[1]), with_kwargs=True)
    return read


def test_importing_the_package_imports_no_torch():
    code = "import sys, blspkd; print('torch' in sys.modules); from blspkd import SpeechLLM; print(SpeechLLM.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["False", "SpeechLLM"]


def test_an_instruction_and_a_recording_get_the_reply_of_the_recipes(model):
    rate, waveform = speech(0.8)
    expected = model.listener.generate_from_speech([waveform], ["Translate:"], GenerationOptions(max_new_tokens=8))[0]
    reply = model.chat([user("Translate:", (rate, waveform))], max_new_tokens=8)
    assert (reply.text, reply.token_ids) == (expected.text, expected.token_ids)
    assert reply.speech_tokens == expected.n_tokens > 0
    assert reply.finish_reason == ("stop" if expected.finished else "length")


def test_a_batch_of_unequal_turns_gives_the_replies_of_single_ones(model):
    alone = [model.chat(conversation, max_new_tokens=12) for conversation in CONVERSATIONS]
    assert model.chat(CONVERSATIONS, max_new_tokens=12) == alone
    assert [reply.speech_tokens > 0 for reply in alone] == [True, True, False, True]


def test_every_row_has_options_of_its_own(model):
    turns = model.prepare(CONVERSATIONS)
    options = [ChatOptions(3), ChatOptions(12, temperature=1.0, seed=5), ChatOptions(12),
               ChatOptions(12, temperature=2.0, top_p=0.8, seed=6)]
    together = model.generate(turns, options)
    assert together == [model.generate([turn], [chosen])[0] for turn, chosen in zip(turns, options, strict=True)]
    assert together[0].completion_tokens == 3 and together[0].finish_reason == "length"
    assert together[1] != model.generate(turns[1:2], [ChatOptions(12, temperature=1.0, seed=7)])[0]


def test_each_reply_is_told_when_it_is_complete(model):
    turns, told = model.prepare(CONVERSATIONS), []
    options = [ChatOptions(9), ChatOptions(3), ChatOptions(6), ChatOptions(1)]
    replies = model.generate(turns, options, on_reply=lambda row, reply: told.append((row, reply)))
    assert sorted(told, key=lambda pair: pair[0]) == list(enumerate(replies))
    lengths = [reply.completion_tokens for _, reply in told]
    assert lengths == sorted(lengths) and told[0][0] == 3


def test_plora_acts_at_speech_positions_and_nowhere_else(model):
    layers = [layer for layer in model.listener.model.modules() if isinstance(layer, PLoraLinear)]
    rows = []
    handles = [layer.lora_A["default"].register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
               for layer in layers[:1]]
    turns = model.prepare(CONVERSATIONS)
    replies = model.generate(turns, [ChatOptions(6)] * len(turns))
    assert sum(rows) == bool(layers) * sum(reply.speech_tokens for reply in replies)
    for handle in handles:
        handle.remove()


def test_typed_conversations_are_answered_by_the_llm_itself(model):
    messages = [{"role": "user", "content": "the pilot bought a car"}]
    tokenizer, llm = model.listener.tokenizer, model.listener.model.causal_lm
    ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True),
                    add_special_tokens=False, return_tensors="pt")["input_ids"]
    expected = llm.generate(ids, max_new_tokens=8)[0, ids.shape[1]:].tolist()
    assert model.chat(messages, max_new_tokens=8).token_ids == expected


def test_a_second_turn_does_not_read_the_first_one_again(model):
    first = CONVERSATIONS[1][:1]
    past = Past()
    reply = model.chat(first, past=past, max_new_tokens=10)
    second = [*first, {"role": "assistant", "content": reply.text or "fine"}, user("Continue:", speech(0.7, 9))]
    expected = model.chat(second, max_new_tokens=10)
    read = count_positions(model)
    assert model.chat(second, past=past, max_new_tokens=10) == expected
    assert read[0] <= expected.prompt_tokens - reply.prompt_tokens + 1 + 6  # the reply's text may be tokenised anew
    third = [user("Translate:", speech(0.7))]
    assert model.chat(third, past=past, max_new_tokens=10) == model.chat(third, max_new_tokens=10)


def test_a_recording_is_listened_to_once(model):
    calls = []
    handle = model.listener.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        model.chat([user("Translate:", speech(0.75, 77)), {"role": "assistant", "content": "x"},
                    user("again", speech(0.75, 77))], max_new_tokens=2)
    handle.remove()
    assert len(calls) == 1


def test_pieces_of_a_stream_add_up_to_the_reply(model):
    stream = model.stream(CONVERSATIONS[1], max_new_tokens=20)
    pieces = list(stream)
    assert stream.reply == model.chat(CONVERSATIONS[1], max_new_tokens=20)
    assert "".join(pieces) == stream.reply.text and len(pieces) > 1


def test_a_stream_that_is_left_ends_within_one_step(model):
    read = count_positions(model)
    [turn] = model.prepare([[user("the farmer sold six bags")]])
    asked = []

    def cancelled(row: int) -> bool:
        asked.append(row)
        return len(asked) == 3

    reply = model.generate([turn], [ChatOptions(50)], cancelled=cancelled)[0]
    assert (reply.finish_reason, reply.completion_tokens) == ("cancelled", 3) and len(read) <= 3 + 1
    with model.stream([user("the farmer sold six bags")], max_new_tokens=400) as stream:
        next(iter(stream))
    assert stream.reply.finish_reason == "cancelled" and stream.reply.completion_tokens < 400


def test_an_error_reaches_who_reads_the_stream(model, monkeypatch):
    monkeypatch.setattr(model.listener, "generate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(model.stream([user("x")]))


def test_a_stop_text_ends_a_reply(model):
    whole = model.chat(CONVERSATIONS[2], max_new_tokens=30)
    stop = whole.text[len(whole.text) // 2:][:2]
    reply = model.chat(CONVERSATIONS[2], max_new_tokens=30, stop=stop)
    assert reply.text == whole.text[:whole.text.index(stop)].rstrip() and reply.finish_reason == "stop"
    assert reply.completion_tokens < whole.completion_tokens


def test_what_does_not_fit_the_llm_is_told_before_it_is_read(model):
    long = [user("the farmer sold six bags " * 200)]
    with pytest.raises(ContextError, match="the LLM reads 512"):
        model.chat(long)
    reply = model.chat([user("the farmer sold six bags " * 60)], max_new_tokens=5000)
    assert reply.prompt_tokens + reply.completion_tokens <= model.context
    assert reply.finish_reason in ("length", "stop")


def test_bad_input_is_told_by_its_place(model):
    with pytest.raises(MessageError, match=r"messages\[0\]"):
        model.chat([{"role": "robot", "content": "x"}])
    with pytest.raises(AudioError, match=r"messages\[0\]\.content\[1\]"):
        model.chat([{"role": "user", "content": [{"type": "text", "text": "x"},
                                                 {"type": "audio", "audio": "/no/such/file.wav"}]}])
    for options in ({"max_new_tokens": 0}, {"max_new_tokens": 1.5}, {"max_new_tokens": None}, {"temperature": -1.0},
                    {"temperature": "1"}, {"top_p": 0.0}, {"stop": [5]}, {"seed": "x"}, {"past": "x"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            model.chat([user("x")], **options)
    with pytest.raises(ConfigError, match="past.*one conversation"):
        model.chat(CONVERSATIONS, past=Past())
    with pytest.raises(AudioError, match=r"conversation 1 .*messages\[0\]\.content\[0\]: only 80 samples"):
        model.chat([[user("x")], [user(speech(0.005))]])
    with pytest.raises(AudioError, match="at most 300 s"):
        model.chat([user("x", speech(301))])
    with pytest.raises(ConfigError, match="dtype: int8"):
        SpeechLLM.from_pretrained("nowhere", dtype=torch.int8)


def test_a_saved_model_replaces_nothing_but_a_model(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ModelError, match="name another folder"):
        model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="trained model of blspkd and no LLM"):
        load_tokenizer(str(tmp_path / "model"))


def test_a_row_at_the_end_of_the_context_ends_no_batch(tiny_encoder, tiny_llm, tmp_path):
    """An LLM with a table of positions cannot read padding behind it."""
    llm = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=None,
                                     eos_token_id=4))
    llm.save_pretrained(tmp_path)
    load_tokenizer(tiny_llm).save_pretrained(tmp_path)
    config = ModelConfig(llm=str(tmp_path), speech_encoder=tiny_encoder, adapter_options=OPTIONS, pad_to_30s=False)
    network = SpeechLlm.from_config(config, PromptConfig("Continue:"))
    model = SpeechLLM(Listener(network, load_tokenizer(str(tmp_path)), FeatureExtractor(tiny_encoder, False)))
    conversations = [[user("a")], [user("the farmer sold six bags " * 8)], [user("a nurse")]]
    alone = [model.chat(conversation, max_new_tokens=40) for conversation in conversations]
    assert alone[1].prompt_tokens + 40 > model.context
    assert model.chat(conversations, max_new_tokens=40) == alone


def test_a_temperature_too_small_to_divide_by_is_greedy(model):
    assert (model.chat(CONVERSATIONS[0], max_new_tokens=5, temperature=1e-40).token_ids
            == model.chat(CONVERSATIONS[0], max_new_tokens=5).token_ids)


def test_top_p_is_each_rows_own(model):
    turns = model.prepare([CONVERSATIONS[0]] * 2)
    wide, narrow = (ChatOptions(12, temperature=5.0, top_p=top_p, seed=5) for top_p in (1.0, 1e-6))
    together = model.generate(turns, [wide, narrow])
    assert together[1].token_ids == model.chat(CONVERSATIONS[0], max_new_tokens=12).token_ids != together[0].token_ids


def test_a_stream_ends_for_whoever_iterates_again(model):
    stream = model.stream(CONVERSATIONS[2], max_new_tokens=5)
    assert "".join(stream) == stream.reply.text and list(stream) == []


def test_a_program_ends_with_a_stream_that_nobody_reads():
    code = ("import time\nfrom blspkd.models.stream import Stream\n"
            "def generate(on_text, cancelled):\n    while not cancelled():\n        time.sleep(0.01)\n"
            "stream = Stream(generate)")
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_pieces_of_a_recording_are_laid_out_as_in_training(tiny_llm, tiny_encoder):
    torch.manual_seed(0)
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=OPTIONS, pad_to_30s=False)
    network = SpeechLlm.from_config(config, PromptConfig("Continue:", speech_position="before"))
    model = SpeechLLM(Listener(network, load_tokenizer(tiny_llm), FeatureExtractor(tiny_encoder, False)))
    rate, waveform = speech(0.8)
    expected = model.listener.generate_from_speech([waveform], ["Translate:"], GenerationOptions(max_new_tokens=8))
    assert list(model.chat_in_chunks((rate, waveform), "Translate:", max_new_tokens=8)) == [expected[0].text]


def test_recordings_of_any_length_are_heard_in_pieces(model):
    rate, waveform = speech(7.3, 5)
    waveform[int(2.1 * rate):int(4.5 * rate)] = 0.0  # a pause that fills a whole piece
    replies = list(model.chat_in_chunks((rate, waveform), "Translate:", chunk=1.5, max_new_tokens=4))
    assert len(replies) >= 5 and "" in replies
    assert model.transcribe((rate, waveform), chunk=1.5, max_new_tokens=4) == " ".join(
        text for text in model.chat_in_chunks((rate, waveform), "Repeat the following text.", chunk=1.5,
                                                max_new_tokens=4) if text)


def test_what_is_heard_can_be_looked_at(model):
    rate, waveform = speech(1.2, 3)
    heard = model.hear((rate, waveform))
    tokens = model.listener.listen([waveform])[0]
    assert heard.seconds == pytest.approx(1.2) and len(heard.tokens) == len(tokens)
    assert len(heard.alpha) * heard.frame_seconds == pytest.approx(1.2, abs=0.05)
    ends = [token.end for token in heard.tokens]
    assert ends == sorted(ends) and 0 <= ends[0] and ends[-1] <= heard.seconds
    assert all(0 <= token.share <= 1 for token in heard.tokens)
