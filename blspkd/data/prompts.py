"""Chat template -> prefix ids | input ids | suffix ids | response ids (arXiv 2405.19041, section 3.1).

One chat turn is rendered by the LLM's own chat template and cut where the user's content, the *input*, stands. For the
teacher the input is the transcript's tokens, for the student the speech tokens take their place. The cut is made in the
tokenised full rendering, by character offsets, so that a leading space or a merge across the boundary comes out
exactly as the LLM would read it: prefix + input + suffix is always the tokenised rendering.

What a text spells never steers the LLM: see control_tokens.py.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from blspkd.config import PromptConfig
from blspkd.data.control_tokens import ControlTokens, Marks, choose_marks
from blspkd.data.pretrained import load_pretrained, refuse_other_runtimes
from blspkd.data.system_turn import NONE, without_default
from blspkd.errors import ConfigError, ModelError
from blspkd.files import text_digest


@dataclass(frozen=True)
class PromptIds:
    """One rendered user turn; prefix + input + suffix is its tokenisation."""

    prefix: list[int]
    input: list[int]
    suffix: list[int]


def check_model_path(name: str, what: str) -> None:
    """Raise ModelError where `name` is meant as a folder that does not exist, or as an id that cannot be one."""
    if not name:
        raise ModelError(f"no {what} was named; give a Hugging Face id or a folder")
    refuse_other_runtimes(name)
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{name}: this folder holds no {what}: it has no config.json")
        if (path / "adapter.safetensors").is_file():
            raise ModelError(f"{name}: this is a trained model of blspkd and no {what}; name one of its base models")
    elif path.is_absolute() or name.startswith(".") or name.count("/") > 1 or path.parent.is_dir() and "/" in name:
        raise ModelError(f"{name}: there is no such folder; name the {what}'s folder or its Hugging Face id")


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of LLM `name` (Hugging Face id or folder).

    Raises ModelError when it cannot be loaded, has no chat template, or keeps no character offsets.
    """
    check_model_path(name, "LLM")
    try:
        tokenizer = load_pretrained(AutoTokenizer, name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name}: its tokenizer cannot be loaded ({reason})") from None
    if not tokenizer.chat_template:
        raise ModelError(f"{name}: its tokenizer has no chat template; use a chat (instruct) model")
    if not tokenizer.is_fast:
        raise ModelError(f"{name}: its tokenizer keeps no character offsets; use one with a tokenizer.json")
    return tokenizer


