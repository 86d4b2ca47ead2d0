"""Make the recipe's speech recogniser (recogniser_training.py): a small Whisper that transcribes the corpus.

What it was at earlier points of the training is kept too, as <output_dir>_early<percent>: weaker recognisers to compare
with.
"""

from dataclasses import dataclass
from pathlib import Path

from base_output import describe, is_made, read_options

from blspkd.errors import ConfigError, command


@dataclass
class RecogniserOptions:
    """Data, size, augmentation and training of the recogniser."""

    train_dirs: str = "data/train"  # several separated by spaces; with the synthesiser's `word_times` or without
    repeats: str = ""  # how often an epoch sees the utterances of each of train_dirs, e.g. "1 5"; empty: once
    dev_dirs: str = "data/valid"  # evaluated at the end; several separated by spaces
    tokenizer_dir: str = "exp/base/tokenizer"  # the LLM's: its tokens are the CTC warm-up's targets
    init_dir: str = ""  # a recogniser to go on from, whatever its size; then speech is varied fully from the start
    output_dir: str = "exp/base/recogniser"
    mel_bins: int = 80
    hop_ms: int = 20  # of the log-mel frames; an encoder frame is two of them
    chunk_seconds: int = 6  # the padded regime's length; no utterance may be longer
    width: int = 144
    num_encoder_layers: int = 4
    num_decoder_layers: int = 2
    num_heads: int = 4
    ffn_size: int = 576
    dropout: float = 0.0
    text_pieces: int = 700  # of the recogniser's own byte-level BPE vocabulary
    recogniser_steps: int = 4800
    early_percents: str = "40 70"  # of the steps: where earlier models are kept; separated by spaces
    learning_rate: float = 3.0e-3
    warmup_steps: int = 200
    batch_size: int = 16
    word_weight: float = 3.0  # of the frame-wise word cross-entropy at the start; 0 from half the steps on
    attention_weight: float = 0.5  # of guiding the decoder's attention to the word; 0 from half the steps on
    attention_floor: float = 0.0  # share of that which stays to the end, for recordings too, whose words CTC aligns
    ctc_weight: float = 1.0
    decoder_weight: float = 1.0
    # share of the decoder's past tokens that are replaced, so that it listens more and guesses less
    token_noise: float = 0.0
    padded_share: float = 0.1  # of the steps that see utterances padded to chunk_seconds, unmasked, half a batch
    max_stretch: float = 0.06  # tempo, as a share
    max_warp: float = 0.04  # of the frequency axis: other vocal tracts
    max_tilt: float = 0.05  # standard deviation of a random smooth equaliser's terms, log10 of power
    max_mask_bins: int = 12  # width of each of the two bands that are masked, of 80 bins
    noise_share: float = 0.2  # of the utterances that get noise on top
    num_beams: int = 1  # of the finished model's `generate`, kept in its generation_config.json
    bf16: bool = True
    threads: int = 1  # of the training; what is left of the cores is for another one beside it
    seed: int = 0
    save_steps: int = 500
    eval_utterances: int = 300  # of each dev directory


def early_folders(folder: Path, percents: str) -> dict[int, Path]:
    """Percent of the steps -> folder of the model of that time. Raises ConfigError."""
    if not all(word.isdecimal() and 0 < int(word) < 100 for word in percents.split()):
        raise ConfigError(f"early_percents: '{percents}' are not all whole numbers from 1 to 99")
    return {int(word): folder.with_name(f"{folder.name}_early{int(word)}") for word in percents.split()}


@command
def main() -> None:
    options = read_options(RecogniserOptions, __doc__)
    folder = Path(options.output_dir)
    inputs = [Path(train_dir) / "text" for train_dir in options.train_dirs.split()]
    inputs += [path.with_name("word_times") for path in inputs if path.with_name("word_times").is_file()]
    inputs.append(Path(options.tokenizer_dir) / "tokenizer.json")
    if options.init_dir:
        inputs.append(Path(options.init_dir) / "model.safetensors")
    outside = ("train_dirs", "dev_dirs", "init_dir", "tokenizer_dir", "output_dir", "threads", "save_steps",
               "eval_utterances")
    made_from = describe(options, outside, inputs)
    early = early_folders(folder, options.early_percents)
    if all(is_made(one, made_from, "recogniser") for one in [folder, *early.values()]):
        return
    # Imported here: a run that finds its work done should not wait for large libraries.
    from recogniser_training import make_recogniser

    make_recogniser(options, made_from, early)


if __name__ == "__main__":
    main()
