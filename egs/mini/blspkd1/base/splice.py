"""New sentences of recordings: how one begins and how another of the same speaker ends, cut between two words.

    python base/splice.py --data_dir data/people --count 3000 --forbidden data/test/text --output_dir data/spliced \\
        --wav_dir data/local/spliced

A few hundred recorded sentences are soon known by heart; what follows what is different in the spliced ones. The data
directory needs word_times (align_words.py). No sentence is made that is recorded or `forbidden`.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blspkd.audio.samples import load, write_wav
from blspkd.errors import DataError, command
from blspkd.files import atomic_write
from blspkd.kaldi.data_dir import KaldiDir, Utterance, write_table
from blspkd.kaldi.tables import read_table
from blspkd.kaldi.word_times import Word, read_word_times
from blspkd.progress import progress

RATE = 16000
FADE = RATE // 100  # samples over which one recording gives way to the other
ATTEMPTS = 100  # draws for each sentence that is wanted


@dataclass(frozen=True)
class Splice:
    """The words first[:begun] of one recording, then second[ended:] of another."""

    first: Utterance
    begun: int
    second: Utterance
    ended: int


def draw(utterances: dict[str, list[Utterance]], count: int, known: set[str], max_words: int,
         rng: random.Random) -> Iterator[tuple[Splice, str]]:
    """Up to `count` splices and their texts: each once a speaker, none of them `known`."""
    speakers = sorted(speaker for speaker, spoken in utterances.items() if len(spoken) > 1)
    made: set[tuple[str, str]] = set()
    for _ in range(count * ATTEMPTS if speakers else 0):
        if len(made) == count:
            return
        speaker = rng.choice(speakers)
        first, second = rng.sample(utterances[speaker], 2)
        begin, end = first.text.split(), second.text.split()
        splice = Splice(first, rng.randint(1, len(begin)), second, rng.randint(0, len(end) - 1))
        words = begin[:splice.begun] + end[splice.ended:]
        text = " ".join(words)
        if len(words) <= max_words and text not in known and (speaker, text) not in made:
            made.add((speaker, text))
            yield splice, text


def cut(words: list[Word], place: int, duration: float) -> float:
    """The second between word `place` - 1 and word `place`; the recording's begin or end outside."""
    if place == 0:
        return 0.0
    return duration if place == len(words) else (words[place - 1].end + words[place].start) / 2


def join(splice: Splice, words: dict[str, list[Word]]) -> tuple[np.ndarray, list[Word]]:
    """Samples of the new utterance, and when its words are spoken."""
    samples, spoken, start = np.zeros(FADE, dtype=np.float32), [], 0.0
    for part, first, last in ((splice.first, 0, splice.begun), (splice.second, splice.ended, None)):
        wave, times = load(part.audio, RATE), words[part.utt_id]
        last = len(times) if last is None else last
        begin, end = (cut(times, place, len(wave) / RATE) for place in (first, last))
        piece = wave[round(begin * RATE):round(end * RATE)]
        if len(piece) > FADE:
            fade = np.linspace(0, 1, FADE, dtype=np.float32)
            overlap = samples[-FADE:] * (1 - fade) + piece[:FADE] * fade
            start = (len(samples) - FADE) / RATE
            samples = np.concatenate([samples[:-FADE], overlap, piece[FADE:]])
        for word in times[first:last]:
            earliest = spoken[-1].end if spoken else 0.0
            times_now = [max(earliest, start + seconds - begin) for seconds in (word.start, word.end)]
            spoken.append(Word(*times_now, word.text))
    return samples, spoken


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True, help="utterances to make, if there are that many")
    parser.add_argument("--forbidden", type=Path, help="a `text` file: sentences that are not to be made")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--wav_dir", type=Path, required=True)
    parser.add_argument("--max_words", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    words = read_word_times(args.data_dir / "word_times")
    speakers: dict[str, list[Utterance]] = defaultdict(list)
    everything = KaldiDir.read(args.data_dir).utterances.values()
    for utterance in everything:
        if utterance.utt_id in words:
            if [word.text for word in words[utterance.utt_id]] != utterance.text.split():
                raise DataError(f"{args.data_dir}/word_times: utterance {utterance.utt_id} has other words than in "
                                "text; run base/align_words.py again")
            speakers[utterance.speaker].append(utterance)
    known = [utterance.text for utterance in everything]
    known += read_table(args.forbidden).values() if args.forbidden else ()

    tables: dict[str, dict[str, str]] = defaultdict(dict)
    new_words, spoken_by = {}, defaultdict(list)
    found = draw(speakers, args.count, {" ".join(text.split()) for text in known}, args.max_words,
                 random.Random(f"splice {args.seed}"))
    args.wav_dir.mkdir(parents=True, exist_ok=True)
    for number, (splice, text) in enumerate(progress(found, "splicing", total=args.count, unit="utt")):
        key = f"{splice.first.speaker}-splice-{number:06d}"
        samples, new_words[key] = join(splice, words)
        write_wav(args.wav_dir / f"{key}.wav", samples, RATE)
        tables["wav.scp"][key] = f"{args.wav_dir.as_posix()}/{key}.wav"
        tables["text"][key] = text
        tables["utt2spk"][key] = splice.first.speaker
        spoken_by[splice.first.speaker].append(key)
    if not new_words:
        raise DataError(f"{args.data_dir}: nothing can be spliced; that takes --count 1 or more, and speakers with two "
                        "recordings or more whose words are known (word_times)")
    tables["spk2utt"] = {speaker: " ".join(keys) for speaker, keys in spoken_by.items()}
    for table, values in tables.items():
        write_table(args.output_dir / table, values)
    with atomic_write(args.output_dir / "word_times") as file:
        for key in sorted(new_words, key=str.encode):
            file.writelines(f"{key} {word.start:.3f} {word.end:.3f} {word.text}\n" for word in new_words[key])
    print(f"{args.output_dir}: {len(new_words)} utterances of {len(spoken_by)} speakers")


if __name__ == "__main__":
    main()
