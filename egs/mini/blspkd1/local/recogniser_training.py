"""Train the recogniser: CTC and word labels warm up the encoder, the decoder learns to write.

Two regimes are mixed. Mostly *trimmed*: features and positions cut to the batch's real length, padding masked, as this
toolkit runs the encoder. In some steps *padded*: silence up to the chunk's end and nothing masked, as Hugging Face's
`generate` runs it. The synthesiser told when each word is spoken; that finds the alignment many times faster than CTC
alone. The heads for CTC and words are dropped at the end: what is saved is a plain Whisper.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from base_output import fingerprint, write_record
from recogniser_augment import ENCODER_STRIDE, make_batch, pad_to_chunk
from recogniser_evaluation import evaluate_recogniser
from recogniser_model import RecogniserWithHeads, build_model, build_processor, transcript_form
from speech_set import read_speech_set
from torch import Tensor
from torch.nn import functional
from training_loop import Schedule, prepare_cpu, train
from transformers import AutoTokenizer

from blspkd.atomic import atomic_path
from blspkd.data.kaldi_dir import KaldiDir

if TYPE_CHECKING:
    from train_recogniser import RecogniserOptions

LABEL_SMOOTHING = 0.05


def make_recogniser(options: "RecogniserOptions", made_from: dict) -> None:
    """Train, evaluate and save: afterwards `options.output_dir` is a complete Hugging Face folder."""
    begin = time.monotonic()
    prepare_cpu()
    folder = Path(options.output_dir)
    texts = [utterance.text for utterance in KaldiDir.read(Path(options.train_dir)).utterances.values()]
    processor = build_processor(texts, options)
    speech = read_speech_set(Path(options.train_dir), processor.feature_extractor)
    transcripts = [torch.tensor(ids) for ids in processor.tokenizer(transcript_form(texts))["input_ids"]]
    ctc_targets, num_ctc = ctc_classes(texts, options.tokenizer_dir)
    model = RecogniserWithHeads(build_model(options, processor.tokenizer), num_ctc, speech.num_words)
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    encoder = sum(parameter.numel() for parameter in model.model.get_encoder().parameters())
    print(f"recogniser: {parameters:,} parameters, {encoder:,} of them the encoder's; {len(texts):,} utterances, "
          f"{speech.lengths.sum() * options.hop_ms / 3.6e6:.1f} h, {options.recogniser_steps} steps of "
          f"{options.batch_size}", flush=True)
    max_frames = options.chunk_seconds * 1000 // options.hop_ms

    def step_loss(step: int, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        padded = float(torch.rand(1, generator=generator)) < options.padded_share
        if padded:
            rows = rows[: max(1, len(rows) // 2)]
        batch = make_batch(speech, rows, options, max_frames, generator)
        tokens = torch.nn.utils.rnn.pad_sequence([transcripts[row] for row in rows], True, padding_value=-100)
        lengths = (batch.lengths - 1) // ENCODER_STRIDE + 1
        word_weight = options.word_weight * max(0.0, 1 - 2 * step / options.recogniser_steps)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
            if padded:
                frames = model.encode_padded(pad_to_chunk(batch.features, batch.lengths, max_frames))
            else:
                frames = model.encode(batch.features, batch.lengths)
            logits = model.decode(tokens[:, :-1].clamp(min=0), frames, None if padded else lengths)
        written = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=-100,
                                           label_smoothing=LABEL_SMOOTHING)
        loss = options.decoder_weight * written
        loss = loss + options.ctc_weight * model.ctc_loss(frames, lengths, [ctc_targets[row] for row in rows])
        if word_weight > 0:
            loss = loss + word_weight * model.word_loss(frames, batch.words)
        return loss

    schedule = Schedule(options.recogniser_steps, options.learning_rate,
                        min(options.warmup_steps, options.recogniser_steps // 2), options.batch_size, options.seed,
                        options.save_steps)
    checkpoint = folder.with_name(folder.name + ".checkpoint.safetensors")
    train(model, step_loss, speech.lengths, schedule, checkpoint, fingerprint(made_from), "train recogniser")

    results = {}
    for dev_dir in options.dev_dirs.split():
        wer = evaluate_recogniser(model.model, processor, Path(dev_dir), options.eval_utterances)
        results[f"{Path(dev_dir).name} WER"] = round(wer, 2)
    print("recogniser: " + ", ".join(f"{name} {value:.2f}" for name, value in results.items()))
    with atomic_path(folder) as temporary:
        model.model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        write_record(temporary, made_from, {**results, "seconds": round(time.monotonic() - begin, 1)})
    checkpoint.unlink(missing_ok=True)
    print(f"recogniser: {folder}, made in {time.monotonic() - begin:.0f} s")


def ctc_classes(texts: list[str], tokenizer_dir: str) -> tuple[list[Tensor], int]:
    """The LLM's tokens of each text, numbered from 1 among those that occur; and how many classes, blank included."""
    ids = AutoTokenizer.from_pretrained(tokenizer_dir)(texts, add_special_tokens=False)["input_ids"]
    classes = {token: number for number, token in enumerate(sorted({t for row in ids for t in row}), start=1)}
    return [torch.tensor([classes[token] for token in row]) for row in ids], len(classes) + 1
