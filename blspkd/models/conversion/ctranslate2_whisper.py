"""A Whisper model in CTranslate2's format (as faster-whisper ships it) -> a Hugging Face folder.

`model.bin`, little endian: version, name of the specification and its revision, then every variable (name, shape, type,
bytes) and the aliases of variables. Attention projections that read the same input are stacked: q, k and v, or k and v;
Whisper's k has no bias, and a block of zeros stands for it.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

from blspkd.errors import ModelError
from blspkd.files import atomic_path

VERSION, SPECIFICATION, REVISION = 6, "WhisperSpec", 3
MULTILINGUAL = 51865  # Whisper's vocabulary has at least so many entries where it knows several languages
_BFLOAT16 = 5
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16, _BFLOAT16: np.uint16}
_LAYER = {"self_attention/layer_norm": "self_attn_layer_norm", "attention/layer_norm": "encoder_attn_layer_norm",
          "ffn/layer_norm": "final_layer_norm", "ffn/linear_0": "fc1", "ffn/linear_1": "fc2",
          "self_attention/linear_1": "self_attn.out_proj", "attention/linear_0": "encoder_attn.q_proj",
          "attention/linear_2": "encoder_attn.out_proj"}
_STACKED = {"self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj")}
_PART = {"conv1": "conv1", "conv2": "conv2", "layer_norm": "layer_norm", "embeddings": "embed_tokens",
         "position_encodings": "embed_positions"}
_LEAF = {"gamma": "weight", "beta": "bias", "encodings": "weight", "weight": "weight", "bias": "bias"}


def convert(source: Path, folder: Path) -> None:
    """Write `folder`: weights, configurations, tokenizer, feature extractor. Raises ModelError."""
    try:
        model, tokenizer = _read(source)
    except ModelError:
        raise
    except Exception as error:  # whatever a damaged file makes numpy, tokenizers and transformers raise
        raise ModelError(f"{source}: this is no Whisper model that is known here, or it is damaged "
                         f"({type(error).__name__}: {error})") from None
    with atomic_path(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(temporary)


def _read(source: Path) -> tuple[WhisperForConditionalGeneration, WhisperTokenizerFast]:
    scalars, tensors = {}, {}
    for name, value in read_variables(source / "model.bin").items():
        (scalars if value.ndim == 0 or name.endswith("alignment_heads") else tensors)[name] = value
    weights = dict(_renamed(tensors, source))
    settings = _json(source / "config.json")
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(_existing(source / "tokenizer.json")))
    config = _config(tensors, scalars, tokenizer)
    model = WhisperForConditionalGeneration(config)
    _load(model, weights, source)
    model.generation_config = _generation_config(settings, config, tokenizer)
    return model, tokenizer


def read_variables(path: Path) -> dict[str, np.ndarray]:
    """All variables of a `model.bin`; equal ones are kept once there, under names of which some are aliases.

    Raises ModelError.
    """
    try:
        with open(_existing(path), "rb") as file:
            reader = _Reader(file)
            version, name, revision = reader.number("I"), reader.text(), reader.number("I")
            if (version, name, revision) != (VERSION, SPECIFICATION, REVISION):
                raise ModelError(f"{path}: is of {name}, revision {revision}, in version {version} of the format; only "
                                 f"{SPECIFICATION}, revision {REVISION}, in version {VERSION} is known")
            variables = dict(reader.variable() for _ in range(reader.number("I")))
            for _ in range(reader.number("I")):
                alias, target = reader.text(), reader.text()
                if target not in variables:
                    raise ValueError(f"{alias} is another name of {target}, which is not there")
                if not alias.startswith("decoder/projection/"):  # tied to the embeddings
                    variables[alias] = variables[target]
            if file.read(1):
                raise ValueError("more follows behind its end")
    except (struct.error, ValueError, KeyError, UnicodeDecodeError, MemoryError) as error:
        raise ModelError(f"{path}: is damaged or cut off ({error}); get it again") from None
    return variables


@dataclass
class _Reader:
    file: BinaryIO

    def number(self, kind: str) -> int:
        return struct.unpack(f"<{kind}", self.file.read(struct.calcsize(f"<{kind}")))[0]

    def text(self) -> str:
        return self.file.read(self.number("H")).rstrip(b"\0").decode()

    def variable(self) -> tuple[str, np.ndarray]:
        name = self.text()
        shape = [self.number("I") for _ in range(self.number("B"))]
        code, size = self.number("B"), self.number("I")
        if code not in _TYPES:
            raise ValueError(f"{name} has numbers of an unknown type {code}")
        kind = np.dtype(_TYPES[code])
        if size != kind.itemsize * int(np.prod(shape)):
            raise ValueError(f"{name} has {size} bytes for a shape of {shape}")
        values = np.frombuffer(self.file.read(size), kind).reshape(shape)
        if code == _BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return name, values


def _renamed(tensors: dict[str, np.ndarray], source: Path) -> Iterator[tuple[str, Tensor]]:
    """Their names and shapes in transformers."""
    for name, value in tensors.items():
        side, *middle, leaf = name.split("/")
        if not np.issubdtype(value.dtype, np.floating) or leaf not in _LEAF:
            raise ModelError(f"{source}/model.bin: {name} is quantised ({value.dtype}); convert the model with "
                             "float16 or float32 weights")
        tensor = torch.from_numpy(value.astype(np.float32))
        if middle[0].startswith("layer_") and middle[0] != "layer_norm":
            layer, part = f"model.{side}.layers.{middle[0].removeprefix('layer_')}", "/".join(middle[1:])
            if part in _STACKED:
                names = _STACKED[part]
                pairs = zip(names, tensor.chunk(len(names)), strict=True)
            else:
                pairs = [(_LAYER.get(part, part), tensor)]
        else:
            layer, pairs = f"model.{side}", [(_PART.get("/".join(middle), "/".join(middle)), tensor)]
        for part, piece in pairs:
            if part.endswith("k_proj") and leaf == "bias":
                if piece.any():
                    raise ModelError(f"{source}/model.bin: {name} has a bias for keys, which Whisper has not")
                continue
            yield f"{layer}.{part}.{_LEAF[leaf]}", piece.contiguous()


def _load(model: WhisperForConditionalGeneration, weights: dict[str, Tensor], source: Path) -> None:
    """Every tensor has its place, and every place its tensor."""
    expected = {name: value.shape for name, value in model.state_dict().items() if name != "proj_out.weight"}
    for name in sorted(expected.keys() | weights.keys()):
        found = tuple(weights[name].shape) if name in weights else None
        if found != (tuple(expected[name]) if name in expected else None):
            wanted = tuple(expected[name]) if name in expected else "no such tensor"
            raise ModelError(f"{source}/model.bin: {name} has shape {found}, expected {wanted}; this is no Whisper "
                             "model that is known here")
    model.load_state_dict(weights, strict=False)
    model.tie_weights()


def _config(tensors: dict[str, np.ndarray], scalars: dict[str, np.ndarray], tokenizer: WhisperTokenizerFast
            ) -> WhisperConfig:
    """Sizes from the tensors' shapes."""
    vocabulary, width = tensors["decoder/embeddings/weight"].shape
    layers = {side: sum(name.startswith(f"{side}/layer_") and name.endswith("ffn/linear_0/bias") for name in tensors)
              for side in ("encoder", "decoder")}
    heads = {side: int(scalars[f"{side}/num_heads"]) for side in ("encoder", "decoder")}
    end, start = _ids(tokenizer, "<|endoftext|>", "<|startoftranscript|>")
    return WhisperConfig(
        vocab_size=vocabulary, d_model=width, num_mel_bins=tensors["encoder/conv1/weight"].shape[1],
        encoder_layers=layers["encoder"], decoder_layers=layers["decoder"],
        encoder_attention_heads=heads["encoder"], decoder_attention_heads=heads["decoder"],
        encoder_ffn_dim=len(tensors["encoder/layer_0/ffn/linear_0/bias"]),
        decoder_ffn_dim=len(tensors["decoder/layer_0/ffn/linear_0/bias"]),
        max_source_positions=len(tensors["encoder/position_encodings/encodings"]),
        max_target_positions=len(tensors["decoder/position_encodings/encodings"]),
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start, architectures=[
            "WhisperForConditionalGeneration"])


