"""What a trained model makes of the speech of a data directory, as Kaldi matrices for other tools to look at.

    frames  [T, C]  of the speech encoder
    alpha   [T]     firing weights of CIF, not scaled: their sum is the number of speech tokens before rounding
    tokens  [N, D]  speech tokens as the LLM reads them
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from blspkd.data.features import pad_windows
from blspkd.errors import ConfigError
from blspkd.evaluation.recordings import RECORDING_FILES, Recordings
from blspkd.files import contents_digests
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.kaldi.matrix_dir import MatrixDir
from blspkd.kaldi.parts import Fingerprint, Job, plan_batches, plan_parts, run_parts
from blspkd.models.listener import Listener

What = Literal["frames", "alpha", "tokens"]


def write_speech_matrices(load_listener: Callable[[], Listener], model_fingerprint: Fingerprint, data_dir: str | Path,
                          out_dir: str | Path, what: What, batch_size: int = 16, batch_seconds: float = 240.0,
                          part_size: int = 512) -> bool:
    """Write `what` of every utterance of `data_dir` into `out_dir`; False where that was done before.

    load_listener: called only if something is left to do; model_fingerprint: what tells its model from others.
    Raises DataError for a data directory or an `out_dir` that cannot be used, AudioError naming an utterance, and
    ConfigError where the model has no alpha.
    """
    data_dir = Path(data_dir)
    folder = MatrixDir(out_dir, {
        **model_fingerprint, "what": what, "data": contents_digests(data_dir / name for name in RECORDING_FILES),
        "data_dir": str(data_dir.absolute()), "out_dir": str(Path(out_dir).absolute()),
        "options": {"batch_size": batch_size, "batch_seconds": batch_seconds, "part_size": part_size}})
    recordings = Recordings(data_dir, KaldiDir.read(data_dir, need_text=False).utterances)
    folder.claim()
    if folder.is_finished():
        return False
    speaker = _Speech(load_listener(), recordings, what)
    seconds = {utt_id: recordings.seconds(utt_id) for utt_id in recordings.utterances}
    plan = plan_parts(plan_batches(seconds, batch_size, batch_seconds), part_size)
    run_parts(f"{what} {data_dir.name}", [Job(plan, {folder: speaker.rows}, speaker.load)])
    return True


class _Speech:
    """A loaded model at work on one set."""

    def __init__(self, listener: Listener, recordings: Recordings, what: What):
        self.listener, self.recordings, self.what = listener, recordings, what

    def load(self, utt_ids: list[str]) -> list[np.ndarray]:
        """Waveforms [samples] at the encoder's rate."""
        return [self.recordings.load(utt_id, self.listener.extractor.sampling_rate) for utt_id in utt_ids]

    def rows(self, utt_ids: list[str], waveforms: list[np.ndarray]) -> list[dict]:
        return [{"utt_id": utt_id, "matrix": matrix}
                for utt_id, matrix in zip(utt_ids, self._matrices(waveforms), strict=True)]

    @torch.inference_mode()
    def _matrices(self, waveforms: list[np.ndarray]) -> list[np.ndarray]:
        """float32 [T, C], [T] or [N, D] of each waveform."""
        if self.what == "tokens":
            return [tokens.float().cpu().numpy() for tokens in self.listener.listen(waveforms)]
        model = self.listener.model
        features = [self.listener.extractor(waveform) for waveform in waveforms]
        windows = pad_windows([window for item in features for window in item.windows]).to(model.device)
        frames, lengths = model.encode(windows, torch.tensor([length for item in features for length in item.lengths]),
                                       [len(item.windows) for item in features])
        if self.what == "frames":
            rows = frames
        else:
            speech = model.adapt(frames, lengths)
            if speech.alpha is None:
                raise ConfigError(f"--what alpha: adapter '{model.config.adapter}' has none, since it does not fire "
                                  "(CIF); take frames or tokens")
            rows, lengths = speech.alpha, speech.frame_lengths
        return [row[:length].float().cpu().numpy() for row, length in zip(rows, lengths.tolist(), strict=True)]
