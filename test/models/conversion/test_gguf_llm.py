"""LLMs in GGUF files: a tiny Llama, written there by the package gguf, comes back as a Hugging Face folder."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from blspkd.bin import convert_model
from blspkd.data.prompts import check_model_path
from blspkd.errors import ModelError

gguf = pytest.importorskip("gguf")
TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"


def write(path, model, architecture="llama", without="", extra=""):
    """The model with llama.cpp's names; rows of q and k in its order, where both halves of a head alternate."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = ["<s>", "</s>", *map(chr, range(97, 97 + config.vocab_size - 3)), "ab"]
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
             "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, value in model.state_dict().items():
        place = name.removesuffix(".weight").replace("model.layers.", "blk.")
        for ours, theirs in names.items():
            place = place.replace(ours, theirs)
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(place.split(".")[-1])
        if heads:
            value = value.view(heads, 2, -1, value.shape[1]).transpose(1, 2).reshape(value.shape)
        if place != without:
            writer.add_tensor(f"{place}.weight", value.numpy())
    if extra:
        writer.add_tensor(extra, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                                        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                                        tie_word_embeddings=False)).eval()


def test_weights_tokenizer_and_template_come_back(llama, tmp_path):
    write(tmp_path / "tiny.gguf", llama)
    convert_model.main([str(tmp_path / "tiny.gguf"), str(tmp_path / "hf")])
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    for name, value in llama.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    ids = torch.arange(2, 12)[None]
    torch.testing.assert_close(again(input_ids=ids).logits, llama(input_ids=ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.chat_template == TEMPLATE and tokenizer.convert_tokens_to_ids(["</s>", "c"]) == [1, 4]
    check_model_path(str(tmp_path / "hf"), "LLM")


def test_what_cannot_be_read_is_one_message(llama, tmp_path, capsys):
    write(tmp_path / "other.gguf", llama, architecture="rwkv6")
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + bytes(20))
    for name in ("other.gguf", "damaged.gguf"):
        with pytest.raises(SystemExit):
            convert_model.main([str(tmp_path / name), str(tmp_path / "out")])
        error = capsys.readouterr().err
        assert f"{name}: transformers cannot read this GGUF file" in error and "Traceback" not in error
        assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="a GGUF file; convert it once, `utils/convert_model.sh"):
        check_model_path(str(tmp_path / "other.gguf"), "LLM")


def test_a_file_of_which_not_all_is_read_is_refused(llama, tmp_path, capsys):
    for number, change in enumerate(({"without": "blk.1.attn_q"}, {"extra": "blk.1.attn_other.weight"})):
        write(tmp_path / f"{number}.gguf", llama, **change)
        with pytest.raises(SystemExit):
            convert_model.main([str(tmp_path / f"{number}.gguf"), str(tmp_path / "out")])
        error = capsys.readouterr().err
        assert f"{number}.gguf: " in error and "Traceback" not in error, error
        assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_stays(llama, tmp_path, capsys):
    write(tmp_path / "tiny.gguf", llama)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years")
    with pytest.raises(SystemExit):
        convert_model.main([str(tmp_path / "tiny.gguf"), str(tmp_path / "thesis")])
    assert "thesis: is there, and is no model; name a new folder" in capsys.readouterr().err
    assert (tmp_path / "thesis/chapter.tex").read_text() == "years"
