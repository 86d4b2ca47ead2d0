"""Who says what, how fast, how high and in how much noise: decided for every utterance before anything is spoken."""

import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path

from voices import Voice

from blspkd.errors import ConfigError, DataError

SHARD_SIZE = 500  # utterances spoken by one process


@dataclass(frozen=True)
class SpokenSet:
    """A data set to be spoken: the sentences of <spoken_dir>/<sentences>.jsonl in the voices of a group."""

    name: str
    sentences: str
    voices: str


def parse_sets(words: str) -> list[SpokenSet]:
    """`"train=train/training test=test/held_out"`: name, sentences and voices of each set. Raises ConfigError."""
    found = []
    for word in words.split():
        name, _, rest = word.partition("=")
        sentences, _, voices = rest.partition("/")
        if not (name and sentences and voices):
            raise ConfigError(f"sets: '{word}' is not NAME=SENTENCES/VOICES, for example test_unheard=test/held_out")
        found.append(SpokenSet(name, sentences, voices))
    return found


@dataclass(frozen=True)
class Utterance:
    """Everything that decides the samples of an utterance, together with its place in its shard."""

    utt_id: str
    speaker: str
    voice: str  # espeak-ng's name
    text: str
    spoken: str  # the same, written for the synthesiser: as many words
    rate: int  # words per minute
    pitch: int  # 0-100
    pitch_range: int  # 0-100
    peak: float  # of the speech, 1.0: full scale
    snr_db: float
    noise_tilt: float  # 0: white; towards 1: less treble
    lead: float  # seconds of noise before the speech
    tail: float  # seconds of noise after it
    seed: int  # of the noise


def read_rows(spoken_dir: Path, sentences: str) -> list[dict]:
    """Rows of a recipe's local/corpus.py, in order: "text"; where the synthesiser should read something else, "spoken";
    for a validation or test set references by task and "instruction"."""
    with open(spoken_dir / f"{sentences}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def plan(set_name: str, rows: list[dict], voices: list[Voice], seed: int, rates: tuple[int, int]) -> list[Utterance]:
    """Utterance i of a set is row i; the voices take turns. rates: slowest and fastest, in words per minute."""
    return [_utterance(set_name, index, row, voices[index % len(voices)], seed, rates)
            for index, row in enumerate(rows)]


def shards(utterances: list[Utterance]) -> dict[str, list[Utterance]]:
    """Cut a set's utterances into shards "000", "001" ..."""
    return {f"{start // SHARD_SIZE:03d}": utterances[start:start + SHARD_SIZE]
            for start in range(0, len(utterances), SHARD_SIZE)}


def to_jsonl(utterances: list[Utterance]) -> str:
    return "".join(json.dumps(dataclasses.asdict(utterance)) + "\n" for utterance in utterances)


def _utterance(set_name: str, index: int, row: dict, voice: Voice, seed: int,
               rates: tuple[int, int]) -> Utterance:
    rng = random.Random(f"speech {seed} {set_name} {index}")
    part = set_name.split("_")[0]
    text, spoken = row["text"], row.get("spoken", row["text"])
    if len(spoken.split()) != len(text.split()):
        raise DataError(f"{set_name}: '{spoken}' has not as many words as '{text}', which it is to be read for")
    return Utterance(utt_id=f"{voice.speaker}-{part}-{index:06d}", speaker=voice.speaker, voice=voice.espeak_name,
                     text=text, spoken=spoken, rate=rng.randint(*rates), pitch=rng.randint(30, 70),
                     pitch_range=rng.randint(30, 70),
                     peak=round(rng.uniform(0.2, 0.8), 3), snr_db=round(rng.uniform(15, 35), 2),
                     noise_tilt=round(rng.uniform(0, 0.9), 3), lead=round(rng.uniform(0.05, 0.15), 3),
                     tail=round(rng.uniform(0.05, 0.15), 3), seed=rng.getrandbits(32))
