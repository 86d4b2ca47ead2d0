"""Train the recogniser: CTC and word labels warm up the encoder, the decoder learns to write.

Two regimes are mixed. Mostly *trimmed*: features and positions cut to the batch's real length, padding masked, as this
toolkit runs the encoder. In some steps *padded*: silence up to the chunk's end and nothing masked, as Hugging Face's
`generate` runs it. Of synthetic speech it is known when each word is spoken: in the first half of the training the
frames learn to name the word, and half of the decoder's heads to look at it, which finds the alignments many times
faster than CTC and cross-entropy alone; as that guidance fades, the speech is varied more and more. A share of it can
stay to the end (`attention_floor`), for recordings of people too: when their words are spoken is then what CTC says.
The heads for CTC and words are dropped at the end: what is saved is a plain Whisper.
"""

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from base_output import fingerprint, write_record
from ctc_alignment import word_frames, word_tokens
from recogniser_augment import ENCODER_STRIDE, make_batch, pad_to_chunk
from recogniser_evaluation import evaluate_recogniser
from recogniser_model import (
    RecogniserWithHeads,
    attention_loss,
    build_model,
    build_processor,
    ctc_loss,
    load_with_ctc_head,
    save_ctc_head,
    transcript_form,
)
from recogniser_options import RecogniserOptions
from speech_set import SpeechSet, read_speech_set, word_spans
from torch import Tensor
from torch.nn import functional
from training_loop import Schedule, prepare_cpu, train
from transformers import AutoTokenizer, PreTrainedTokenizerBase, WhisperProcessor, WhisperTokenizer

from blspkd.data.pretrained import load_pretrained
from blspkd.errors import ConfigError
from blspkd.files import atomic_path
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.models.ctc_alignment import align

LABEL_SMOOTHING = 0.05
EARLIER, LATER = 4, 1  # encoder frames before and behind those that CTC gives to a word, where it may be spoken too


