"""How closely speech stands in for text inside the LLM: the measure that the method itself proposes.

Every utterance is read twice by the same LLM, as text (the teacher) and as speech, and compared position by position:
KL(text || speech) of the next-token distributions, at temperature 1 and in float32, and whether both put the same token
first. Comparing input positions needs as many speech tokens as text tokens, so it is done with the *true* number of
tokens. The response is compared with the *predicted* number, which is what the model has to live with in use, and with
the true one too. An adapter with a rate of its own (BLSP's convolutions) has only a response to compare.

`exp/<tag>/align_<set>/utterances.jsonl` has one row per utterance (see `_row`); `alignment_summary` makes numbers of
them.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import torch
from torch import Tensor

from blspkd.config import DataConfig
from blspkd.data.batching import Batch, collate, lay_out
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.errors import AudioError
from blspkd.evaluation.boundaries import errors_ms, word_boundaries
from blspkd.evaluation.eval_set import draw
from blspkd.evaluation.retrieval import means, pack, retrieve
from blspkd.evaluation.scorers.texts import normalize
from blspkd.evaluation_config import DecodeConfig
from blspkd.files import contents_digests
from blspkd.kaldi.data_dir import KaldiDir, read_continuations, read_table
from blspkd.kaldi.parts import Fingerprint, Job, PartsDir, Plan, plan_batches, plan_parts, run_parts
from blspkd.kaldi.word_times import Word, read_word_times
from blspkd.losses.distillation import Divergence, distillation_loss
from blspkd.models.listener import Listener
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.speech_tokens import SpeechTokens

log = logging.getLogger(__name__)
DATA_FILES = ("wav.scp", "segments", "reco2channel", "utt2dur", "utt2spk", "text", "continuation", "word_times")
PLAIN_KL = Divergence("forward_kl", temperature=1.0)
ROWS = 2  # version of a row's keys: what an earlier one measured is measured again
DIGITS = 5  # decimals kept of what is measured


@dataclass
class Positions:
    """Teacher against student at some positions of one utterance."""

    kl: list[float]  # nats
    top1: list[bool]  # both put the same token first


@dataclass
class Measured:
    """One utterance; what an adapter of its own rate does not have is None. Times are in encoder frames."""

    n_speech_tokens: int  # as the model decides
    response: Positions  # with that number; positions that predict the response's tokens
    speech_mean: np.ndarray  # [D] of the speech tokens, with that number
    text_mean: np.ndarray  # [D] of the transcript's embeddings
    input: Positions | None = None  # with the true number, like the two below
    response_true: Positions | None = None
    nearest: list[int] | None = None  # of every speech token, with the model's own number, the nearest text token
    nearest_true: list[bool] | None = None  # with the true number: whether that is the transcript's
    fire_times_true: list[float] | None = None
    fire_times: list[float] | None = None
    alpha: list[float] | None = None  # not scaled
    stacked: int = 1  # encoder frames in one of alpha's


class AlignDir(PartsDir):
    """`exp/<tag>/align_<set>`."""

    rows_name, marker_name, verb = "utterances.jsonl", "align.json", "measuring"

    def __init__(self, exp_dir: str | Path, set_name: str, fingerprint: Fingerprint):
        super().__init__(Path(exp_dir) / f"align_{set_name}", fingerprint)

    def joined(self, rows: list[dict]) -> list[dict]:
        return retrieve(rows)


def align_set(load_listener: Callable[[], Listener], model_fingerprint: Fingerprint, data_dir: str | Path,
              exp_dir: str | Path, config: DecodeConfig, train_dir: str | Path | None = None) -> list[dict]:
    """Measure every utterance of `data_dir`, or a sample of config.max_utterances; returns and writes the rows.

    load_listener: called only if something is left to measure. train_dir: the training set, for the rarity of tokens.
    Raises DataError for data that cannot be used; a set without `continuation` or `word_times` is measured without.
    """
    data_dir = Path(data_dir)
    train = {} if train_dir is None else contents_digests([Path(train_dir) / "text"])
    options = {"max_utterances": config.max_utterances, "seed": config.seed, "batch_size": config.batch_size,
               "batch_seconds": config.batch_seconds, "part_size": config.part_size}
    folder = AlignDir(exp_dir, data_dir.resolve().name, {
        **model_fingerprint, "data": contents_digests(data_dir / name for name in DATA_FILES), "training text": train,
        "data_dir": str(data_dir), "options": options, "rows": ROWS})
    if folder.is_finished():
        log.info("%s: everything is measured already", folder.path)
    else:
        aligner = _Aligner(load_listener(), data_dir, config, train_dir)
        run_parts(f"align {data_dir.name}", [Job(aligner.plan(), {folder: aligner.rows}, aligner.load)])
    return folder.rows()


class _Aligner:
    """A loaded model and one set."""

    def __init__(self, listener: Listener, data_dir: Path, config: DecodeConfig, train_dir: str | Path | None):
        self.listener, self.config = listener, config
        self.token_counts = _token_counts(listener, train_dir)
        self.data = KaldiDir(data_dir, draw(KaldiDir.read(data_dir).utterances, config))
        written = data_dir / "continuation"
        self.continuations = read_continuations(written) if written.exists() else {}
        if not self.continuations:
            log.info("%s: no continuation there, so the response is left out, but for its first token", data_dir)
        # Without a continuation a response is only closed; the KL of its first token does not depend on its text.
        texts = {utt_id: self.continuations.get(utt_id, "") for utt_id in self.data.utterances}
        limits = DataConfig(max_duration=float("inf"), min_duration=0.0, max_tokens=1 << 30)
        self.examples = {example.utt_id: example for example in
                         make_examples(self.data, texts, listener.prompt, limits).examples}
        times = data_dir / "word_times"
        self.words = read_word_times(times) if times.exists() else {}
        if not self.words:
            log.info("%s: no word_times there, so boundaries are left out", data_dir)

    def plan(self) -> Plan:
        durations = {utt_id: example.duration for utt_id, example in self.examples.items()}
        batches = plan_batches(durations, self.config.batch_size, self.config.batch_seconds)
        return plan_parts(batches, self.config.part_size)

    def load(self, utt_ids: list[str]) -> Batch:
        """Raises AudioError, naming the utterance."""
        examples = [self.examples[utt_id] for utt_id in utt_ids]
        dataset = ExampleDataset(examples, self.listener.extractor, DataConfig(), 0, augment=False)
        batch = collate([dataset[0, index] for index in range(len(examples))])
        if batch.errors:
            raise AudioError(f"{self.data.path}: {batch.errors[0]}")
        return batch

    def rows(self, utt_ids: list[str], batch: Batch) -> list[dict]:
        measured = measure_batch(self.listener.model, batch.to(self.listener.model.device))
        return list(map(self._row, utt_ids, measured))

    def _row(self, utt_id: str, measured: Measured) -> dict:
        """A row of utterances.jsonl; times in seconds, KL in nats."""
        utterance, prompt = self.data[utt_id], self.listener.prompt
        spans = prompt.spans(utterance.text)
        has_response = utt_id in self.continuations
        row = {"utt_id": utt_id, "speaker": utterance.speaker, "transcript": utterance.text,
               "duration": utterance.duration, "tokens": [utterance.text[left:right] for left, right in spans],
               "n_tokens": len(spans), "n_speech_tokens": measured.n_speech_tokens,
               "first_kl": _rounded(measured.response.kl[:1])[0],
               "response_kl": _rounded(measured.response.kl) if has_response else [],
               "response_top1": measured.response.top1 if has_response else [],
               **pack(measured.speech_mean, measured.text_mean, self.examples[utt_id].input)}
        if self.token_counts is not None:
            row["token_counts"] = [self.token_counts[int(token)] for token in self.examples[utt_id].input]
        if measured.input is not None:
            row |= {"n_predicted": measured.n_speech_tokens,
                    "input_kl": _rounded(measured.input.kl), "input_top1": measured.input.top1,
                    **_reading(utterance.text, self.listener.tokenizer.decode(measured.nearest)),
                    "nearest_top1": measured.nearest_true,
                    "first_kl_true": _rounded(measured.response_true.kl[:1])[0],
                    "response_kl_true": _rounded(measured.response_true.kl) if has_response else [],
                    "response_top1_true": measured.response_true.top1 if has_response else [],
                    "frame_times": _rounded(self._seconds(place * measured.stacked, utterance.duration)
                                            for place in range(len(measured.alpha) + 1)),
                    "alpha": _rounded(measured.alpha),
                    "fire_times": _rounded(self._seconds(place, utterance.duration) for place in measured.fire_times),
                    "fire_times_true": _rounded(self._seconds(place, utterance.duration)
                                                for place in measured.fire_times_true)}
        words = self.words.get(utt_id)
        if words:
            row["words"] = [[word.start, word.end, word.text] for word in words]
            if measured.input is not None:
                row |= _boundaries(utterance.text, spans, words, row["fire_times_true"])
        return row

    def _seconds(self, place: float, duration: float) -> float:
        """Seconds of a place in encoder frames, within the utterance."""
        encoder, rate = self.listener.model.encoder, self.listener.extractor.frames_per_second
        return min(max(encoder.seconds(place, rate), 0.0), duration)


def _reading(transcript: str, text: str) -> dict:
    """The speech tokens as their nearest text tokens spell them, and what is wrong with it."""
    words = normalize(transcript).split()
    output = jiwer.process_words(" ".join(words), normalize(text)) if words else None
    errors = output.substitutions + output.deletions + output.insertions if output else 0
    return {"nearest": text.strip(), "nearest_errors": errors, "nearest_words": len(words)}


@torch.no_grad()
def measure_batch(model: SpeechLlm, batch: Batch) -> list[Measured]:
    """Compare speech with text for every utterance of a batch that lies on the model's device."""
    frames, lengths = model.encoder(batch.features, batch.feature_lengths, batch.windows)
    teacher = model.teacher_states(batch.sequences)
    asked = batch.sequences.response_positions(shifted=True)

    own = model.adapt(frames, lengths)
    sequences = lay_out(batch.examples, own.n_tokens.tolist())
    sequences.ids = sequences.ids.to(batch.sequences.ids.device)
    student = model.student_states(sequences, own)
    responses = compare(model, student, sequences.response_positions(shifted=True), teacher, asked)
    said = batch.sequences.ids[batch.sequences.input_mask.to(batch.sequences.ids.device)]
    speech_means = means(own.rows(), own.n_tokens.tolist())
    text_means = means(model.embedding_table[said], batch.n_tokens.tolist())
    measured = list(map(Measured, own.n_tokens.tolist(), responses, speech_means, text_means))
    if not model.adapter.aligned:
        return measured

    true = model.adapt(frames, lengths, batch.n_tokens)
    student = model.student_states(batch.sequences, true)
    inputs = compare(model, student, batch.sequences.input_mask, teacher, batch.sequences.input_mask)
    responses = compare(model, student, asked, teacher, asked)
    read = model.nearest(own.rows())[0].split(own.n_tokens.tolist())
    is_right = (model.nearest(true.rows())[0] == said).split(batch.n_tokens.tolist())
    for row, item in enumerate(measured):
        item.input, item.response_true = inputs[row], responses[row]
        item.nearest, item.nearest_true = read[row].tolist(), is_right[row].tolist()
        item.fire_times, item.fire_times_true = _times(own, row), _times(true, row)
        item.alpha, item.stacked = own.alpha[row, :int(own.frame_lengths[row])].tolist(), own.stacked
    return measured


