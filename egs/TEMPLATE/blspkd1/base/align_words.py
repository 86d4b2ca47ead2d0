"""When the words of recordings are spoken, as CTC hears it: writes `word_times` into data directories.

    python base/align_words.py --recogniser exp/base/aligner --tokenizer_dir exp/base/tokenizer --data_dirs data/people

`recogniser` is a folder of train_recogniser.py. CTC tells a frame or two of each word; a word begins and ends where the
speech is weakest between them and those of its neighbours. What has too few frames for its words stays without times.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from ctc_alignment import align, word_frames, word_tokens
from recogniser_augment import ENCODER_STRIDE
from recogniser_evaluation import encode, load_audio
from recogniser_model import load_with_ctc_head
from training_loop import prepare_cpu
from transformers import AutoFeatureExtractor, AutoTokenizer

from blspkd.atomic import atomic_write
from blspkd.data.kaldi_dir import KaldiDir
from blspkd.data.pretrained import load_pretrained
from blspkd.errors import command
from blspkd.progress import progress

BEFORE, BEHIND = 0.4, 0.25  # seconds: a word lasts at most this long around the frames that CTC gives to it
BATCH = 32


class Aligner:
    """A recogniser with its CTC head, at work."""

    def __init__(self, folder: Path, tokenizer_dir: str):
        prepare_cpu()
        self.model, tokens = load_with_ctc_head(folder)
        self.classes = {token: number for number, token in enumerate(tokens, start=1)}
        self.extractor = load_pretrained(AutoFeatureExtractor, folder)
        self.tokenizer = load_pretrained(AutoTokenizer, tokenizer_dir)
        self.frame_seconds = self.extractor.hop_length / self.extractor.sampling_rate

    @torch.no_grad()
    def times(self, audio: list[np.ndarray], texts: list[str]) -> list[np.ndarray | None]:
        """Waveforms and what is said in them -> seconds at which each word begins and ends [W, 2]; None: unknown."""
        rows, words = word_tokens(texts, self.tokenizer)
        known = [place for place, row in enumerate(rows) if row and all(token in self.classes for token in row)]
        if not known:
            return [None] * len(audio)
        features, frames, lengths = encode(self.model, self.extractor, [audio[place] for place in known])
        targets = [np.array([self.classes[token] for token in rows[place]]) for place in known]
        spans = align(self.model.ctc_log_probs(frames).numpy(), lengths.numpy(), targets)
        found: list[np.ndarray | None] = [None] * len(audio)
        for place, mel, span in zip(known, features, spans, strict=True):
            heard = word_frames(span[: len(words[place])], words[place]) * ENCODER_STRIDE
            if not np.isnan(heard).any():
                found[place] = boundaries(heard, mel.mean(dim=1).numpy(), self.frame_seconds)
        return found


def boundaries(heard: np.ndarray, loudness: np.ndarray, frame_seconds: float) -> np.ndarray:
    """First and last frame of each word [W, 2], loudness [F] -> begin and end in seconds [W, 2]."""
    smooth = np.convolve(np.pad(loudness, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    cuts = [0.0]
    for before, after in zip(heard[:-1, 1].astype(int), heard[1:, 0].astype(int), strict=True):
        cuts.append((before + 1 + np.argmin(smooth[before + 1:after + 1])) if after > before else after)
    cuts.append(len(loudness))
    times = np.stack([np.maximum(cuts[:-1], heard[:, 0] - BEFORE / frame_seconds),
                      np.minimum(cuts[1:], heard[:, 1] + BEHIND / frame_seconds)], axis=1)
    return times * frame_seconds


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recogniser", type=Path, required=True)
    parser.add_argument("--tokenizer_dir", required=True, help="the LLM's tokenizer, with which it was trained")
    parser.add_argument("--data_dirs", required=True, help="several separated by spaces")
    args = parser.parse_args()
    aligner = Aligner(args.recogniser, args.tokenizer_dir)
    for data_dir in map(Path, args.data_dirs.split()):
        utterances = list(KaldiDir.read(data_dir).utterances.values())
        lines, unknown = [], 0
        for start in progress(range(0, len(utterances), BATCH), f"align {data_dir.name}", unit="batch"):
            block = utterances[start:start + BATCH]
            for utterance, times in zip(block, aligner.times(load_audio(block), [u.text for u in block]), strict=True):
                unknown += times is None
                if times is not None:
                    lines += [f"{utterance.utt_id} {begin:.3f} {end:.3f} {word}\n"
                              for word, (begin, end) in zip(utterance.text.split(), times, strict=True)]
        with atomic_write(data_dir / "word_times") as file:
            file.writelines(lines)
        print(f"{data_dir}: words of {len(utterances) - unknown} utterances aligned, {unknown} do not fit")


if __name__ == "__main__":
    main()
