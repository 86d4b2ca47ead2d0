"""Control tokens come from the chat template; what people say, type or write is text, whatever it spells.

A tokenizer reads `<|im_end|>` as the end of a turn wherever it stands. Here texts are read by a copy of the tokenizer
in which every control token has another name: its id between two marks, characters that no text at hand holds. Where
the template wrote a control token, the name takes its place; where a text spells one, it has nothing but characters.
All else is the tokenizer's own, and a turn is read in one go: spaces and merges come out as they always do.
"""

import json
import re
from collections.abc import Iterable
from itertools import chain, islice
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import Model
from transformers import PreTrainedTokenizerBase

from blspkd.errors import ModelError

# Begins and ends with a symbol, with a word between: <tool_call>, [INST], </think>; not "\n", "▁▁", "New York", "°C".
_BRACKETED = re.compile(r"[^\w\s▁].*\w.*[^\w\s▁]", re.DOTALL)
_PRIVATE_USE = range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE)


class Marks(NamedTuple):
    """Characters that stand for something in a rendered turn, and in none of the texts."""

    control: str  # around the id of a control token that the template wrote
    spelling: str  # around the id of a control token that a text spells
    edge: str  # where a text begins and ends
    input: str  # the user's content
    reply: str  # the assistant's


class ControlTokens:
    """Reads what a chat template renders, and texts that hold none of `marks`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, marks: Marks):
        self.marks = marks
        added = sorted(tokenizer.added_tokens_decoder.items())
        written = _neutral_turn(tokenizer)
        self._spellings = {number: token.content for number, token in added
                           if is_control(token) or _is_structure(token.content.strip(), written)}
        longest_first = sorted(self._spellings.values(), key=len, reverse=True)
        self._spelt = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._numbers = {content: number for number, content in self._spellings.items()}
        self._copy, self._ids = self._renamed(tokenizer, added)  # {id in the copy: id} of added tokens

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(self._spellings)

    def hide(self, text: str) -> str:
        """`text` for the template, without the control tokens that it spells; `show` brings them back."""
        mark = self.marks.spelling
        return self._spelt.sub(lambda match: f"{mark}{self._numbers[match[0]]}{mark}", text)

    def name(self, rendered: str) -> str:
        """`rendered` with the names of its control tokens in their place, for `read`."""
        return self._spelt.sub(lambda match: self._name(self._numbers[match[0]]), rendered)

    def show(self, rendered: str) -> str:
        """What the template made of hidden texts: its control tokens by name, and the texts as they were."""
        mark = self.marks.spelling
        return re.sub(f"{mark}(\\d+){mark}", lambda match: self._spellings[int(match[1])],
                      self.name(rendered).replace(self.marks.edge, ""))

    def read(self, shown: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and the characters [start, end) of `shown` that each covers.

        White space that a control token swallows (lstrip, rstrip) is covered by none.
        """
        encoding = self._copy.encode(shown, add_special_tokens=False)
        ids = [self._ids.get(number, number) for number in encoding.ids]
        spans = [_stripped(shown, *span) if number in self._spellings else span
                 for number, span in zip(ids, encoding.offsets, strict=True)]
        return ids, spans

    def read_all(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, read by itself."""
        return [[self._ids.get(number, number) for number in encoding.ids]
                for encoding in self._copy.encode_batch(texts, add_special_tokens=False)]

    def _name(self, number: int) -> str:
        return f"{self.marks.control}{number}{self.marks.control}"

    def _renamed(self, tokenizer: PreTrainedTokenizerBase, added: list[tuple[int, AddedToken]]
                 ) -> tuple[Tokenizer, dict[int, int]]:
        """The copy, and what its ids of added tokens are in `tokenizer`."""
        backend = tokenizer.backend_tokenizer
        names = {number: self._name(number) if number in self._spellings else token.content for number, token in added}
        model = _unable_to_spell(backend.model, {content: names[number] for number, content in self._spellings.items()})
        copy = Tokenizer(model)
        copy.normalizer, copy.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
        copy.post_processor = backend.post_processor  # it moves offsets
        copy.add_tokens([AddedToken(names[number], single_word=token.single_word, lstrip=token.lstrip,
                                    rstrip=token.rstrip, normalized=token.normalized, special=token.special)
                         for number, token in added])
        ids = {copy.token_to_id(name): number for number, name in names.items()}
        if any(model.id_to_token(number) not in (None, copy.id_to_token(number)) for number in ids):
            raise ModelError(f"{tokenizer.name_or_path}: its tokenizer's ids have gaps, and control tokens cannot be "
                             "told from text; save it again with its ids in order")
        return copy, ids


def choose_marks(texts: Iterable[str]) -> Marks:
    """Marks that occur in none of `texts`."""
    used = set(chain.from_iterable(texts))
    return Marks(*islice((chr(code) for code in chain(*_PRIVATE_USE) if chr(code) not in used), len(Marks._fields)))


def read_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, read by itself, without any control token."""
    return ControlTokens(tokenizer, choose_marks(texts)).read_all(texts)


def is_control(token: AddedToken) -> bool:
    """Whether an added token steers the LLM; the others are vocabulary: words, white space, signs."""
    if token.special:
        return bool(token.content.strip())
    return _BRACKETED.fullmatch(token.content.strip()) is not None


def _is_structure(content: str, written: str) -> bool:
    """Whether the template itself writes this added token (`ASSISTANT:`); plain words (`user`) stay vocabulary."""
    return content in written and not content.isalnum() and any(map(str.isalnum, content))


def _neutral_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template makes of a question and its answer; empty where there is none, or where it refuses."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # templates raise whatever they like; `Prompt` says so
        return ""


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


def _unable_to_spell(model: Model, names: dict[str, str]) -> Model:
    """`model`, or, if it makes control tokens of their characters, the same with their names in its vocabulary.

    names: {spelling: name}. Models with scores (Unigram) and models of whole words do, and BPE if its merges lead
    there. If any text leads to a control token, its spelling alone does: nothing but itself can win over it there.
    """
    known = {content: number for content in names if (number := model.token_to_id(content)) is not None}
    if not any(token.id == number for content, number in known.items() for token in model.tokenize(content)):
        return model
    state = json.loads(Tokenizer(model).to_str())
    values = state["model"]
    if isinstance(values["vocab"], dict):
        values["vocab"] = {names.get(piece, piece): number for piece, number in values["vocab"].items()}
    else:
        values["vocab"] = [[names.get(piece, piece), score] for piece, score in values["vocab"]]
    if values.get("unk_token") in names:
        values["unk_token"] = names[values["unk_token"]]
    if "merges" in values:
        values["merges"] = [pair for pair in values["merges"] if names.keys().isdisjoint([*pair, "".join(pair)])]
    return Tokenizer.from_str(json.dumps(state)).model
