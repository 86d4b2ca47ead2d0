"""When the words of recordings are spoken, as CTC hears it: writes `word_times` into data directories.

    python base/align_words.py --recogniser exp/base/aligner --tokenizer_dir exp/base/tokenizer --data_dirs data/people

`recogniser` is a folder of train_recogniser.py. CTC tells a frame or two of each word; a word begins and ends where the
speech is weakest between them and those of its neighbours. What has too few frames for its words stays without times.
"""

import argparse
from pathlib import Path

from blspkd.errors import command
from blspkd.files import atomic_write
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.progress import progress

BATCH = 32


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recogniser", type=Path, required=True)
    parser.add_argument("--tokenizer_dir", required=True, help="the LLM's tokenizer, with which it was trained")
    parser.add_argument("--data_dirs", required=True, help="several separated by spaces")
    args = parser.parse_args()

    # Imported here, so that --help and mistakes in the options answer at once.
    from aligner import Aligner
    from recogniser_evaluation import load_audio

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