class Prompt:
    """Renders and tokenises user turns for one tokenizer and one prompt configuration.

    Instruction, transcript, reply, system message, separator and the texts of template_args are text, whatever they
    spell: control tokens are those that the template writes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig):
        self.tokenizer = tokenizer
        self.config = config
        self._readers: list[ControlTokens] = []
        self._parts: dict[tuple[Marks, str], tuple[str, ...]] = {}  # before and after the input
        self._around: dict[str, tuple[list[int], list[int]]] = {}
        self.end_of_turn = self._find_end_of_turn()
        self._check_reader()

    @property
    def control_ids(self) -> frozenset[int]:
        """Tokens that only the template and the LLM write."""
        return self.reader().ids

    def text_ids(self, vocabulary: int) -> list[int]:
        """Tokens below `vocabulary` that text is made of: no control tokens, no rows of an LLM that have no token."""
        control = self.control_ids
        return sorted(number for number in self.tokenizer.get_vocab().values()
                      if number < vocabulary and number not in control)

    def ends_of_turn(self, shipped: GenerationConfig) -> list[int]:
        """Tokens that end the LLM's turn: its template's, its tokenizer's, and those of the configuration it ships."""
        more = shipped.eos_token_id
        ends = {self.end_of_turn, self.tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])}
        return sorted(ends - {None})

    def instruction_of(self, utt_id: str) -> str:
        """The instruction of an utterance in stages 2 and 3: the one, or one of several, drawn by their weights."""
        several = self.config.instructions
        if not several:
            return self.config.instruction
        place = int(text_digest(utt_id)[:12], 16) / 16**12 * sum(several.values())
        ends = itertools.accumulate(several.values())
        return next((one for one, end in zip(several, ends, strict=True) if place < end), self.config.instruction)

    def split(self, transcript: str, instruction: str | None = None) -> PromptIds:
        """Tokenise the turn with `transcript` as input; `instruction` defaults to the configured one.

        A token that covers any character of the transcript belongs to the input.
        Raises ConfigError for an empty transcript.
        """
        ids, spans = self._tokenise(transcript, instruction)
        inside = [i for i, (left, right) in enumerate(spans) if left < len(transcript) and right > 0]
        first, last = inside[0], inside[-1] + 1
        return PromptIds(prefix=ids[:first], input=ids[first:last], suffix=ids[last:])

    def spans(self, transcript: str, instruction: str | None = None) -> list[tuple[int, int]]:
        """The characters [start, end) of `transcript` that each token of `split(...).input` covers."""
        _, spans = self._tokenise(transcript, instruction)
        return [(max(left, 0), min(right, len(transcript))) for left, right in spans
                if left < len(transcript) and right > 0]

    def around(self, instruction: str | None = None) -> tuple[list[int], list[int]]:
        """Prefix and suffix ids for a turn whose transcript is not known, i.e. around speech at inference."""
        instruction = self.config.instruction if instruction is None else instruction
        if instruction not in self._around:
            # A plain word: what stands around it is what stands around any transcript that merges with nothing.
            ids = self.split("a", instruction)
            self._around[instruction] = (ids.prefix, ids.suffix)
        return self._around[instruction]

    def response(self, text: str) -> list[int]:
        """Token ids of the assistant's reply `text`, closed by the end-of-turn token."""
        reader = self.reader(text)
        before, after = self._render(reader, self.config.instruction)
        # Tokenised behind the generation prompt, as the LLM itself would have written it.
        turn = before + "a" + after
        ids, spans = reader.read(turn + text)
        return [token for token, (_, end) in zip(ids, spans, strict=True) if end > len(turn)] + [self.end_of_turn]

    def _tokenise(self, transcript: str, instruction: str | None) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of the rendered turn, and the characters that each covers, counted from the transcript's first one.

        Raises ConfigError for an empty transcript.
        """
        if not transcript.strip():
            raise ConfigError("an empty transcript has no tokens to listen for")
        instruction = self.config.instruction if instruction is None else instruction
        reader = self.reader(transcript, instruction)
        before, after = self._render(reader, instruction)
        ids, spans = reader.read(before + transcript + after)
        return ids, [(left - len(before), right - len(before)) for left, right in spans]

    def reader(self, *texts: str) -> ControlTokens:
        """A reader whose marks occur neither in `texts` nor in what is configured; nearly always the same one."""
        for reader in self._readers:
            if not any(mark in text for mark in reader.marks for text in texts):
                return reader
        config = self.config
        variables = json.dumps(config.template_args, ensure_ascii=False, default=str)
        marks = choose_marks([*texts, config.instruction, config.system, config.separator, variables,
                              str(self.tokenizer.chat_template)])
        self._readers.append(ControlTokens(self.tokenizer, marks))
        return self._readers[-1]

    def _render(self, reader: ControlTokens, instruction: str) -> tuple[str, ...]:
        """The rendered turn before and after the input, for `reader`."""
        key = (reader.marks, instruction)
        if key not in self._parts:
            self._parts[key] = self.around_inputs(reader, partial(self._turns, reader, instruction), 1)
        return self._parts[key]

    def around_inputs(self, reader: ControlTokens, turns_of: Callable[[str], list[dict]], count: int
                      ) -> tuple[str, ...]:
        """The rendering of turns with `count` inputs: what stands before, between and behind them, for `reader`.

        turns_of: edge -> turns whose texts are hidden by `reader`, with the edge around them (`put_around`).
        Raises ModelError where the template refuses the turns, or does not show each input once and in order.
        """
        # An edge keeps a text and the template beside it from spelling a control token together; without edges where
        # the template looks at how a text begins or ends.
        edged, bare = (self._apply_template(reader, turns_of(edge)) for edge in (reader.marks.edge, ""))
        rendered = reader.show(edged if edged.replace(reader.marks.edge, "") == bare else bare)
        if rendered.count(reader.marks.input) != count:
            raise ModelError(f"{self.tokenizer.name_or_path}: its chat template does not show the user's content "
                             "exactly once; this toolkit cannot find where the speech goes")
        return tuple(rendered.split(reader.marks.input))

    def _turns(self, reader: ControlTokens, instruction: str, edge: str) -> list[dict]:
        """System message and user's turn with the mark of the input, control tokens hidden, an `edge` at each end."""
        parts = [instruction, self.config.separator] if instruction else []
        if self.config.speech_position == "after":
            content = put_around(edge, reader.hide("".join(parts))) + reader.marks.input
        else:
            content = reader.marks.input + put_around(edge, reader.hide("".join(parts[::-1])))
        turns = [{"role": "user", "content": content}]
        if self.config.system not in ("", NONE):
            turns.insert(0, {"role": "system", "content": put_around(edge, reader.hide(self.config.system))})
        return turns

    def _apply_template(self, reader: ControlTokens, turns: list[dict], add_generation_prompt: bool = True) -> str:
        def render(turns: list[dict]) -> str:
            return self._render_turns(reader, turns, add_generation_prompt)

        rendered = render(turns)
        if self.config.system != NONE or turns[0]["role"] == "system":
            return rendered
        return without_default(rendered, turns, render, (reader.marks.spelling, reader.marks.control),
                               self.tokenizer.bos_token or "")

    def _render_turns(self, reader: ControlTokens, turns: list[dict], add_generation_prompt: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt,
                **_hide_all(reader, self.config.template_args))
        except Exception as error:  # templates raise whatever they like, jinja2's errors among them
            raise ModelError(f"{self.tokenizer.name_or_path}: its chat template refuses the prompt: {error}") from error

    def _find_end_of_turn(self) -> int:
        """The special token that the template puts behind the assistant's reply, else the tokenizer's EOS."""
        reader = self.reader()
        turns = [*self._turns(reader, "", ""), {"role": "assistant", "content": reader.marks.reply}]
        rendered = self._apply_template(reader, turns, add_generation_prompt=False)
        _, found, closing = reader.show(rendered).partition(reader.marks.reply)
        ids = reader.read(closing)[0] if found else []
        special = set(self.tokenizer.all_special_ids) | reader.ids  # not every added token: some have "\n" as one
        for token in ids:
            if token in special:
                return token
        if self.tokenizer.eos_token_id is None:
            raise ModelError(f"{self.tokenizer.name_or_path}: neither its chat template nor its tokenizer tells how a "
                             "turn ends (no special token after the assistant's reply, no eos_token)")
        return self.tokenizer.eos_token_id

    def _check_reader(self) -> None:
        """Raise ModelError unless a turn in which no text spells anything is read as the tokenizer itself reads it."""
        reader = self.reader()
        roles = ["user"] if self.config.system in ("", NONE) else ["system", "user"]
        turns = [{"role": role, "content": "a"} for role in roles]
        rendered = self._apply_template(reader, turns)
        if reader.read(reader.name(rendered))[0] != self.tokenizer(rendered, add_special_tokens=False)["input_ids"]:
            raise ModelError(f"{self.tokenizer.name_or_path}: the control tokens of its chat template cannot be told "
                             "from text; use another LLM")


def put_around(edge: str, text: str) -> str:
    """`text` with `edge` before its first and behind its last character that is not white space."""
    core = text.strip()
    return text.replace(core, f"{edge}{core}{edge}", 1) if core else text


def _hide_all(reader: ControlTokens, value):
    """The value of a template's variable with the control tokens hidden that its texts spell."""
    if isinstance(value, str):
        return reader.hide(value)
    if isinstance(value, dict):
        return {key: _hide_all(reader, item) for key, item in value.items()}
    return [_hide_all(reader, item) for item in value] if isinstance(value, list) else value
