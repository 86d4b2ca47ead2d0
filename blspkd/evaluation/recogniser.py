"""A Hugging Face speech recogniser transcribes a data directory.

Sequence-to-sequence models (Whisper, Speech2Text, Moonshine ...) write through `generate`, CTC models (wav2vec 2.0,
HuBERT, WavLM ...) by the best path. Speech longer than a model's window (Whisper: 30 s) is cut into windows, whose
transcripts are joined.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoTokenizer

from blspkd.data.pretrained import load_pretrained
from blspkd.data.prompts import check_model_path
from blspkd.errors import ConfigError, DataError, ModelError
from blspkd.evaluation.decode_dir import HypothesisDir
from blspkd.evaluation.recordings import RECORDING_FILES, Recordings
from blspkd.evaluation_config import TranscribeConfig
from blspkd.files import contents_digests
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.kaldi.parts import Fingerprint, Job, plan_batches, plan_parts, run_parts

log = logging.getLogger(__name__)


class Recogniser:
    """Model, feature extractor and tokenizer, at work on waveforms."""

    def __init__(self, name: str, config: TranscribeConfig, device: str = "cpu"):
        """Load `name`, a Hugging Face id or folder. Raises ModelError, and ConfigError for options it does not have."""
        check_model_path(name, "speech recogniser")
        try:
            architectures = load_pretrained(AutoConfig, name).architectures or []
            self.is_ctc = any(architecture.endswith("ForCTC") for architecture in architectures)
            kind = AutoModelForCTC if self.is_ctc else AutoModelForSpeechSeq2Seq
            self.model = load_pretrained(kind, name, dtype=getattr(torch, config.dtype)).to(device).eval()
            self.extractor = load_pretrained(AutoFeatureExtractor, name)
            self.tokenizer = load_pretrained(AutoTokenizer, name)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"{name}: cannot be loaded as a speech recogniser ({reason})") from None
        self.sampling_rate: int = self.extractor.sampling_rate
        self.window: int | None = getattr(self.extractor, "n_samples", None)  # samples that the encoder sees at most
        self.options = {} if self.is_ctc else self._generation_options(name, config)

    def transcribe(self, waveforms: list[np.ndarray]) -> list[str]:
        """float32 waveforms [samples] at `sampling_rate` -> what is said; may be empty."""
        windows = [self._windows(waveform) for waveform in waveforms]
        # A CTC model's result depends on the padding, for some of them much: one by one.
        size = 1 if self.is_ctc else len(waveforms)
        flat = [window for item in windows for window in item]
        texts = [text for start in range(0, len(flat), size) for text in self._transcribe(flat[start:start + size])]
        joined = []
        for item in windows:
            joined.append(" ".join(text for text in texts[:len(item)] if text))
            texts = texts[len(item):]
        return joined

    @torch.inference_mode()
    def _transcribe(self, waveforms: list[np.ndarray]) -> list[str]:
        padding = {} if self.window else {"padding": True}  # Whisper's extractor pads to its window by itself
        inputs = self.extractor(waveforms, sampling_rate=self.sampling_rate, return_tensors="pt",
                                return_attention_mask=not self.is_ctc, **padding).to(self.model.device)
        inputs = {name: value.to(self.model.dtype) if value.is_floating_point() else value
                  for name, value in inputs.items()}
        if self.is_ctc:
            # Skipping special tokens would take the blanks away before repetitions are joined: hello -> helo.
            texts = self.tokenizer.batch_decode(self.model(**inputs).logits.argmax(dim=-1))
        else:
            texts = self.tokenizer.batch_decode(self.model.generate(**inputs, **self.options), skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _windows(self, waveform: np.ndarray) -> list[np.ndarray]:
        if self.window is None or len(waveform) <= self.window:
            return [waveform]
        starts = range(0, len(waveform), self.window)
        return [waveform[start:start + self.window] for start in starts]

    def _generation_options(self, name: str, config: TranscribeConfig) -> dict[str, object]:
        chosen = {key: getattr(config, key) for key in ("language", "task") if getattr(config, key)}
        if chosen and not getattr(self.model.generation_config, "is_multilingual", False):
            raise ConfigError(f"{next(iter(chosen))}: {name} knows one language only; leave it empty")
        if config.max_new_tokens:
            chosen["max_new_tokens"] = config.max_new_tokens
        return {**chosen, "num_beams": config.num_beams, "do_sample": False}


class TranscriptDir(HypothesisDir):
    """The folder of a set's transcripts."""

    verb = "transcribing"


def transcribe_set(load_recogniser: Callable[[], Recogniser], identity: object, data_dir: str | Path,
                   output_dir: str | Path, config: TranscribeConfig) -> bool:
    """Write `output_dir/{text,hyp.jsonl,decode.json}`; False where that is done. What was killed goes on.

    load_recogniser: called only if something is left to do. identity: tells its model from others.
    Raises AudioError naming an utterance, and DataError for a folder that holds something else.
    """
    data_dir, output_dir = Path(data_dir), Path(output_dir)
    recordings = Recordings(data_dir, KaldiDir.read(data_dir, need_text=False).utterances)
    options = {key: value for key, value in dataclasses.asdict(config).items() if key != "device"}
    data = contents_digests(data_dir / name for name in RECORDING_FILES)
    folder = TranscriptDir(output_dir, Fingerprint(recogniser=identity, data=data, options=options))
    if folder.is_finished():
        log.info("%s: everything is transcribed already", output_dir)
        return False
    if output_dir.is_dir() and any(output_dir.iterdir()) and not any(
            (output_dir / name).exists() for name in ("parts", folder.marker_name)):
        raise DataError(f"{output_dir}: holds other things than transcripts; choose another folder")
    seconds = {utt_id: recordings.seconds(utt_id) for utt_id in recordings.utterances}
    recogniser = load_recogniser()

    def load(batch: list[str]) -> list[np.ndarray]:
        return [recordings.load(utt_id, recogniser.sampling_rate) for utt_id in batch]

    def work(batch: list[str], waveforms: list[np.ndarray]) -> list[dict]:
        return [{"utt_id": utt_id, "hypothesis": text}
                for utt_id, text in zip(batch, recogniser.transcribe(waveforms), strict=True)]

    plan = plan_parts(plan_batches(seconds, config.batch_size), config.part_size)
    run_parts(f"transcribe {data_dir.name}", [Job(plan, {folder: work}, load)])
    return True
