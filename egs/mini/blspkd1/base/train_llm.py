"""Make the recipe's LLM (llm_training.py): a small Llama that translates, repeats, answers and continues."""

from pathlib import Path

from base_output import describe, is_made, read_options
from llm_options import LlmOptions

from blspkd.errors import command


@command
def main() -> None:
    options = read_options(LlmOptions, __doc__)
    lm_dir, folder = Path(options.lm_dir), Path(options.output_dir)
    inputs = [lm_dir / "train.jsonl", Path(options.tokenizer_dir) / "tokenizer.json"]
    made_from = describe(options, ("lm_dir", "tokenizer_dir", "output_dir", "save_steps", "eval_rows"), inputs)
    if is_made(folder, made_from, "LLM"):
        return
    # Imported here: a run that finds its work done should not wait for large libraries.
    from llm_training import make_llm

    make_llm(options, made_from)


if __name__ == "__main__":
    main()
