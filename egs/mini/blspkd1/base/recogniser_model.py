"""The recogniser: a small WhisperForConditionalGeneration, its processor, and the heads of the warm-up."""

import json
from pathlib import Path

import torch
from recogniser_options import RecogniserOptions
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from blspkd.data.pretrained import load_pretrained
from blspkd.models.speech_encoder import SpeechEncoder, attention_mask

END = "<|endoftext|>"
START = "<|startoftranscript|>"
NO_TIMES = "<|notimestamps|>"
SPECIAL = [END, START, "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>",
           NO_TIMES]  # Whisper's, in its order
CTC_HEAD = "ctc_head.safetensors"  # beside the model, for align_words.py; nobody else needs it
MAX_TARGET = 64  # longest transcript in tokens
SAMPLING_RATE = 16000


def build_processor(texts: list[str], options: RecogniserOptions) -> WhisperProcessor:
    """Whisper's feature extractor at our frame rate, and a byte-level BPE tokenizer learnt from `texts`."""
    extractor = WhisperFeatureExtractor(
        feature_size=options.mel_bins, sampling_rate=SAMPLING_RATE, chunk_length=options.chunk_seconds,
        hop_length=SAMPLING_RATE * options.hop_ms // 1000)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + options.text_pieces, initial_alphabet=alphabet,
                                  show_progress=False)
    learner.train_from_iterator(transcript_form(texts), trainer)
    tokenizer = WhisperTokenizer(vocab=learner.get_vocab(), merges=learned_merges(learner))
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return WhisperProcessor(extractor, tokenizer)


def transcript_form(texts: list[str]) -> list[str]:
    """As Whisper writes transcripts: with a space in front, so that the first word is a word like the others."""
    return [" " + text for text in texts]


def learned_merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def build_model(options: RecogniserOptions, tokenizer: WhisperTokenizer) -> WhisperForConditionalGeneration:
    """A freshly initialised model that `generate` can drive without further arguments."""
    torch.manual_seed(options.seed)
    end, start, no_times = tokenizer.convert_tokens_to_ids([END, START, NO_TIMES])
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=options.mel_bins, d_model=options.width,
        encoder_layers=options.num_encoder_layers, decoder_layers=options.num_decoder_layers,
        encoder_attention_heads=options.num_heads, decoder_attention_heads=options.num_heads,
        encoder_ffn_dim=options.ffn_size, decoder_ffn_dim=options.ffn_size,
        max_source_positions=options.chunk_seconds * 1000 // options.hop_ms // 2, max_target_positions=MAX_TARGET,
        decoder_start_token_id=start, pad_token_id=end, bos_token_id=end, eos_token_id=end, suppress_tokens=None,
        begin_suppress_tokens=None, dropout=options.dropout,
        attn_implementation="eager")  # eager: faster than SDPA at this size on CPU
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        # Log-mel features spread by 0.3, Whisper's positions by 0.7: with the usual start the speech is drowned.
        model.get_encoder().conv1.weight.mul_(3)
        model.get_encoder().conv2.weight.mul_(4)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start, pad_token_id=end, bos_token_id=end, eos_token_id=end, max_length=MAX_TARGET,
        no_timestamps_token_id=no_times, is_multilingual=False, return_timestamps=False)
    return model


