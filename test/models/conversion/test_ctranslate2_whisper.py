"""Whisper models in CTranslate2's format: what a tiny model becomes when it is written there and read back."""

import json
import struct

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from blspkd.bin import convert_model
from blspkd.data.prompts import check_model_path
from blspkd.errors import ModelError
from blspkd.models.conversion.ctranslate2_whisper import convert, read_variables

SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
           "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "uint16": 5}  # uint16 here: bits of bfloat16


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def write(path, variables, aliases=(), version=6, specification="WhisperSpec"):
    """A model.bin of `variables`, by the format's description."""
    parts = [struct.pack("<I", version), text(specification), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        parts += [text(name), struct.pack("<B", value.ndim), *(struct.pack("<I", n) for n in value.shape),
                  struct.pack("<BI", TYPES.get(str(value.dtype), 9), value.nbytes), value.tobytes()]
    parts += [struct.pack("<I", len(aliases)), *(text(alias) + text(target) for alias, target in aliases)]
    path.write_bytes(b"".join(parts))


def variables_of(model) -> dict[str, np.ndarray]:
    """The model's weights by CTranslate2's names, projections stacked."""
    weights = {name: value.numpy() for name, value in model.model.state_dict().items()}
    found = {"encoder/num_heads": np.int16(2), "decoder/num_heads": np.int16(2), "decoder/pre_norm": np.int8(1),
             "decoder/alignment_heads": np.int16(1)}
    norm = {"weight": "gamma", "bias": "beta"}

    def put(name, place, names=("weight", "bias")):
        for leaf in names:
            found[f"{name}/{norm[leaf] if 'norm' in name else leaf}"] = weights[f"{place}.{leaf}"]

    def stack(name, places, width=16):
        found[f"{name}/weight"] = np.concatenate([weights[f"{place}.weight"] for place in places])
        found[f"{name}/bias"] = np.concatenate([weights.get(f"{place}.bias", np.zeros(width, np.float32))
                                                for place in places])

    for side in ("encoder", "decoder"):
        found[f"{side}/position_encodings/encodings"] = weights[f"{side}.embed_positions.weight"]
        put(f"{side}/layer_norm", f"{side}.layer_norm")
        for number in range(2):
            ours, theirs = f"{side}/layer_{number}", f"{side}.layers.{number}"
            put(f"{ours}/self_attention/layer_norm", f"{theirs}.self_attn_layer_norm")
            stack(f"{ours}/self_attention/linear_0", [f"{theirs}.self_attn.{x}_proj" for x in "qkv"])
            put(f"{ours}/self_attention/linear_1", f"{theirs}.self_attn.out_proj")
            if side == "decoder":
                put(f"{ours}/attention/layer_norm", f"{theirs}.encoder_attn_layer_norm")
                put(f"{ours}/attention/linear_0", f"{theirs}.encoder_attn.q_proj")
                stack(f"{ours}/attention/linear_1", [f"{theirs}.encoder_attn.{x}_proj" for x in "kv"])
                put(f"{ours}/attention/linear_2", f"{theirs}.encoder_attn.out_proj")
            put(f"{ours}/ffn/layer_norm", f"{theirs}.final_layer_norm")
            put(f"{ours}/ffn/linear_0", f"{theirs}.fc1")
            put(f"{ours}/ffn/linear_1", f"{theirs}.fc2")
    for number in (1, 2):
        put(f"encoder/conv{number}", f"encoder.conv{number}")
    found["decoder/embeddings/weight"] = weights["decoder.embed_tokens.weight"]
    return found


@pytest.fixture
def whisper(tmp_path):
    """(transformers model, its folder in CTranslate2's format, its variables)"""
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(
        vocab_size=40, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=80, max_source_positions=1500,
        max_target_positions=20, pad_token_id=3, bos_token_id=3, eos_token_id=3, decoder_start_token_id=4)).eval()
    folder = tmp_path / "ct2"
    folder.mkdir()
    variables = variables_of(model)
    write(folder / "model.bin", variables, [("decoder/projection/weight", "decoder/embeddings/weight")])
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "c": 2}, []))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocabulary.txt").write_text("a\nb\nc\n")
    (folder / "config.json").write_text(json.dumps({"suppress_ids": [1], "suppress_ids_begin": [3],
                                                    "alignment_heads": [[1, 0]], "lang_ids": [5]}))
    return model, folder, variables


def test_every_tensor_comes_back(whisper, tmp_path, capsys):
    model, folder, _ = whisper
    convert_model.main([str(folder), str(tmp_path / "hf")])
    again = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "hf").eval()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    features = WhisperFeatureExtractor.from_pretrained(tmp_path / "hf")(np.zeros(8000, np.float32), sampling_rate=16000,
                                                                        return_tensors="pt").input_features
    ids = torch.tensor([[4, 0, 1]])
    torch.testing.assert_close(again(input_features=features, decoder_input_ids=ids).logits,
                               model(input_features=features, decoder_input_ids=ids).logits)
    assert again.generation_config.suppress_tokens == [1] and again.generation_config.begin_suppress_tokens == [3]
    assert again.generation_config.alignment_heads == [[1, 0]] and not again.generation_config.is_multilingual
    assert again.config.decoder_start_token_id == 4 and again.config.eos_token_id == 3
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").convert_tokens_to_ids("<|notimestamps|>") == 11
    again.generate(features, max_new_tokens=3)
    capsys.readouterr()
    convert_model.main([str(folder), str(tmp_path / "hf")])
    assert "is there already" in capsys.readouterr().out


