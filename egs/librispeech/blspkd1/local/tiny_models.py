"""Tiny models with random weights, and tokenizers that know some texts. See debug_models.py."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

PIECES = 400
WIDTH = 32
# Printable ASCII, space and line feed, as byte-level tokenizers write them: LibriSpeech and our instructions hold
# nothing else, and other bytes in a random order make no characters.
ALPHABET = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
CHAT_TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
                 "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
           "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # Whisper's, in its order


def learn_pieces(texts: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair encoding: vocabulary and merges."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=PIECES, initial_alphabet=ALPHABET,
                                                           limit_alphabet=len(ALPHABET), show_progress=False))
    return learner.get_vocab(), [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]


def make_llm(folder: Path, texts: list[str]) -> None:
    vocabulary, merges = learn_pieces(texts)
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, eos_token="<|im_end|>",
                               extra_special_tokens=["<|im_start|>"])
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=2048, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def make_whisper(folder: Path, texts: list[str]) -> None:
    vocabulary, merges = learn_pieces([" " + text for text in texts])
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    end, start, no_times = tokenizer.convert_tokens_to_ids([SPECIAL[0], SPECIAL[1], SPECIAL[-1]])
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(
        vocab_size=len(tokenizer), d_model=WIDTH, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=2 * WIDTH, decoder_ffn_dim=2 * WIDTH, max_target_positions=64,
        decoder_start_token_id=start, pad_token_id=end, bos_token_id=end, eos_token_id=end, suppress_tokens=None,
        begin_suppress_tokens=None))
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start, pad_token_id=end, bos_token_id=end, eos_token_id=end, max_length=16,
        no_timestamps_token_id=no_times, is_multilingual=False, return_timestamps=False)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)
