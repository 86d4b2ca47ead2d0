"""How closely speech stands in for text inside the LLM, measured on a data directory.

`exp/<tag>/align_<set>/utterances.jsonl` has one row per utterance (see `_row`), of what `text_vs_speech` measures;
`alignment_summary` makes numbers of them.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import jiwer

from blspkd.config import DataConfig
from blspkd.data.batching import Batch, collate
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.errors import AudioError
from blspkd.evaluation.boundaries import errors_ms, word_boundaries
from blspkd.evaluation.measured_set import NO_LIMITS, MeasuredSet
from blspkd.evaluation.retrieval import pack, retrieve
from blspkd.evaluation.scorers.texts import normalize
from blspkd.evaluation.text_vs_speech import Measured, Positions, measure_batch
from blspkd.evaluation_config import DecodeConfig
from blspkd.files import contents_digests
from blspkd.kaldi.data_dir import read_table
from blspkd.kaldi.parts import Fingerprint, Job, PartsDir, plan_batches, plan_parts, run_parts
from blspkd.kaldi.word_times import Word
from blspkd.models.listener import Listener

log = logging.getLogger(__name__)
OPTIONS = ("max_utterances", "seed", "batch_size", "batch_seconds", "part_size")  # that the rows depend on
ROWS = 2  # version of a row's keys: what an earlier one measured is measured again
DIGITS = 5  # decimals kept of what is measured


class AlignDir(PartsDir):
    """`exp/<tag>/align_<set>`."""

    rows_name, marker_name, verb = "utterances.jsonl", "align.json", "measuring"

    def joined(self, rows: list[dict]) -> list[dict]:
        return retrieve(rows)


def align_set(load_listener: Callable[[], Listener], model_fingerprint: Fingerprint, data_dir: str | Path,
              exp_dir: str | Path, config: DecodeConfig, train_dir: str | Path | None = None) -> AlignDir:
    """Measure every utterance of `data_dir`, or a sample of config.max_utterances; returns the folder of the rows.

    load_listener: called only if something is left to measure. train_dir: the training set, for the rarity of tokens.
    Raises DataError for data that cannot be used; a set without `continuation` or `word_times` is measured without.
    """
    measured_set = MeasuredSet.read(data_dir, config)
    path = measured_set.data.path
    train = {} if train_dir is None else contents_digests([Path(train_dir) / "text"])
    folder = AlignDir(Path(exp_dir) / f"align_{path.resolve().name}", {
        **model_fingerprint, "data": measured_set.files, "training text": train, "data_dir": str(path),
        "options": {name: getattr(config, name) for name in OPTIONS}, "rows": ROWS})
    if folder.is_finished():
        log.info("%s: everything is measured already", folder.path)
    else:
        aligner = _Aligner(load_listener(), measured_set, config, train_dir)
        run_parts(f"align {path.name}", [Job(aligner.plan, {folder: aligner.rows}, aligner.load)])
    return folder


class _Aligner:
    """A loaded model and one set."""

    def __init__(self, listener: Listener, measured_set: MeasuredSet, config: DecodeConfig,
                 train_dir: str | Path | None):
        self.listener, self.measured_set = listener, measured_set
        self.token_counts = _token_counts(listener, train_dir)
        data, continuations = measured_set.data, measured_set.continuations
        if not continuations:
            log.info("%s: no continuation there, so the response is left out, but for its first token", data.path)
        if not measured_set.words:
            log.info("%s: no word_times there, so boundaries are left out", data.path)
        # Without a continuation a response is only closed; the KL of its first token does not depend on its text.
        responses = dict.fromkeys(data.utterances, "") | continuations
        examples = make_examples(data, responses, listener.prompt, NO_LIMITS).examples
        self.examples = {example.utt_id: example for example in examples}
        durations = {example.utt_id: example.duration for example in examples}
        self.plan = plan_parts(plan_batches(durations, config.batch_size, config.batch_seconds), config.part_size)

    def load(self, utt_ids: list[str]) -> Batch:
        """Raises AudioError, naming the utterance."""
        examples = [self.examples[utt_id] for utt_id in utt_ids]
        dataset = ExampleDataset(examples, self.listener.extractor, DataConfig(), 0, augment=False)
        batch = collate([dataset[0, index] for index in range(len(examples))])
        if batch.errors:
            raise AudioError(f"{self.measured_set.data.path}: {batch.errors[0]}")
        return batch

    def rows(self, utt_ids: list[str], batch: Batch) -> list[dict]:
        measured = measure_batch(self.listener.model, batch.to(self.listener.model.device))
        return list(map(self._row, utt_ids, measured))

    def _row(self, utt_id: str, measured: Measured) -> dict:
        """A row of utterances.jsonl; times in seconds, KL in nats."""
        utterance = self.measured_set.data[utt_id]
        spans = self.listener.prompt.spans(utterance.text)
        has_response = utt_id in self.measured_set.continuations
        row = {"utt_id": utt_id, "speaker": utterance.speaker, "transcript": utterance.text,
               "duration": utterance.duration, "tokens": [utterance.text[left:right] for left, right in spans],
               "n_tokens": len(spans), "n_speech_tokens": measured.n_speech_tokens,
               **_response(measured.response, has_response),
               **pack(measured.speech_mean, measured.text_mean, self.examples[utt_id].input)}
        if self.token_counts is not None:
            row["token_counts"] = [self.token_counts[int(token)] for token in self.examples[utt_id].input]
        if measured.input is not None:
            row |= {"n_predicted": measured.n_speech_tokens,
                    "input_kl": _rounded(measured.input.kl), "input_top1": measured.input.top1,
                    **_reading(utterance.text, self.listener.tokenizer.decode(measured.nearest)),
                    "nearest_top1": measured.nearest_true,
                    **_response(measured.response_true, has_response, "_true"),
                    "frame_times": self._seconds([place * measured.stacked for place in range(len(measured.alpha) + 1)],
                                                 utterance.duration),
                    "alpha": _rounded(measured.alpha),
                    "fire_times": self._seconds(measured.fire_times, utterance.duration),
                    "fire_times_true": self._seconds(measured.fire_times_true, utterance.duration)}
        words = self.measured_set.words.get(utt_id)
        if words:
            row["words"] = [[word.start, word.end, word.text] for word in words]
            if measured.input is not None:
                row |= _boundaries(utterance.text, spans, words, row["fire_times_true"])
        return row

    def _seconds(self, places: Sequence[float], duration: float) -> list[float]:
        """Seconds of places in encoder frames, within the utterance."""
        encoder, rate = self.listener.model.encoder, self.listener.extractor.frames_per_second
        return _rounded(min(max(encoder.seconds(place, rate), 0.0), duration) for place in places)


def _response(positions: Positions, is_given: bool, ending: str = "") -> dict:
    """The response's first token, and all of them where the utterance has a continuation."""
    return {f"first_kl{ending}": _rounded(positions.kl[:1])[0],
            f"response_kl{ending}": _rounded(positions.kl) if is_given else [],
            f"response_top1{ending}": positions.top1 if is_given else []}


def _reading(transcript: str, text: str) -> dict:
    """The speech tokens as their nearest text tokens spell them, and what is wrong with it."""
    words = normalize(transcript).split()
    output = jiwer.process_words(" ".join(words), normalize(text)) if words else None
    errors = output.substitutions + output.deletions + output.insertions if output else 0
    return {"nearest": text.strip(), "nearest_errors": errors, "nearest_words": len(words)}


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