def test_half_precision_is_read(whisper, tmp_path):
    model, folder, variables = whisper
    halves = {name: value.astype(np.float16) if value.dtype == np.float32 else value
              for name, value in variables.items()}
    write(folder / "model.bin", halves)
    convert(folder, tmp_path / "hf")
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf")
    assert torch.equal(again.model.encoder.conv1.weight, model.model.encoder.conv1.weight.half().float())


def test_bfloat16_and_variables_that_are_kept_once_are_read(whisper, tmp_path):
    model, folder, variables = whisper
    bits = {name: (value.view(np.uint32) >> 16).astype(np.uint16) if value.dtype == np.float32 else value
            for name, value in variables.items()}
    ones = "decoder/layer_norm/gamma"  # at the start all gains are ones
    aliases = [(name, ones) for name in bits if name.endswith("gamma") and name != ones]
    write(folder / "model.bin", {name: bits[name] for name in bits if name not in dict(aliases)}, aliases)
    convert(folder, tmp_path / "hf")
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf")
    torch.testing.assert_close(again.model.encoder.conv1.weight, model.model.encoder.conv1.weight, rtol=2**-7, atol=0)
    assert torch.equal(again.model.encoder.layers[1].final_layer_norm.weight, torch.ones(16))


def test_what_is_not_as_it_should_be_is_one_message(whisper, tmp_path):
    _, folder, variables = whisper
    path = folder / "model.bin"
    whole = path.read_bytes()

    def refused(message):
        with pytest.raises(ModelError, match=message):
            convert(folder, tmp_path / "hf")
        assert not (tmp_path / "hf").exists()

    for damaged in (whole[:-3], whole[:1000], whole[:3], b"", whole + b"x"):
        path.write_bytes(damaged)
        refused("model.bin: is damaged or cut off")
    write(path, variables, version=5)
    refused("in version 5 of the format; only WhisperSpec, revision 3, in version 6")
    write(path, variables, specification="TransformerSpec")
    refused("is of TransformerSpec")
    write(path, variables, [("a", "nowhere")])
    refused("a is another name of nowhere, which is not there")
    write(path, {**variables, "decoder/layer_0/extra/weight": np.zeros(3, np.float32)})
    refused(r"model.decoder.layers.0.extra.weight has shape \(3,\), expected no such tensor")
    write(path, {name: value for name, value in variables.items() if name != "encoder/conv2/bias"})
    refused(r"encoder.conv2.bias has shape None, expected \(16,\)")
    write(path, {**variables, "encoder/conv1/weight": variables["encoder/conv1/weight"].astype(np.int8)})
    refused("encoder/conv1/weight is quantised")
    stacked = variables["encoder/layer_0/self_attention/linear_0/bias"].copy()
    stacked[20] = 1
    write(path, {**variables, "encoder/layer_0/self_attention/linear_0/bias": stacked})
    refused("has a bias for keys")
    write(path, {**variables, "encoder/conv1/weight": variables["encoder/conv1/weight"].astype(np.float64)})
    refused("encoder/conv1/weight has numbers of an unknown type 9")
    for name, value in variables.items():  # whatever is missing or of another shape
        write(path, {other: kept for other, kept in variables.items() if other != name})
        if not name.endswith(("pre_norm", "decoder/alignment_heads")):
            refused("model.bin: |known here, or it is damaged")
        if value.ndim and not name.endswith(("encodings", "embeddings/weight")):  # whose rows are the sizes
            write(path, {**variables, name: value[:-1]})
            refused("model.bin: |known here, or it is damaged")
    write(path, variables)
    for name in ("config.json", "tokenizer.json"):
        kept = (folder / name).read_text()
        for damaged in (kept[:-2], "[]", "7"):
            (folder / name).write_text(damaged)
            refused("json|known here")
        (folder / name).write_text(kept)
    path.unlink()
    refused("model.bin: is missing")


def test_variables_are_read_by_name(whisper):
    _, folder, variables = whisper
    found = read_variables(folder / "model.bin")
    assert found.keys() == variables.keys()
    assert all(np.array_equal(found[name], value) for name, value in variables.items())


def test_where_a_model_is_named_the_command_that_converts_it_is_said(whisper):
    _, folder, _ = whisper
    with pytest.raises(ModelError, match=f"of CTranslate2; convert it once, `utils/convert_model.sh {folder} F"):
        check_model_path(str(folder), "speech encoder")


def test_what_is_neither_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        convert_model.main([str(tmp_path), str(tmp_path / "out")])
    assert "neither a GGUF file nor a folder of CTranslate2" in capsys.readouterr().err