def make_recogniser(options: RecogniserOptions, made_from: dict, early: dict[int, Path]) -> None:
    """Train, evaluate and save: afterwards `options.output_dir` is a complete Hugging Face folder.

    So is each folder of `early`, by the percent of the steps after which the model is kept.
    """
    begin = time.monotonic()
    prepare_cpu(options.threads)
    folder = Path(options.output_dir)
    train_dirs = [Path(train_dir) for train_dir in options.train_dirs.split()]
    sizes = [len(KaldiDir.read(train_dir).utterances) for train_dir in train_dirs]
    epoch = rows_of_an_epoch(sizes, options.repeats)
    texts = [utterance.text for train_dir in train_dirs for utterance in KaldiDir.read(train_dir).utterances.values()]
    old = options.init_dir
    processor = load_pretrained(WhisperProcessor, old) if old else build_processor(texts, options)
    speech = read_speech_set(train_dirs, processor.feature_extractor)
    llm_tokenizer = load_pretrained(AutoTokenizer, options.tokenizer_dir)
    if old:
        model, ctc_tokens = load_with_ctc_head(Path(old), options.dropout)
        targets = Targets.of(speech, processor.tokenizer, llm_tokenizer, ctc_tokens)
    else:
        targets = Targets.of(speech, processor.tokenizer, llm_tokenizer)
        model = RecogniserWithHeads(build_model(options, processor.tokenizer), 1 + len(targets.ctc_tokens),
                                    speech.num_words)
    model.model.generation_config.num_beams = options.num_beams
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    encoder = sum(parameter.numel() for parameter in model.model.get_encoder().parameters())
    print(f"recogniser: {parameters:,} parameters, {encoder:,} of them the encoder's; {len(texts):,} utterances, "
          f"{speech.lengths.sum() * options.hop_ms / 3.6e6:.1f} h, {options.recogniser_steps} steps of "
          f"{options.batch_size}", flush=True)

    def step_loss(step: int, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        return recogniser_loss(model, speech, targets, options, step, epoch[rows], generator)

    schedule = Schedule(options.recogniser_steps, options.learning_rate,
                        min(options.warmup_steps, options.recogniser_steps // 2), options.batch_size, options.seed,
                        options.save_steps, options.optimizer)

    def evaluate_and_save(into: Path) -> None:
        model.eval()
        results = {}
        for dev_dir in options.dev_dirs.split():
            results.update(evaluate_recogniser(model, processor, targets.ctc_tokens, llm_tokenizer, Path(dev_dir),
                                               options.eval_utterances))
        print(f"recogniser: {into.name}: " + ", ".join(f"{name} {value:.2f}" for name, value in results.items()))
        model.model.config.dropout = 0.0  # it is for this training only
        with atomic_path(into) as temporary:
            model.model.save_pretrained(temporary)
            processor.save_pretrained(temporary)
            save_ctc_head(model, targets.ctc_tokens, temporary)
            write_record(temporary, made_from, {**results, "seconds": round(time.monotonic() - begin, 1)})

    after = {max(1, options.recogniser_steps * percent // 100): partial(evaluate_and_save, into)
             for percent, into in early.items()}
    checkpoint = folder.with_name(folder.name + ".checkpoint.safetensors")
    train(model, step_loss, speech.lengths[epoch], schedule, checkpoint, fingerprint(made_from), "train recogniser",
          after)
    evaluate_and_save(folder)
    checkpoint.unlink(missing_ok=True)
    print(f"recogniser: {folder}, made in {time.monotonic() - begin:.0f} s")


@dataclass(frozen=True)
class Targets:
    """What is to be said of each utterance."""

    transcripts: list[Tensor]  # [U] each: ids of the recogniser's own tokenizer, start and end tokens included
    spans: list[Tensor]  # [U, 2] each: when the word of the token behind each token is spoken
    words: list[np.ndarray]  # [U] each: number of the word of the token behind each token, -1 where there is none
    ctc: list[Tensor]  # the LLM's tokens, numbered from 1
    ctc_words: list[np.ndarray]  # number of the word of each of these tokens
    ctc_tokens: list[int]  # the LLM's token of each of these numbers

    @classmethod
    def of(cls, speech: SpeechSet, tokenizer: WhisperTokenizer, llm_tokenizer: PreTrainedTokenizerBase,
           ctc_tokens: list[int] | None = None) -> "Targets":
        """ctc_tokens: the numbering of a recogniser that exists. Raises ConfigError where it lacks one."""
        transcripts = transcript_tokens(speech.texts, tokenizer)
        ctc, ctc_words, ctc_tokens = number_tokens(speech.texts, llm_tokenizer, ctc_tokens)
        words = next_words(transcripts, tokenizer)
        return cls(transcripts, token_spans(speech, words), words, ctc, ctc_words, ctc_tokens)


def recogniser_loss(model: RecogniserWithHeads, speech: SpeechSet, targets: Targets, options: RecogniserOptions,
                    step: int, rows: np.ndarray, generator: torch.Generator) -> Tensor:
    """The weighted sum of the losses of step `step` on the utterances `rows` [B]."""
    # 1 at the start, 0 from half the steps on: the weight of the word times' guidance, and of plain speech.
    guidance = 0.0 if options.init_dir else max(0.0, 1 - 2 * step / options.recogniser_steps)
    max_frames = options.chunk_seconds * 1000 // options.hop_ms
    padded = float(torch.rand(1, generator=generator)) < options.padded_share
    if padded:
        rows = rows[: max(1, len(rows) // 2)]
    batch = make_batch(speech, rows, options, max_frames, 1 - guidance, generator)
    lengths = (batch.lengths - 1) // ENCODER_STRIDE + 1
    tokens = pad_rows([targets.transcripts[row] for row in rows], -100)  # [B, U]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
        if padded:
            frames = model.encode_padded(pad_to_chunk(batch.features, batch.lengths, max_frames))
        else:
            frames = model.encode(batch.features, batch.lengths)
        past = disturb(tokens[:, :-1].clamp(min=0), options.token_noise, generator)
        logits, attentions = model.decode(past, frames, None if padded else lengths)

    written = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=-100,
                                       label_smoothing=LABEL_SMOOTHING)
    log_probs = model.ctc_log_probs(frames)
    spelt = ctc_loss(log_probs, lengths, [targets.ctc[row] for row in rows])
    # CTC counts less while the frames learn their words: at the start it only pulls towards "blank everywhere".
    loss = options.decoder_weight * written + (1 - 0.7 * guidance) * options.ctc_weight * spelt
    if guidance > 0:
        loss = loss + guidance * options.word_weight * model.word_loss(frames, batch.words)
    guided = max(guidance, options.attention_floor)
    if guided > 0:
        seconds = pad_rows([targets.spans[row] for row in rows], math.nan)  # [B, U, 2]
        places = seconds * batch.frames_per_second[:, None, None]
        if guided > guidance:  # by now CTC has learnt when a word is spoken
            places = torch.where(places.isnan(), heard_places(log_probs, lengths, targets, rows, places), places)
        loss = loss + guided * options.attention_weight * attention_loss(attentions, places[:, :-1])
    return loss


def heard_places(log_probs: Tensor, lengths: Tensor, targets: Targets, rows: np.ndarray, like: Tensor) -> Tensor:
    """Where CTC hears the word of the token behind each token: encoder frames [B, U, 2], NaN where there is no word."""
    spans = align(log_probs.detach().numpy(), lengths.numpy(), [targets.ctc[row].numpy() for row in rows])
    places = torch.full_like(like, math.nan)
    for place, row in enumerate(rows):
        spoken = targets.ctc_words[row]
        heard = word_frames(spans[place, : len(spoken)], spoken) + np.array([-EARLIER, LATER])
        words = targets.words[row]
        found = torch.from_numpy(heard[words.clip(0)]).to(like)
        found[words < 0] = math.nan
        places[place, : len(words)] = found
    return places


def disturb(tokens: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """tokens [B, U] with a share of them, but never the first, replaced by tokens from elsewhere in the batch."""
    replaced = torch.rand(tokens.shape, generator=generator) < share
    replaced[:, 0] = False
    other = tokens.flatten()[torch.randint(tokens.numel(), tokens.shape, generator=generator)]
    return torch.where(replaced, other, tokens)


def rows_of_an_epoch(sizes: list[int], repeats: str) -> np.ndarray:
    """Row numbers of the sets' utterances, end to end, each as often as `repeats` says of its set.

    Raises ConfigError.
    """
    words = repeats.split() or ["1"] * len(sizes)
    if len(words) != len(sizes) or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ConfigError(f"repeats: '{repeats}' are not {len(sizes)} whole numbers, one for each of train_dirs")
    return np.repeat(np.arange(sum(sizes)), np.repeat([int(word) for word in words], sizes))


def pad_rows(rows: list[Tensor], value: float) -> Tensor:
    """[U_i, ...] each -> [B, U, ...], U a multiple of 4 (every new shape costs the CPU back end time and memory)."""
    length = -(-max(len(row) for row in rows) // 4) * 4
    padded = rows[0].new_full((len(rows), length, *rows[0].shape[1:]), value)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded


def number_tokens(texts: list[str], tokenizer: PreTrainedTokenizerBase,
                  known: list[int] | None = None) -> tuple[list[Tensor], list[np.ndarray], list[int]]:
    """The LLM's tokens of each text, numbered from 1; the words that they are part of; and the token of each number.

    Numbered are those that occur, or as in `known`. Raises ConfigError for one that is not in `known`.
    """
    rows, words = word_tokens(texts, tokenizer)
    occurring = sorted({token for row in rows for token in row})
    tokens = occurring if known is None else known
    strange = set(occurring) - set(tokens)
    if strange:
        raise ConfigError(f"init_dir: that recogniser was never taught '{tokenizer.decode(sorted(strange)[:1])}'")
    numbers = {token: number for number, token in enumerate(tokens, start=1)}
    return [torch.tensor([numbers[token] for token in row]) for row in rows], words, tokens


def transcript_tokens(texts: list[str], tokenizer: WhisperTokenizer) -> list[Tensor]:
    """[U] of each text: ids with the start and end tokens; what a text itself spells is text."""
    encoded = tokenizer(transcript_form(texts), split_special_tokens=True)
    return [torch.tensor(ids) for ids in encoded["input_ids"]]


def next_words(transcripts: list[Tensor], tokenizer: WhisperTokenizer) -> list[np.ndarray]:
    """[U] of each utterance: number of the word of the token after each token, -1 for a special one and the end."""
    special = set(tokenizer.all_special_ids)
    starts_word = [token.startswith("Ġ") for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    found = []
    for ids in transcripts:
        number = np.cumsum([starts_word[token] for token in ids.tolist()]) - 1
        number[[token in special for token in ids.tolist()]] = -1
        found.append(np.append(number[1:], -1))
    return found


def token_spans(speech: SpeechSet, words: list[np.ndarray]) -> list[Tensor]:
    """[U, 2] for each utterance: when (start, end in seconds) the word of the token after each token is spoken.

    The end token's "word" is the silence behind the last one. NaN where unknown.
    """
    found = []
    for text, segments, numbers in zip(speech.texts, speech.segments, words, strict=True):
        spans = word_spans(text, segments)
        if spans:
            rows = [spans[number] if number >= 0 else (math.nan, math.nan) for number in numbers]
            rows[-2] = (spans[-1][1], spans[-1][1] + 0.1)  # what follows the last but one token is the end
        else:
            rows = [(math.nan, math.nan)] * len(numbers)
        found.append(torch.tensor(rows))
    return found
