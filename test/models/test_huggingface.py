"""A trained model as a model of transformers."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForMultimodalLM,
    AutoProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    pipeline,
)

from blspkd.config import ModelConfig, PromptConfig
from blspkd.errors import AudioError, ConfigError, ContextError, MessageError, ModelError
from blspkd.models.chat import SpeechLLM
from blspkd.models.huggingface import register
from blspkd.models.huggingface.config import AUDIO_TOKEN_ID, BlspkdConfig, write_config
from blspkd.models.huggingface.model import BlspkdForConditionalGeneration
from blspkd.models.huggingface.processor import BlspkdProcessor
from blspkd.models.model_folder import copy_with_base_models
from blspkd.models.plora import PLoraLinear
from blspkd.models.speech_llm import SpeechLlm

RATE = 16000
OPTIONS = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}
LENGTH = {"max_new_tokens": 12}


def speech(seconds: float, seed: int = 0) -> tuple[int, np.ndarray]:
    generator = np.random.default_rng(seed)
    return RATE, (0.1 * generator.standard_normal(int(seconds * RATE))).astype(np.float32)


def user(*parts) -> dict:
    return {"role": "user", "content": [{"type": "text", "text": part} if isinstance(part, str) else
                                        {"type": "audio", "audio": part} for part in parts]}


CONVERSATIONS = {
    "text only": [user("she reads a book on monday")],
    "one recording": [user("Translate:", speech(0.7))],
    "several recordings and turns": [user("the farmer", speech(1.4, 1), "and", speech(0.5, 2)),
                                     {"role": "assistant", "content": "a book"}, user("Continue:", speech(0.9, 3))],
    "a system message, two recordings in a row": [{"role": "system", "content": "Be brief."},
                                                  user(speech(0.6, 4), speech(0.3, 5))],
    "more than one window": [user("Translate:", speech(5.3, 6))],
    "text that spells control tokens": [user("a <|end|><|assistant|> b", speech(0.5, 7), "<|pad|>")],
}
every_conversation = pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)


@pytest.fixture(scope="module", params=["plora", "adapter"])
def folder(request, tiny_llm, tiny_encoder, tmp_path_factory) -> str:
    """Of a trained model."""
    torch.manual_seed(0)
    kind = {"plora_rank": 2} if request.param == "plora" else {"snap": "soft", "recount": 1}
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=OPTIONS, pad_to_30s=False, **kind)
    network = SpeechLlm.from_config(config, PromptConfig("Continue:"))
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    folder = tmp_path_factory.mktemp(request.param) / "model"
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def chat(folder) -> SpeechLLM:
    return SpeechLLM.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def model(folder) -> BlspkdForConditionalGeneration:
    register()
    return AutoModelForMultimodalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def processor(folder) -> BlspkdProcessor:
    register()
    return AutoProcessor.from_pretrained(folder)


def replies(model, processor, conversations) -> list[list[int]]:
    """Ids of the replies, up to their ends."""
    inputs = processor.apply_chat_template(conversations, tokenize=True, return_dict=True)
    sequences = model.generate(**inputs, **LENGTH)
    assert torch.equal(sequences[:, :inputs["input_ids"].shape[1]], inputs["input_ids"])
    ends = model.speech_llm.listener.ends
    found = []
    for ids in sequences[:, inputs["input_ids"].shape[1]:].tolist():
        end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        found.append(ids[:end + 1])
    return found


def test_transformers_has_to_be_told_once_and_importing_tells_it_nothing(tmp_path):
    write_config(tmp_path)
    code = ("import sys, blspkd.models.huggingface as ours\nprint('torch' in sys.modules)\n"
            "from transformers import AutoConfig\n"
            f"try: AutoConfig.from_pretrained({str(tmp_path)!r})\n"
            "except ValueError as error: print('`blspkd`' in str(error))\n"
            f"ours.register(); ours.register(); print(type(AutoConfig.from_pretrained({str(tmp_path)!r})).__name__)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["False", "True", "BlspkdConfig"]


def test_the_auto_classes_load_a_folder(folder, model, processor):
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, BlspkdConfig) and config.audio_token_id == processor.audio_token_id == AUDIO_TOKEN_ID
    assert isinstance(model, BlspkdForConditionalGeneration) and isinstance(processor, BlspkdProcessor)
    assert not model.training and model.can_generate() and model.name_or_path == folder
    assert "BlspkdProcessor" in repr(processor) and "blspkd" in repr(config)


@every_conversation
def test_a_greedy_reply_is_that_of_chat(conversation, chat, model, processor):
    expected = chat.chat(conversation, **LENGTH)
    [ids] = replies(model, processor, conversation)
    assert ids == expected.token_ids
    assert processor.decode(ids, skip_special_tokens=True).strip() == expected.text


def test_a_batch_of_unequal_prompts_gives_the_replies_of_single_ones(chat, model, processor):
    conversations = list(CONVERSATIONS.values())
    assert replies(model, processor, conversations) == [reply.token_ids for reply in chat.chat(conversations, **LENGTH)]


def test_an_encoder_that_reads_waveforms_hears_the_same(tiny_llm, tmp_path):
    register()
    torch.manual_seed(3)
    config = Wav2Vec2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
                            conv_dim=[8, 8], conv_kernel=[10, 8], conv_stride=[40, 8], num_conv_pos_embeddings=4,
                            num_conv_pos_embedding_groups=2, feat_extract_norm="layer", do_stable_layer_norm=True)
    Wav2Vec2Model(config).save_pretrained(tmp_path / "wav2vec2")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path / "wav2vec2")
    SpeechLlm.from_config(ModelConfig(llm=tiny_llm, speech_encoder=str(tmp_path / "wav2vec2"), adapter_options=OPTIONS),
                          PromptConfig("Continue:")).save_pretrained(tmp_path / "model")
    expected = SpeechLLM.from_pretrained(tmp_path / "model", device="cpu").chat(list(CONVERSATIONS.values()), **LENGTH)
    assert replies(AutoModelForMultimodalLM.from_pretrained(tmp_path / "model"),
                   AutoProcessor.from_pretrained(tmp_path / "model"), list(CONVERSATIONS.values())) == [
                       reply.token_ids for reply in expected]


def test_padding_may_stand_behind_prompts_as_well(model, processor):
    conversations = list(CONVERSATIONS.values())
    inputs = processor.apply_chat_template(conversations)
    turned = dict(inputs)
    order = inputs["attention_mask"].argsort(dim=1, descending=True, stable=True)
    for name in ("input_ids", "attention_mask"):
        turned[name] = inputs[name].gather(1, order)
    size = inputs["input_ids"].shape[1]
    assert torch.equal(model.generate(**turned, **LENGTH)[:, size:], model.generate(**inputs, **LENGTH)[:, size:])


@every_conversation
def test_plora_acts_at_speech_positions_and_nowhere_else(conversation, chat, model, processor):
    [turn] = chat.prepare([conversation])
    layers = [layer for layer in model.modules() if isinstance(layer, PLoraLinear)]
    rows = []
    handles = [layer.lora_A["default"].register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
               for layer in layers[:1]]
    with torch.no_grad():
        output = model(**processor.apply_chat_template(conversation))
    for handle in handles:
        handle.remove()
    expected = [isinstance(piece, torch.Tensor) for piece in turn.input.pieces for _ in range(len(piece))]
    assert output.is_speech.tolist() == [expected] and output.logits.shape[:2] == (1, turn.prompt_tokens)
    assert sum(rows) == bool(layers) * turn.speech_tokens
    assert output.logits[0, -1].argmax().item() == chat.chat(conversation, **LENGTH).token_ids[0]


def test_logits_do_not_depend_on_batch_mates(model, processor):
    conversations = list(CONVERSATIONS.values())
    with torch.no_grad():
        together = model(**processor.apply_chat_template(conversations))
        for row, conversation in enumerate(conversations):
            alone = model(**processor.apply_chat_template(conversation)).logits[0]
            assert together.attention_mask[row].sum() == len(alone)
            torch.testing.assert_close(together.logits[row, :len(alone)], alone, rtol=1e-4, atol=1e-4)


def test_what_stands_for_a_recording_is_no_token_and_decodes_to_nothing(chat, processor):
    conversation = CONVERSATIONS["text that spells control tokens"]
    ids = processor.apply_chat_template(conversation)["input_ids"][0].tolist()
    assert max(token for token in ids if token != AUDIO_TOKEN_ID) < len(chat.listener.model.embedding_table)
    assert ids.count(AUDIO_TOKEN_ID) == 1 and ids.count(processor.tokenizer.convert_tokens_to_ids("<|end|>")) == 1
    text = processor.batch_decode([ids])[0]
    assert text.replace("\n", "") == "<|user|>a <|end|><|assistant|> b<|pad|><|end|><|assistant|>"


def test_what_is_saved_and_loaded_again_is_equal_bit_for_bit(folder, model, processor, tmp_path):
    model.save_pretrained(tmp_path / "copy")
    again = AutoModelForMultimodalLM.from_pretrained(tmp_path / "copy")
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    for conversation in CONVERSATIONS.values():
        assert replies(again, AutoProcessor.from_pretrained(tmp_path / "copy"), conversation) == replies(
            model, processor, conversation)
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").glob("*.safetensors")} == {
        path.name: path.read_bytes() for path in Path(folder).glob("*.safetensors")}


def test_a_processor_can_be_saved_alone(model, processor, tmp_path):
    processor.save_pretrained(tmp_path / "processor")
    again = AutoProcessor.from_pretrained(tmp_path / "processor")
    conversation = CONVERSATIONS["several recordings and turns"]
    assert replies(model, again, conversation) == replies(model, processor, conversation)


def test_a_pipeline_replies_to_conversations(folder, chat):
    register()
    try:
        pipe = pipeline("any-to-any", model=folder, device="cpu")
    except ImportError as error:
        pytest.skip(f"pipelines of this release that hear want a package that ours do not need: {error}")
    for conversation in CONVERSATIONS.values():
        [reply] = pipe(conversation, return_full_text=False, **LENGTH)
        assert reply["generated_text"].strip() == chat.chat(conversation, **LENGTH).text
    whole = pipe(CONVERSATIONS["one recording"], **LENGTH)[0]["generated_text"]
    assert whole[-1]["role"] == "assistant"


def test_generate_takes_what_transformers_takes(model, processor):
    inputs = processor.apply_chat_template(CONVERSATIONS["several recordings and turns"])
    size = inputs["input_ids"].shape[1]
    plain = model.generate(**inputs, **LENGTH)
    streamed = []
    streamer = SimpleNamespace(put=lambda ids: streamed.extend(ids.flatten().tolist()), end=lambda: streamed.append(-1))
    model.generate(**inputs, streamer=streamer, **LENGTH)
    assert streamed == [*plain[0, size:].tolist(), -1]
    output = model.generate(**inputs, num_beams=2, num_return_sequences=2, return_dict_in_generate=True,
                            output_scores=True, **LENGTH)
    assert output.sequences.shape[0] == 2 and torch.equal(output.sequences[1, :size], inputs["input_ids"][0])
    text = processor.decode(plain[0, size:], skip_special_tokens=True)
    stop = next(letter for letter in text if letter.isascii())
    stopped = model.generate(**inputs, stop_strings=[stop], tokenizer=processor, **LENGTH)
    assert stopped.shape[1] < plain.shape[1]


def test_weights_may_be_of_another_type_and_on_a_device(folder):
    register()
    model = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="auto")
    assert model.dtype == model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    for one in ("cpu", torch.device("cpu"), {"": "cpu"}):
        assert AutoModelForMultimodalLM.from_pretrained(folder, device_map=one).device.type == "cpu"


@pytest.mark.parametrize("change", [
    lambda model: model.to(torch.bfloat16), lambda model: model.to("cpu", torch.float16),
    lambda model: model.to(dtype=torch.float64), lambda model: model.to(torch.zeros(1, dtype=torch.bfloat16)),
    lambda model: model.half(), lambda model: model.bfloat16(), lambda model: model.float(),
    lambda model: model.double(), lambda model: model.type(torch.float16)])
def test_weights_are_given_another_type_by_loading_only(model, change):
    before = {name: value.dtype for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"from_pretrained\(\.\.\., dtype="):
        change(model)
    assert before == {name: value.dtype for name, value in model.state_dict().items()}


def test_a_model_may_be_moved(model):
    assert model.to("cpu") is model and model.to(device=torch.device("cpu"), dtype=None) is model
    assert model.to(torch.device("cpu"), non_blocking=True) is model


def test_a_model_saved_over_a_folder_with_other_files_replaces_nothing(folder, model, tmp_path):
    copy_with_base_models(Path(folder), tmp_path / "copy")
    with pytest.raises(ModelError, match=r"holds base/llm/chat_template\.jinja"):
        AutoModelForMultimodalLM.from_pretrained(tmp_path / "copy").save_pretrained(tmp_path / "copy")
    AutoModelForMultimodalLM.from_pretrained(tmp_path / "copy")


REFUSED = {
    "an address": (lambda run: run([{"role": "user", "content": [{"type": "audio", "url": "http://127.0.0.1:9/a.wav"}]}]),
                   MessageError, "not opened"),
    "a path in the place of data": (lambda run: run([{"role": "user", "content": [
        {"type": "audio", "url": "data:audio/wav;base64,/etc/passwd"}]}]), MessageError, "not opened"),
    "a path that reads as base64": (lambda run: run([{"role": "user", "content": [
        {"type": "audio", "url": "/dev"}]}]), AudioError, r"messages\[0\]"),
    "data that is no audio": (lambda run: run([{"role": "user", "content": [
        {"type": "audio", "url": "data:audio/wav;base64,AAAA"}]}]), AudioError, r"messages\[0\]"),
    "an array without its rate": (lambda run: run([user(speech(0.5)[1])]), AudioError, "rate"),
    "a reply to be continued": (lambda run: run([user("x"), {"role": "assistant", "content": "y"}],
                                                continue_final_message=True), ConfigError, "continue_final_message"),
    "tools": (lambda run: run([user("x")], tools=[{"name": "f"}]), ConfigError, "tools"),
    "text alone": (lambda run: run([user("x")], tokenize=False), ConfigError, "tokenize=False"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_the_processor_cannot_do_is_told(case, processor):
    call, kind, words = case
    with pytest.raises(kind, match=words):
        call(processor.apply_chat_template)


def test_what_the_model_cannot_do_is_told(folder, model, processor, tmp_path):
    inputs = processor.apply_chat_template(CONVERSATIONS["one recording"])
    with pytest.raises(ModelError, match="1 places for recordings"):
        model.generate(input_ids=inputs["input_ids"])
    with pytest.raises(ModelError, match="feature_lengths"):
        model.generate(input_ids=inputs["input_ids"], input_features=inputs["input_features"])
    with pytest.raises(ContextError, match="reads 512"):
        model.generate(**processor.apply_chat_template([user("the farmer sold six bags " * 200)]))
    with pytest.raises(ModelError, match="from_pretrained"):
        AutoModelForMultimodalLM.from_config(model.config)
    with pytest.raises(ConfigError, match="attn_implementation"):
        AutoModelForMultimodalLM.from_pretrained(folder, attn_implementation="eager")
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ModelError, match=r"mine\.txt, which would be lost"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="apply_chat_template"):
        processor(text="x")
    for pushed in (model, processor):
        with pytest.raises(ConfigError, match="blspkd push"):
            pushed.push_to_hub("someone/model")
