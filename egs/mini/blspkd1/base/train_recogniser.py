"""Make the recipe's speech recogniser (recogniser_training.py): a small Whisper that transcribes the corpus.

What it was at earlier points of the training is kept too, as <output_dir>_early<percent>: weaker recognisers to compare
with.
"""

from pathlib import Path

from base_output import describe, is_made, read_options
from recogniser_options import RecogniserOptions

from blspkd.errors import ConfigError, command


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
