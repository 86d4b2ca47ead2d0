"""Speak the sentences of all data sets with espeak-ng.

    python base/synthesise.py --sets "train=train/training test=test/held_out" --spoken_dir data/local/spoken \
        --wav_dir data/local/wav [--nj 2] [--seed 0]

writes, for every set and shard of 500 utterances, the folder `<wav_dir>/<set>/<shard>/` with
    <utt-id>.wav    16 kHz, 16 bits, one channel
    word_times      "<utt-id> <start s> <end s> <text up to the next event>", several lines per utterance
    utt2dur         seconds
    plan.jsonl      what was said how (`speech_plan.Utterance`)
A shard is spoken by a process of its own (`espeak.py` says why) and appears when it is complete, so a killed run goes
on with the missing shards and gives the same files. A shard whose plan has changed is spoken again.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from speech_plan import Utterance, parse_sets, plan, read_rows, shards, to_jsonl
from voices import voices_of

from blspkd.errors import DataError, command
from blspkd.files import atomic_path
from blspkd.progress import progress_bar

SAMPLING_RATE = 16000
LOUDEST = 0.98  # samples stay below full scale, noise included


def plan_all(args: argparse.Namespace) -> dict[str, list[Utterance]]:
    """The shards of all sets: {"train/000": utterances, ...}."""
    from espeak import data_path

    planned = {}
    for one in parse_sets(args.sets):
        rows, voices = read_rows(args.spoken_dir, one.sentences), voices_of(one.voices, data_path())
        for name, utterances in shards(plan(one.name, rows, voices, args.seed, tuple(args.rates))).items():
            planned[f"{one.name}/{name}"] = utterances
    return planned


def is_complete(shard_dir: Path, utterances: list[Utterance]) -> bool:
    path = shard_dir / "plan.jsonl"
    return path.is_file() and path.read_text(encoding="utf-8") == to_jsonl(utterances)


def speak_shard(shard_dir: Path, utterances: list[Utterance]) -> None:
    """Speak one shard in this process, which must not have spoken before."""
    import numpy as np
    import soundfile
    from espeak import Espeak

    espeak = Espeak()
    word_times, durations = [], []
    with atomic_path(shard_dir) as folder:
        folder.mkdir()
        for utterance in utterances:
            speech = espeak.speak(utterance.spoken, utterance.voice, utterance.rate, utterance.pitch,
                                  utterance.pitch_range)
            wave = record(speech.samples, espeak.sampling_rate, utterance)
            soundfile.write(folder / f"{utterance.utt_id}.wav", np.rint(wave * 32767).astype(np.int16), SAMPLING_RATE)
            spoken_end = len(speech.samples) / espeak.sampling_rate
            starts = [start for start, _ in speech.words] + [spoken_end]
            words = iter(utterance.text.split())
            for (start, spoken), end in zip(speech.words, starts[1:], strict=True):
                text = " ".join(next(words) for _ in spoken.split())
                begin, end = start + utterance.lead, end + utterance.lead
                word_times.append(f"{utterance.utt_id} {begin:.4f} {end:.4f} {text}\n")
            durations.append(f"{utterance.utt_id} {len(wave) / SAMPLING_RATE:.4f}\n")
        (folder / "word_times").write_text("".join(word_times), encoding="utf-8")
        (folder / "utt2dur").write_text("".join(durations), encoding="utf-8")
        (folder / "plan.jsonl").write_text(to_jsonl(utterances), encoding="utf-8")


def record(samples, sampling_rate: int, utterance: Utterance):
    """int16 samples at `sampling_rate` -> float32 [samples] at 16 kHz with silence around, a level, and noise."""
    import numpy as np
    import soxr

    speech = soxr.resample(samples.astype(np.float32), sampling_rate, SAMPLING_RATE)
    loudest = np.abs(speech).max(initial=0.0)
    if loudest == 0.0:
        raise DataError(f"utterance {utterance.utt_id}: voice {utterance.voice} said nothing for '{utterance.text}'")
    speech *= utterance.peak / loudest
    padding = [round(seconds * SAMPLING_RATE) for seconds in (utterance.lead, utterance.tail)]
    noise = np.random.default_rng(utterance.seed).standard_normal(len(speech) + sum(padding), dtype=np.float32)
    noise[1:] += np.float32(utterance.noise_tilt) * noise[:-1]
    noise *= np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-utterance.snr_db / 20)
    return np.clip(np.pad(speech, padding) + noise, -LOUDEST, LOUDEST)


def speak_all(planned: dict[str, list[Utterance]], args: argparse.Namespace) -> None:
    """Speak the shards that are missing, `args.nj` at a time, and remove what belongs to no shard."""
    missing = {}
    for name, utterances in planned.items():
        if not is_complete(args.wav_dir / name, utterances):
            missing[name] = utterances
    for folder in args.wav_dir.glob("*/*"):
        if folder.relative_to(args.wav_dir).as_posix() not in planned:
            shutil.rmtree(folder)
    if not missing:
        return
    bar = progress_bar("speaking", total=sum(map(len, missing.values())), unit="utt")
    with ThreadPoolExecutor(args.nj) as pool:
        running = {pool.submit(_speak_in_a_fresh_process, name, args): name for name in missing}
        try:
            for done in as_completed(running):
                done.result()
                bar.update(len(missing[running[done]]))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    bar.close()


def _speak_in_a_fresh_process(name: str, args: argparse.Namespace) -> None:
    line = [sys.executable, __file__, "--sets", args.sets, "--spoken_dir", str(args.spoken_dir),
            "--wav_dir", str(args.wav_dir), "--rates", *map(str, args.rates), "--seed", str(args.seed),
            "--shard", name]
    status = subprocess.run(line, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
    if status != 0:
        raise DataError(f"shard {name} was not spoken (exit status {status}); start again to go on, or look at it "
                        f"with: {shlex.join(line)}")


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", required=True, help="NAME=SENTENCES/VOICES of each set (speech_plan.py)")
    parser.add_argument("--spoken_dir", type=Path, required=True, help="sentences, from local/corpus.py")
    parser.add_argument("--wav_dir", type=Path, required=True)
    parser.add_argument("--rates", type=int, nargs=2, default=(170, 260), metavar="WPM",
                        help="slowest and fastest speech, in words per minute")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", default="", help="speak this one in this process, for example train/000")
    args = parser.parse_args()
    planned = plan_all(args)
    if args.shard:
        speak_shard(args.wav_dir / args.shard, planned[args.shard])
    else:
        speak_all(planned, args)


if __name__ == "__main__":
    main()
