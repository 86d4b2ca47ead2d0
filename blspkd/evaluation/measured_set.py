"""The utterances of a data directory that are measured inside the LLM: what is said, when, and how it goes on."""

from dataclasses import dataclass
from pathlib import Path

from blspkd.config import DataConfig
from blspkd.evaluation.recordings import RECORDING_FILES
from blspkd.evaluation_config import DecodeConfig
from blspkd.files import contents_digests
from blspkd.kaldi.data_dir import KaldiDir, read_continuations
from blspkd.kaldi.sampling import sample
from blspkd.kaldi.word_times import Word, read_word_times

FILES = (*RECORDING_FILES, "utt2spk", "text", "continuation", "word_times")
NO_LIMITS = DataConfig(max_duration=float("inf"), min_duration=0.0, max_tokens=1 << 30)  # all become examples


@dataclass(frozen=True)
class MeasuredSet:
    """All of the directory, or a sample of config.max_utterances by config.seed."""

    data: KaldiDir
    continuations: dict[str, str]  # utt_id -> text; empty where the directory has none
    words: dict[str, list[Word]]  # utt_id -> its words in order of time; empty where the directory has none
    files: dict[str, str]  # their digests

    @classmethod
    def read(cls, data_dir: str | Path, config: DecodeConfig) -> "MeasuredSet":
        """Raises DataError naming file, line and utterance."""
        path = Path(data_dir)
        utterances = sample(KaldiDir.read(path).utterances, config.max_utterances, config.seed)
        continuation, times = path / "continuation", path / "word_times"
        return cls(KaldiDir(path, utterances), read_continuations(continuation) if continuation.exists() else {},
                   read_word_times(times) if times.exists() else {}, contents_digests(path / name for name in FILES))