def compare(model: SpeechLlm, student: Tensor, student_mask: Tensor, teacher: Tensor,
            teacher_mask: Tensor) -> list[Positions]:
    """Hidden states [B, L, D] of both at the positions that their masks [B, L] (on the CPU) select, equally many."""
    rows = [mask.reshape(-1).nonzero().squeeze(1).to(student.device) for mask in (student_mask, teacher_mask)]
    head, bias = model.head
    distilled = distillation_loss(student.flatten(0, 1)[rows[0]], teacher.flatten(0, 1)[rows[1]], head,
                                  torch.zeros(len(rows[0]), device=student.device), PLAIN_KL, head_bias=bias)
    sizes = student_mask.sum(1).tolist()
    return [Positions(kl.tolist(), top1.tolist()) for kl, top1 in
            zip(distilled.divergence.split(sizes), distilled.agreement.split(sizes), strict=True)]


def _times(speech: SpeechTokens, row: int) -> list[float]:
    return speech.fire_times[row, :int(speech.n_tokens[row])].tolist()


def _boundaries(transcript: str, spans: list[tuple[int, int]], words: list[Word], fire_times: list[float]) -> dict:
    """Tokens that end a word, when, and by how much they are late; the last token apart (`boundaries` says why)."""
    found = word_boundaries(transcript, spans, words)
    if found is None:
        return {"boundaries": None}
    return {"boundaries": [[boundary.token, boundary.end] for boundary in found],
            "boundary_errors_ms": [round(error, 2) for error in errors_ms(found, fire_times)],
            "last_error_ms": round(1000 * (fire_times[-1] - words[-1].end), 2)}


def _token_counts(listener: Listener, train_dir: str | Path | None) -> Counter | None:
    """How often each token occurs in the training transcripts."""
    if train_dir is None:
        return None
    counts: Counter = Counter()
    for transcript in read_table(Path(train_dir) / "text").values():
        counts.update(listener.prompt.split(transcript).input)
    return counts


def _rounded(values) -> list[float]:
    return [round(float(value), DIGITS) + 0.0 for value in values]  # + 0.0: no -0.0
