"""Make the LLM's tokenizer (llm_tokenizer.py) from the corpus's text."""

from dataclasses import dataclass
from pathlib import Path

from base_output import describe, is_made, read_options, write_record

from blspkd.errors import command
from blspkd.files import atomic_path


@dataclass
class TokenizerOptions:
    """Where the text is, and how many pieces to make of it."""

    lm_dir: str = "data/local/lm"
    output_dir: str = "exp/base/tokenizer"
    pieces: int = 700  # besides bytes and special tokens
    max_rows: int = 20000  # rows to learn the pieces from


@command
def main() -> None:
    options = read_options(TokenizerOptions, __doc__)
    text, folder = Path(options.lm_dir) / "train.jsonl", Path(options.output_dir)
    made_from = describe(options, ("lm_dir", "output_dir"), [text])
    if is_made(folder, made_from, "tokenizer"):
        return
    # Imported here: a run that finds its work done should not wait for large libraries.
    from llm_tokenizer import N_BYTES, build_tokenizer
    from lm_rows import read_rows

    tokenizer = build_tokenizer(read_rows(text)[: options.max_rows], options.pieces)
    with atomic_path(folder) as temporary:
        tokenizer.save_pretrained(temporary)
        write_record(temporary, made_from)
    print(f"tokenizer: {len(tokenizer)} tokens ({N_BYTES} of them bytes) in {folder}")


if __name__ == "__main__":
    main()