def _generation_config(settings: dict[str, Any], config: WhisperConfig, tokenizer: WhisperTokenizerFast
                       ) -> GenerationConfig:
    no_times, previous = _ids(tokenizer, "<|notimestamps|>", "<|startofprev|>")
    several = config.vocab_size >= MULTILINGUAL
    languages = {token: tokenizer.convert_tokens_to_ids(token)
                 for token in tokenizer.convert_ids_to_tokens(settings.get("lang_ids", []))} if several else None
    tasks = dict(zip(("transcribe", "translate"), _ids(tokenizer, "<|transcribe|>", "<|translate|>"), strict=True))
    return GenerationConfig(
        **{"lang_to_id": languages, "task_to_id": tasks} if several else {}, is_multilingual=several,
        max_length=config.max_target_positions, return_timestamps=False, max_initial_timestamp_index=50,
        decoder_start_token_id=config.decoder_start_token_id, bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, no_timestamps_token_id=no_times,
        prev_sot_token_id=previous, alignment_heads=settings.get("alignment_heads"),
        suppress_tokens=settings.get("suppress_ids", []), begin_suppress_tokens=settings.get("suppress_ids_begin", []))


def _ids(tokenizer: WhisperTokenizerFast, *tokens: str) -> list[int]:
    known = tokenizer.get_vocab()
    missing = [token for token in tokens if token not in known]
    if missing:
        raise ModelError(f"tokenizer.json: has no {missing[0]}; this is no tokenizer of Whisper")
    return [known[token] for token in tokens]


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(_existing(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"{path}: is missing; a folder of CTranslate2 has config.json, model.bin, tokenizer.json")
    return path
