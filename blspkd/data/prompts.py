"""Chat template -> prefix ids | input ids | suffix ids | response ids (arXiv 2405.19041, section 3.1).

One chat turn is rendered by the LLM's own chat template and cut where the user's content, the *input*, stands. For the
teacher the input is the transcript's tokens, for the student the speech tokens take their place. The cut is made in the
tokenised full rendering, by character offsets, so that a leading space or a merge across the boundary comes out
exactly as the LLM would read it: prefix + input + suffix is always the tokenised rendering.
"""

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from blspkd.config import PromptConfig
from blspkd.errors import ConfigError, ModelError

# Private-use characters: no transcript contains them, and no template treats them specially.
_CONTENT = "\ue0f0\ue0f1\ue0f0"
_REPLY = "\ue0f2\ue0f3\ue0f2"


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
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{name}: this folder holds no {what}: it has no config.json")
    elif path.is_absolute() or name.startswith(".") or name.count("/") > 1 or path.parent.is_dir() and "/" in name:
        raise ModelError(f"{name}: there is no such folder; name the {what}'s folder or its Hugging Face id")


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of LLM `name` (Hugging Face id or folder).

    Raises ModelError when it cannot be loaded, has no chat template, or keeps no character offsets.
    """
    check_model_path(name, "LLM")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name}: its tokenizer cannot be loaded ({reason})") from None
    if not tokenizer.chat_template:
        raise ModelError(f"{name}: its tokenizer has no chat template; use a chat (instruct) model")
    if not tokenizer.is_fast:
        raise ModelError(f"{name}: its tokenizer keeps no character offsets; use one with a tokenizer.json")
    return tokenizer


class Prompt:
    """Renders and tokenises user turns for one tokenizer and one prompt configuration."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig):
        self.tokenizer = tokenizer
        self.config = config
        self._parts: dict[str, tuple[str, str]] = {}
        self._around: dict[str, tuple[list[int], list[int]]] = {}
        self.end_of_turn = self._find_end_of_turn()

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
        before, after = self._render(self.config.instruction)
        # Tokenised behind the generation prompt, as the LLM itself would have written it.
        turn = before + "a" + after
        encoded = self.tokenizer(turn + text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ids = [token for token, (_, end) in tokens if end > len(turn)]
        return ids + [self.end_of_turn]

    def _tokenise(self, transcript: str, instruction: str | None) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of the rendered turn, and the characters that each covers, counted from the transcript's first one.

        Raises ConfigError for an empty transcript.
        """
        if not transcript.strip():
            raise ConfigError("an empty transcript has no tokens to listen for")
        before, after = self._render(instruction)
        encoded = self.tokenizer(before + transcript + after, add_special_tokens=False, return_offsets_mapping=True)
        return encoded["input_ids"], [(left - len(before), right - len(before))
                                      for left, right in encoded["offset_mapping"]]

    def _render(self, instruction: str | None) -> tuple[str, str]:
        """The rendered turn's text before and after the input."""
        instruction = self.config.instruction if instruction is None else instruction
        if instruction not in self._parts:
            parts = [instruction, _CONTENT] if self.config.speech_position == "after" else [_CONTENT, instruction]
            content = self.config.separator.join(part for part in parts if part)
            rendered = self._apply_template([{"role": "user", "content": content}], add_generation_prompt=True)
            if rendered.count(_CONTENT) != 1:
                raise ModelError(f"{self.tokenizer.name_or_path}: its chat template does not show the user's content "
                                 "exactly once; this toolkit cannot find where the speech goes")
            before, _, after = rendered.partition(_CONTENT)
            self._parts[instruction] = (before, after)
        return self._parts[instruction]

    def _apply_template(self, turns: list[dict], add_generation_prompt: bool) -> str:
        if self.config.system:
            turns = [{"role": "system", "content": self.config.system}, *turns]
        try:
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt, **self.config.template_args)
        except Exception as error:  # templates raise whatever they like, jinja2's errors among them
            raise ModelError(f"{self.tokenizer.name_or_path}: its chat template refuses the prompt: {error}") from error

    def _find_end_of_turn(self) -> int:
        """The special token that the template puts behind the assistant's reply, else the tokenizer's EOS."""
        turns = [{"role": "user", "content": _CONTENT}, {"role": "assistant", "content": _REPLY}]
        rendered = self._apply_template(turns, add_generation_prompt=False)
        _, found, closing = rendered.partition(_REPLY)
        ids = self.tokenizer(closing, add_special_tokens=False)["input_ids"] if found else []
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        for token in ids:
            if token in special:
                return token
        if self.tokenizer.eos_token_id is None:
            raise ModelError(f"{self.tokenizer.name_or_path}: neither its chat template nor its tokenizer tells how a "
                             "turn ends (no special token after the assistant's reply, no eos_token)")
        return self.tokenizer.eos_token_id
