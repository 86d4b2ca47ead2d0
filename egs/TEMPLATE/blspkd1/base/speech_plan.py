"""Who says what, how fast, how high and in how much noise: decided for every utterance before anything is spoken."""

import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path

from voices import Voice

from blspkd.errors import ConfigError

SHARD_SIZE = 500  # utterances spoken by one process


@dataclass(frozen=True)
class SpokenSet:
    """A data set to be spoken: the sentences of <spoken_dir>/<sentences>.jsonl in the voices of a group."""

    name: str
    sentences: str
    voices: str


def parse_sets(words: str) -> list[SpokenSet]:
    """`"train=train/training test_unheard=test/held_out"`: name, sentences and voices of each set. Raises ConfigError."""
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
    """Rows {"text", and for a test set the references by task, "instruction"}, in order, of a recipe's local/corpus.py."""
    with open(spoken_dir / f"{sentences}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def plan(set_name: str, rows: list[dict], voices: list[Voice], seed: int) -> list[Utterance]:
    """Utterance i of a set is row i; the voices take turns."""
    return [_utterance(set_name, index, row["text"], voices[index % len(voices)], seed)
            for index, row in enumerate(rows)]


def shards(utterances: list[Utterance]) -> dict[str, list[Utterance]]:
    """Cut a set's utterances into shards "000", "001" ..."""
    return {f"{start // SHARD_SIZE:03d}": utterances[start:start + SHARD_SIZE]
            for start in range(0, len(utterances), SHARD_SIZE)}


def to_jsonl(utterances: list[Utterance]) -> str:
    return "".join(json.dumps(dataclasses.asdict(utterance)) + "\n" for utterance in utterances)


def _utterance(set_name: str, index: int, text: str, voice: Voice, seed: int) -> Utterance:
    rng = random.Random(f"speech {seed} {set_name} {index}")
    part = set_name.split("_")[0]
    return Utterance(utt_id=f"{voice.speaker}-{part}-{index:06d}", speaker=voice.speaker, voice=voice.espeak_name,
                     text=text, rate=rng.randint(170, 260), pitch=rng.randint(30, 70), pitch_range=rng.randint(30, 70),
                     peak=round(rng.uniform(0.2, 0.8), 3), snr_db=round(rng.uniform(15, 35), 2),
                     noise_tilt=round(rng.uniform(0, 0.9), 3), lead=round(rng.uniform(0.05, 0.15), 3),
                     tail=round(rng.uniform(0.05, 0.15), 3), seed=rng.getrandbits(32))
