"""A trained model that people talk to: conversations of texts and recordings -> replies.

    from blspkd import SpeechLLM

    model = SpeechLLM.from_pretrained("exp/train/model")
    model.chat([{"role": "user", "content": [{"type": "text", "text": "Translate the following text into German."},
                                             {"type": "audio", "audio": "speech.wav"}]}]).text

`SpeechLlm` (speech_llm.py) is the network, `Listener` (listener.py) knows one utterance and one instruction; this knows
conversations: several turns, several recordings, options of each one's own, text that comes in pieces.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from blspkd.audio.chunks import chunks
from blspkd.audio.handed import read_audio
from blspkd.config import Dtype
from blspkd.data.conversation import Audio, ask, audios_of, ids_around_audios, read_messages
from blspkd.errors import AudioError, ConfigError, ContextError, DataError
from blspkd.models.base_models import choose_device
from blspkd.models.heard import Heard, hear
from blspkd.models.listener import GenerationOptions, Listener, LlmInput
from blspkd.models.model_folder import check_replaceable
from blspkd.models.past import Past
from blspkd.models.reply import ChatOptions, Reply, Watcher, Writer, make_sampler
from blspkd.models.stream import Stream

REMEMBERED = 64  # recordings whose speech tokens are kept: the audios of a conversation come again with every turn
WINDOWS = 32  # of the encoder (Whisper: 30 s each) that are encoded at a time
LONGEST = 300.0  # seconds of one recording; listening attends over all of it, so that memory grows with the square
REPEAT = "Repeat the following text."  # as the recipes' decode.yaml asks
UNKNOWN_CONTEXT = 1 << 30  # positions of an LLM that does not say how many it has


@dataclass
class ReadConversation:
    """A conversation whose recordings are read, before the model has listened to them."""

    pieces: list[list[int]]  # token ids before, between and behind the recordings
    waveforms: list[np.ndarray]


@dataclass
class Turn:
    """A conversation as the LLM reads it."""

    input: LlmInput

    @property
    def prompt_tokens(self) -> int:
        return len(self.input)

    @property
    def speech_tokens(self) -> int:
        return self.input.speech_tokens


class SpeechLLM:
    """A trained model, for applications. Listening and generating are for one thread at a time."""

    def __init__(self, listener: Listener):
        self.listener = listener
        self._remembered: OrderedDict[bytes, Tensor] = OrderedDict()

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, device: str = "auto",
                        dtype: str | torch.dtype = "", device_map: Any = None,
                        base_models: Mapping[str, str] | None = None) -> "SpeechLLM":
        """Load a folder that training left, or a repository of the hub.

        dtype: of the frozen weights, else as in the training; device_map: spreads the LLM over devices (accelerate);
        base_models: {"llm": ..., "speech_encoder": ...} in the place of where the folder says they are.
        Raises ModelError, with the names of both, for a base model that is missing or another one than in training.
        """
        device = choose_device(device) if device_map is None else device
        dtype = "" if dtype == "auto" else str(dtype).removeprefix("torch.")
        if dtype not in ("", *get_args(Dtype)):
            raise ConfigError(f"dtype: {dtype} is none of {', '.join(get_args(Dtype))}")
        return cls(Listener.from_pretrained(name, device, dtype, revision=revision, device_map=device_map,
                                            base_models=base_models))

    @property
    def sampling_rate(self) -> int:
        return self.listener.extractor.sampling_rate

    @property
    def context(self) -> int:
        """Positions that the LLM has for prompt and reply together."""
        return getattr(self.listener.model.causal_lm.config, "max_position_embeddings", UNKNOWN_CONTEXT)

    def chat(self, messages: Sequence, *, channel: int | None = None, past: Past | None = None, **options
             ) -> Reply | list[Reply]:
        """Reply to a conversation, or to a list of several at once.

        messages: as OpenAI and transformers have them: {"role": ..., "content": text or list of parts}, a part being
                  {"type": "text", "text": ...} or {"type": "audio", "audio": path, bytes, file, (rate, array) ...}.
        channel:  of recordings with several.
        past:     a `Past` that goes with this conversation: what was read in an earlier turn is not read again.
        options:  of `ChatOptions`.
        Raises MessageError, AudioError and ContextError, each with the place in the messages.
        """
        several = bool(messages) and all(isinstance(item, list | tuple) for item in messages)
        if past is not None and (several or not isinstance(past, Past)):
            raise ConfigError("past: give a `Past` of blspkd.models.past, and one conversation")
        chosen = ChatOptions(**options)
        turns = self.prepare(messages if several else [messages], channel)
        replies = self.generate(turns, [chosen] * len(turns), past=past)
        return replies if several else replies[0]

    def stream(self, messages: Sequence, *, channel: int | None = None, past: Past | None = None, **options) -> Stream:
        """The reply in pieces of text; `close` ends it early, `reply` is the whole."""
        [turn] = self.prepare([messages], channel)
        chosen = ChatOptions(**options)
        return Stream(lambda on_text, cancelled: self.generate(
            [turn], [chosen], lambda _, text: on_text(text), lambda _: cancelled(), past)[0])

    def read(self, messages: Sequence, channel: int | None = None, max_seconds: float | None = None
             ) -> ReadConversation:
        """Tokens and waveforms of a conversation; needs no model, so that any thread may do it.

        max_seconds: of all its recordings together; each may have LONGEST. Raises MessageError and AudioError.
        """
        conversation = read_messages(messages)
        waveforms, left = [], LONGEST if max_seconds is None else max_seconds
        for audio in audios_of(conversation):
            waveforms.append(self._waveform(audio, channel, min(left, LONGEST)))
            if max_seconds is not None:
                left -= len(waveforms[-1]) / self.sampling_rate
        return ReadConversation(ids_around_audios(self.listener.prompt, conversation), waveforms)

    def prepare(self, conversations: Sequence[Sequence], channel: int | None = None, max_seconds: float | None = None
                ) -> list[Turn]:
        """Read conversations and listen to their recordings. Raises MessageError, AudioError and ContextError."""
        read = []
        for number, messages in enumerate(conversations):
            try:
                read.append(self.read(messages, channel, max_seconds))
            except DataError as error:
                which = f"conversation {number} (counted from 0): " if len(conversations) > 1 else ""
                raise type(error)(f"{which}{error}") from None
        return self.listen(read)

    def listen(self, conversations: Sequence[ReadConversation]) -> list[Turn]:
        """Listen to the recordings of all conversations in one go. Raises AudioError and ContextError."""
        speech = iter(self.speech_tokens([waveform for item in conversations for waveform in item.waveforms]))
        turns = []
        for item in conversations:
            pieces: list[list[int] | Tensor] = [item.pieces[0]]
            for ids in item.pieces[1:]:
                pieces += [next(speech), ids]
            turns.append(Turn(LlmInput([piece for piece in pieces if len(piece)])))
            if turns[-1].prompt_tokens >= self.context:
                raise ContextError(f"messages: {turns[-1].prompt_tokens} tokens, {turns[-1].speech_tokens} of them of "
                                   f"speech, but the LLM reads {self.context} with its reply; shorten the "
                                   "conversation, or let the recording be heard in pieces (chat_in_chunks; --chunk)")
        return turns

    @torch.inference_mode()
    def speech_tokens(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        """Speech tokens [n, D] of each waveform (float32 at `sampling_rate`); the last ones heard are remembered."""
        keys = [hashlib.sha256(waveform.tobytes()).digest() for waveform in waveforms]
        new = {key: waveform for key, waveform in zip(keys, waveforms, strict=True) if key not in self._remembered}
        heard = {key: self._remembered[key] for key in keys if key in self._remembered}
        for group in self._groups(new):
            heard.update(zip(group, self.listener.listen([new[key] for key in group]), strict=True))
        for key in keys:
            self._remembered[key] = heard[key]
            self._remembered.move_to_end(key)
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return [heard[key] for key in keys]

    def generate(self, turns: Sequence[Turn], options: Sequence[ChatOptions],
                 on_text: Callable[[int, str], None] | None = None, cancelled: Callable[[int], bool] | None = None,
                 past: Past | None = None, on_reply: Callable[[int, Reply], None] | None = None) -> list[Reply]:
        """Reply to all turns in one batch, each with its own options.

        Rows that are complete go on being filled until the last one is; where that would pass the LLM's last position,
        those with the longest prompts make a batch of their own.

        on_text:   called with a row and a piece of its text as soon as it is certain.
        cancelled: asked once per row and step; a row that is cancelled ends there.
        past:      see `chat`; of one turn.
        on_reply:  called with a row and its reply as soon as that is complete, while others go on.
        """
        if not turns:
            return []
        writers = [Writer(self.listener.tokenizer, chosen, self.context, turn.prompt_tokens, turn.speech_tokens)
                   for turn, chosen in zip(turns, options, strict=True)]
        watcher = Watcher(writers, self.listener.ends, on_text, cancelled, on_reply)
        rows = list(range(len(turns)))
        while rows:
            longest = max(writers[row].options.max_new_tokens for row in rows)
            batch = [row for row in rows if turns[row].prompt_tokens + longest <= self.context]
            self.listener.generate([turns[row].input for row in batch], GenerationOptions(max_new_tokens=longest),
                                   make_sampler([writers[row].options for row in batch]), watcher.of(batch), past)
            rows = [row for row in rows if row not in batch]
        return [writer.reply for writer in writers]

    def hear(self, audio: Any, *, rate: float | None = None, channel: int | None = None,
             max_seconds: float | None = None) -> Heard:
        """What the adapter makes of a recording: firing weights, and tokens with their times. Raises AudioError."""
        waveform = self._waveform(Audio(audio, rate, "audio"), channel, min(max_seconds or LONGEST, LONGEST))
        return hear(self.listener, waveform)

    def transcribe(self, audio: Any, *, rate: float | None = None, channel: int | None = None, chunk: float = 30.0,
                   instruction: str = REPEAT, **options) -> str:
        """What is said in a recording of any length, in the LLM's words; see `chat_in_chunks`."""
        texts = self.chat_in_chunks(audio, instruction, rate=rate, channel=channel, chunk=chunk, **options)
        return " ".join(text for text in texts if text)

    def chat_in_chunks(self, audio: Any, instruction: str, *, rate: float | None = None, channel: int | None = None,
                       chunk: float = 30.0, **options) -> Iterator[str]:
        """The replies to pieces of a recording, one after another, each piece with the same instruction.

        A file is read piece by piece, so that hours of it need no more memory than minutes.
        chunk: seconds of a piece, at most; it ends where the recording is most quiet.
        """
        prompt, chosen = self.listener.prompt, ChatOptions(**options)
        pieces = ids_around_audios(prompt, read_messages([ask(prompt.config, instruction, [
            {"type": "audio", "audio": audio}])]))
        for waveform in chunks(audio, self.sampling_rate, chunk, rate=rate, channel=channel):
            if waveform.min() == waveform.max():
                yield ""  # silence has nothing to reply to
                continue
            yield self.generate(self.listen([ReadConversation(pieces, [waveform])]), [chosen])[0].text

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the trained weights, and which base models they belong to, into a folder that is made or replaced.

        The base models are referred to by their places or ids, not copied; `copy_with_base_models` (model_folder.py)
        makes a copy with all that is needed. Raises ModelError for a folder that holds anything else than such a model.
        """
        check_replaceable(Path(folder))
        self.listener.model.save_pretrained(folder)

    def _waveform(self, audio: Audio, channel: int | None, max_seconds: float | None) -> np.ndarray:
        waveform = read_audio(audio.value, self.sampling_rate, rate=audio.rate, channel=channel, name=audio.name,
                              max_seconds=max_seconds)
        if len(waveform) < self.listener.extractor.shortest:
            raise AudioError(f"{audio.name}: only {len(waveform)} samples: too short for one feature frame")
        return waveform

    def _groups(self, waveforms: Mapping[bytes, np.ndarray]) -> list[list[bytes]]:
        """Keys of waveforms that are listened to together: of at most WINDOWS windows, or one alone."""
        groups: list[list[bytes]] = []
        room = 0
        for key, waveform in waveforms.items():
            windows = -(-len(waveform) // self.listener.extractor.window_samples)
            if windows > room or not groups:
                groups.append([])
                room = WINDOWS
            groups[-1].append(key)
            room -= windows
        return groups