class RecogniserWithHeads(nn.Module):
    """The model and what only training needs: CTC over the LLM's tokens, and words frame by frame."""

    def __init__(self, model: WhisperForConditionalGeneration, num_ctc: int, num_words: int):
        super().__init__()
        self.model = model
        self.ctc_head = nn.Linear(model.config.d_model, num_ctc)
        self.word_head = nn.Linear(model.config.d_model, num_words)

    def encode(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Trimmed regime, exactly as the toolkit runs it: features [B, F, M], lengths [B] -> frames [B, T, C].

        The toolkit cuts T to the longest utterance; here it is filled up again to what F gives (F is a round number).
        """
        encoder = SpeechEncoder(self.model.get_encoder(), pad_to_30s=False)
        frames, _ = encoder(features, lengths, [1] * len(features))
        return functional.pad(frames, (0, 0, 0, -(-features.shape[1] // 2) - frames.shape[1]))

    def encode_padded(self, features: Tensor) -> Tensor:
        """Whisper's own regime: features [B, F, M] with F a whole chunk -> frames [B, T, C]."""
        return self.model.get_encoder()(features.transpose(1, 2)).last_hidden_state

    def decode(self, tokens: Tensor, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Teacher-forced: tokens [B, U], frames [B, T, C] real up to `lengths` [B] (None: all).

        Returns logits [B, U, V] and each layer's attention to the frames [B, H, U, T]. Whisper's decoder knows no mask
        on the frames, so its layers are called here one by one.
        """
        decoder = self.model.get_decoder()
        size = tokens.shape[1]
        hidden = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[:size]
        causal = torch.full((size, size), torch.finfo(hidden.dtype).min).triu(1)[None, None]
        cross = None if lengths is None else attention_mask(lengths, frames)[:, :, :1]
        attentions: list[Tensor] = []
        for layer in decoder.layers:
            # The layer computes the attention weights and drops them.
            hook = layer.encoder_attn.register_forward_hook(lambda _module, _in, out: attentions.append(out[1]))
            hidden = layer(hidden, attention_mask=causal, encoder_hidden_states=frames, encoder_attention_mask=cross,
                           use_cache=False)
            hook.remove()
        return self.model.proj_out(decoder.layer_norm(hidden)), attentions

    def word_loss(self, frames: Tensor, words: Tensor) -> Tensor:
        """frames [B, T, C], words [B, T]: mean cross-entropy over the labelled frames, 0 without any."""
        logits = self.word_head(frames[:, : words.shape[1]]).float()
        total = functional.cross_entropy(logits.flatten(0, 1), words.flatten(), ignore_index=-100, reduction="sum")
        return total / (words != -100).sum().clamp(min=1)

    def ctc_log_probs(self, frames: Tensor) -> Tensor:
        """frames [B, T, C] -> [B, T, classes]; class 0 is CTC's blank."""
        return self.ctc_head(frames).float().log_softmax(dim=-1)


def save_ctc_head(model: RecogniserWithHeads, tokens: list[int], folder: Path) -> None:
    """tokens: the LLM's token that each class from 1 on stands for."""
    head = {name: value.detach() for name, value in model.ctc_head.state_dict().items()}
    save_file(head, folder / CTC_HEAD, metadata={"tokens": json.dumps(tokens)})


def load_with_ctc_head(folder: Path, dropout: float = 0.0) -> tuple[RecogniserWithHeads, list[int]]:
    """A recogniser as `train_recogniser.py` leaves it, its head for words untaught; and what `save_ctc_head` got."""
    model = load_pretrained(WhisperForConditionalGeneration, folder, attn_implementation="eager", dropout=dropout)
    with safe_open(folder / CTC_HEAD, framework="pt") as file:
        tokens = json.loads(file.metadata()["tokens"])
        model = RecogniserWithHeads(model, 1 + len(tokens), 1)
        model.ctc_head.load_state_dict({name: file.get_tensor(name) for name in ("weight", "bias")})
    return model.eval(), tokens


def ctc_loss(log_probs: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
    """log_probs [B, T, classes] real up to lengths [B]; targets: class numbers from 1."""
    sizes = torch.tensor([len(target) for target in targets])
    return functional.ctc_loss(log_probs.transpose(0, 1), torch.cat(targets), lengths, sizes, zero_infinity=True)


def attention_loss(attentions: list[Tensor], spans: Tensor) -> Tensor:
    """How far half of the heads look away from the word that is to be written.

    attentions: [B, H, U, T] of each layer; spans: [B, U, 2], first and last encoder frame of the word that each token
    is part of, NaN where there is none. Mean of -log(attention within the span), 0 without any span.
    """
    position = torch.arange(attentions[0].shape[-1])
    inside = (position >= spans[..., :1] - 1) & (position <= spans[..., 1:] + 1)  # [B, U, T], false for NaN
    counted = inside.any(dim=-1)
    losses = [-torch.log((attention[:, : attention.shape[1] // 2].float() * inside[:, None]).sum(-1) + 1e-4)
              for attention in attentions]  # [B, H / 2, U]
    return sum((loss.mean(1) * counted).sum() for loss in losses) / (len(losses) * counted.sum().clamp(min=1))
