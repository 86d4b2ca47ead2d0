"""The cut of a rendered turn is exact on every tokenizer family."""

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from blspkd.config import PromptConfig
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ConfigError, ModelError

TEXT = ["Continue the text.\nthe farmer sold six bags?", "a nurse saw the old house.\n",
        "Translate: we found two cats in 1994"] * 4
PLAIN = ("{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
         "{% if add_generation_prompt %}<|assistant|>{% endif %}")
BRACKETS = ("<s>{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
            "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}")
SPECIAL = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<s>", "</s>"]
QWEN_SPLIT = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(split=None):
    tokenizer = Tokenizer(models.BPE())
    parts = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL,
                                                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def metaspace(prepend="always"):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend)
    tokenizer.train_from_iterator(TEXT, trainers.UnigramTrainer(vocab_size=80, special_tokens=[*SPECIAL, "<unk>"],
                                                                unk_token="<unk>"))
    return tokenizer


FAMILIES = {"gpt2": byte_level, "qwen": lambda: byte_level(QWEN_SPLIT), "llama": metaspace,
            "llama-first": lambda: metaspace("first")}


def wrap(tokenizer, template=PLAIN, eos="<|end|>"):
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos)
    fast.chat_template = template
    return fast


@pytest.fixture(params=[(family, template) for family in FAMILIES for template in (PLAIN, BRACKETS)],
                ids=lambda value: f"{value[0]}-{'plain' if value[1] is PLAIN else 'brackets'}")
def tokenizer(request):
    family, template = request.param
    return wrap(FAMILIES[family](), template, "<|end|>" if template is PLAIN else "</s>")


@pytest.mark.parametrize("position", ["after", "before"])
@pytest.mark.parametrize("separator", ["\n", " ", ""])
@pytest.mark.parametrize("transcript", ["the farmer sold six bags", "six bags?", "a", "Ünïcode 語 😀", "1994"])
def test_prefix_input_suffix_is_the_tokenised_rendering(tokenizer, position, separator, transcript):
    config = PromptConfig(instruction="Continue the text.", speech_position=position, separator=separator)
    ids = Prompt(tokenizer, config).split(transcript)
    parts = ["Continue the text.", transcript]
    content = separator.join(parts if position == "after" else parts[::-1])
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False,
                                             add_generation_prompt=True)
    assert ids.prefix + ids.input + ids.suffix == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    known = transcript.replace("語", "").replace("😀", "").replace("Ü", "").replace("ï", "")
    assert known.split()[0][-1] in tokenizer.decode(ids.input)


def test_spans_cover_the_transcript_token_by_token(tokenizer):
    transcript = "we found two cats in 1994 naïvely"
    prompt = Prompt(tokenizer, PromptConfig(instruction="Continue the text."))
    spans = prompt.spans(transcript)
    assert len(spans) == len(prompt.split(transcript).input)
    assert spans[-1][1] == len(transcript) and all(left <= right for left, right in spans)
    for (_, before), (left, right) in zip(spans, spans[1:], strict=False):
        # nothing but blanks between two tokens; tokens of one character written in bytes share it
        assert not transcript[before:left].strip() and (left >= before or left == right - 1)


def test_prompt_around_speech_is_the_one_around_transcripts(tiny_llm):
    prompt = Prompt(load_tokenizer(tiny_llm), PromptConfig(instruction="Continue:"))
    ids = prompt.split("the farmer sold six bags")
    assert prompt.around() == (ids.prefix, ids.suffix)
    assert prompt.around("Translate:") != prompt.around()


def test_response_is_what_the_llm_would_have_written_plus_end_of_turn(tiny_llm):
    tokenizer = load_tokenizer(tiny_llm)
    prompt = Prompt(tokenizer, PromptConfig())
    ids = prompt.response("she reads a book")
    assert tokenizer.decode(ids[:-1]) == "she reads a book" and ids[-1] == prompt.end_of_turn
    assert tokenizer.decode([prompt.end_of_turn]) == "<|end|>"


def test_end_of_turn_comes_from_the_template_not_from_eos():
    prompt = Prompt(wrap(byte_level(), PLAIN, eos="</s>"), PromptConfig())
    assert prompt.tokenizer.convert_ids_to_tokens(prompt.end_of_turn) == "<|end|>"


def test_system_message_and_template_variables_are_rendered():
    template = "{% if mood %}<|system|>{{ mood }}<|end|>{% endif %}" + PLAIN
    tokenizer = wrap(byte_level(), template)
    prompt = Prompt(tokenizer, PromptConfig(system="the house", template_args={"mood": "six cats"}))
    assert tokenizer.decode(prompt.around()[0]).startswith("<|system|>six cats<|end|><|system|>the house<|end|>")


def test_mistakes_are_explained(tmp_path, tiny_llm):
    with pytest.raises(ModelError, match="no such folder"):
        load_tokenizer("./not/there")
    with pytest.raises(ConfigError, match="empty transcript"):
        Prompt(load_tokenizer(tiny_llm), PromptConfig()).split("  ")
    bare = wrap(byte_level())
    bare.chat_template = None
    bare.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="no chat template"):
        load_tokenizer(str(tmp_path))
    silent = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    with pytest.raises(ModelError, match="exactly once"):
        Prompt(wrap(byte_level(), silent), PromptConfig()).around()
    endless = wrap(byte_level(), "{% for m in messages %}{{ m['content'] }}{% endfor %}", eos=None)
    with pytest.raises(ModelError, match="how a turn ends"):
        Prompt(endless, PromptConfig())


