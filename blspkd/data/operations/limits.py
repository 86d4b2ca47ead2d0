"""What the filter keeps: the options of `data_dir filter`, and of the operation `filter`."""

import math
from dataclasses import dataclass, field, fields

from blspkd.errors import ConfigError


def _limit(default, meaning: str):
    return field(default=default, metadata={"help": meaning})


def _list(meaning: str):
    return field(default_factory=list, metadata={"help": meaning})


@dataclass(frozen=True)
class Limits:
    """Every field is an option. As they stand the rules from `min_snr_db` on leave out nothing."""

    min_duration: float = _limit(0.1, "seconds")
    max_duration: float = _limit(30.0, "seconds")
    min_tokens_per_second: float = _limit(0.2, "tokens of the LLM, or words where none is named")
    max_tokens_per_second: float = _limit(20.0, "tokens of the LLM, or words where none is named")
    silence_db: float = _limit(-50.0, "dB below full scale that the loudest 25 ms must exceed")
    max_clipping: float = _limit(0.01, "share of samples at full scale")
    duplicate_words: int = _limit(1, "test sentences of fewer words may occur in the training text")
    max_bad_ratio: float = _limit(0.1, "share of utterances with undecodable audio from which on the mistake is "
                                       "elsewhere: nothing is written")
    min_snr_db: float = _limit(0.0, "90th over 10th percentile of the power of 25 ms, in dB; clean speech has 15 and "
                                    "more, speech with noise at 0 dB about 7")
    transcripts: str = _limit("", "what a recogniser wrote: a file of the directory (text.asr), or a folder that "
                                  "blspkd.bin.transcribe made; numbers in the style of `text`")
    max_cer: float = _limit(0.5, "with transcripts: character error rate of the recogniser's against `text`; unrelated "
                                 "sentences have 0.6 and more")
    near_duplicates: float = _limit(0.0, "similarity (word 5-grams, Jaccard) with an utterance before from which on "
                                         "one is left out, e.g. 0.85; 0: none is")
    score_above: float | None = _limit(None, "utt2score must be greater")
    score_below: float | None = _limit(None, "utt2score must be less")
    languages: list = _list("utt2lang must be one of these")
    years: list = _list("the year in utt2date must be one of these")
    random_seed: int | None = _limit(None, "control: leave out as many as the rules would, drawn at random by this "
                                           "seed (what has no text, no audio, or a text of a test set goes anyway)")

    def __post_init__(self):
        for limit in fields(Limits):
            value = getattr(self, limit.name)
            if isinstance(value, float) and math.isnan(value):
                raise ConfigError(f"{limit.name}: is not a number")
        for name in ("max_clipping", "max_bad_ratio", "near_duplicates"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: is a share, from 0 to 1, and not {getattr(self, name):g}")
        if not all(isinstance(language, str) for language in self.languages):
            raise ConfigError(f"languages: {self.languages} are not all names; put those that YAML reads as something "
                              'else ("no") in quotes')
        if not all(str(year).isdecimal() for year in self.years):
            raise ConfigError(f"years: {self.years} are not all years")
