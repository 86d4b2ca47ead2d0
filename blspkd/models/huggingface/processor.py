"""Conversations -> what `BlspkdForConditionalGeneration` takes: token ids, and features of the recordings.

The token ids are those of `SpeechLLM.chat`: what a text spells is text, and the prompt is the training's.
"""

import re
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import BatchFeature, FeatureExtractionMixin, PreTrainedTokenizerBase, ProcessorMixin

from blspkd.audio.handed import read_audio
from blspkd.config_file import save_config
from blspkd.data.conversation import Audio, Message, audios_of, ids_around_audios, read_messages
from blspkd.data.features import FeatureExtractor, pad_windows
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ConfigError
from blspkd.models.base_records import write_base_models
from blspkd.models.huggingface.config import AUDIO_TOKEN_ID, refuse_push, write_config
from blspkd.models.model_folder import SpeechLlmConfig, find_folder, locate_base_models, read_config

_DATA_URL = re.compile(r"\Adata:[\w/.+;=-]*;base64,", re.IGNORECASE)


class BlspkdProcessor(ProcessorMixin):
    """Tokenizer of the LLM and feature extractor of the speech encoder, with the prompt of the training."""

    audio_token_id = AUDIO_TOKEN_ID

    def __init__(self, feature_extractor: FeatureExtractionMixin, tokenizer: PreTrainedTokenizerBase,
                 windows: FeatureExtractor, saved: SpeechLlmConfig):
        """windows: around `feature_extractor`; saved: of the trained model, with its base models where they are."""
        super().__init__(feature_extractor, tokenizer, chat_template=tokenizer.chat_template)
        self._windows, self._saved = windows, saved
        self._prompt = Prompt(tokenizer, saved.prompt)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None,
                        base_models: dict[str, str] | None = None, **_) -> "BlspkdProcessor":
        """Of a trained model, a folder or an id on the hub; see `SpeechLlm.from_pretrained`. Raises ModelError.

        What else the Auto classes pass on says how files are fetched, which the hub's environment variables do here.
        """
        path = Path(pretrained_model_name_or_path)
        folder = find_folder(pretrained_model_name_or_path, None if path.is_dir() else revision)
        saved = read_config(folder)
        saved.model = locate_base_models(folder, saved.model, base_models)
        windows = FeatureExtractor(saved.model.speech_encoder, saved.model.pad_to_30s)
        return cls(windows.extractor, load_tokenizer(saved.model.llm), windows, saved)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **_) -> list[str]:
        """Write what `from_pretrained` reads, unless the model is saved there already. Raises ConfigError."""
        if push_to_hub:
            refuse_push()
        folder = Path(save_directory)
        if not (folder / "config.yaml").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            save_config(self._saved, folder / "config.yaml")
            write_base_models(folder, folder, self._saved.model)
            write_config(folder)
        return [str(folder / name) for name in ("config.yaml", "base_models.json", "config.json")]

    def push_to_hub(self, *_, **__) -> NoReturn:
        refuse_push()

    def to_dict(self) -> dict:
        """What `repr` shows."""
        return {"processor_class": type(self).__name__, "llm": self._saved.model.llm,
                "speech_encoder": self._saved.model.speech_encoder}

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "input_features", "feature_lengths", "audio_windows"]

    def __call__(self, *_, **__) -> BatchFeature:
        raise ConfigError("this processor takes conversations; call processor.apply_chat_template([{'role': 'user', "
                          "'content': [{'type': 'text', 'text': ...}, {'type': 'audio', 'audio': ...}]}])")

    def apply_chat_template(self, conversation: Sequence, chat_template: None = None, *,
                            add_generation_prompt: bool = True, tokenize: bool = True, return_dict: bool = True,
                            return_tensors: str = "pt", padding: bool = True, **further) -> BatchFeature:
        """One conversation, or a list of them, whose user speaks last -> the model's arguments.

        conversation: as for `SpeechLLM.chat`; {"type": "audio", "url": ...} may hold the file itself, in base64.

        Returns
            input_ids       [B, L]     the prompt, padded in front; `audio_token_id` once for each recording
            attention_mask  [B, L]     0 on padding
        and, where there are recordings, in the order of the prompts,
            input_features  [W, F, M]  windows of all recordings ([W, S] samples for wav2vec 2.0 and its kin)
            feature_lengths [W]        real frames (samples) of each window
            audio_windows   [A]        windows of each recording

        Raises MessageError and AudioError, which name the place in the conversation, and ConfigError for what this
        processor cannot do.
        """
        _refuse(further | {"chat_template": chat_template, "tokenize=False": not tokenize,
                           "return_dict=False": not return_dict, "padding=False": not padding,
                           "add_generation_prompt=False": not add_generation_prompt,
                           f"return_tensors={return_tensors!r}": return_tensors not in ("pt", "auto", None)})
        several = bool(conversation) and all(isinstance(item, list | tuple) for item in conversation)
        conversations = [read_messages(_with_bytes(messages)) for messages in
                         (conversation if several else [conversation])]
        prompts = self._pad([self._ids(messages) for messages in conversations])
        return BatchFeature(prompts | self._features([audio for item in conversations for audio in audios_of(item)]))

    def _ids(self, messages: list[Message]) -> list[int]:
        first, *others = ids_around_audios(self._prompt, messages)
        return first + [token for piece in others for token in (AUDIO_TOKEN_ID, *piece)]

    def _pad(self, prompts: list[list[int]]) -> dict[str, torch.Tensor]:
        size, padding = max(map(len, prompts)), self.tokenizer.pad_token_id
        padding = self._prompt.end_of_turn if padding is None else padding
        return {"input_ids": torch.tensor([[padding] * (size - len(ids)) + ids for ids in prompts]),
                "attention_mask": torch.tensor([[0] * (size - len(ids)) + [1] * len(ids) for ids in prompts])}

    def _features(self, audios: list[Audio]) -> dict[str, torch.Tensor]:
        if not audios:
            return {}
        features = [self._windows(read_audio(audio.value, self._windows.sampling_rate, rate=audio.rate,
                                             name=audio.name)) for audio in audios]
        return {"input_features": pad_windows([window for item in features for window in item.windows]),
                "feature_lengths": torch.tensor([length for item in features for length in item.lengths]),
                "audio_windows": torch.tensor([len(item.windows) for item in features])}


def _refuse(asked: dict[str, object]) -> None:
    """Raise ConfigError where something is asked for; what is None, False or empty asks for nothing."""
    names = [name for name, value in asked.items() if value]
    if names:
        raise ConfigError(f"apply_chat_template: {', '.join(names)}: cannot be had here; the prompt is the training's "
                          "(config.yaml), and the sampling rate of an array stands beside it: "
                          '{"type": "audio", "audio": array, "sampling_rate": 16000}')


def _with_bytes(messages: Any) -> Any:
    """The conversation with the bytes of the files that `transformers serve` hands over as `data:` URLs."""
    if not isinstance(messages, list | tuple):
        return messages
    return [message | {"content": [_decoded(part) for part in message["content"]]}
            if isinstance(message, dict) and isinstance(message.get("content"), list | tuple) else message
            for message in messages]


def _decoded(part: Any) -> Any:
    """No address is opened and no path is read: what is not base64 stays as it is, and is refused as a message."""
    if not isinstance(part, dict) or not isinstance(part.get("url"), str) or {"audio", "path"} & part.keys():
        return part
    try:
        return {"type": part.get("type"), "audio": b64decode(_DATA_URL.sub("", part["url"]), validate=True)}
    except ValueError:
        return part
