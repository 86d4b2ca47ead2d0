"""A model of another runtime -> a Hugging Face folder, for --llm or --speech_encoder.

    python -m blspkd.bin.convert_model SOURCE FOLDER

SOURCE: a GGUF file of an LLM, or a folder with a Whisper model of CTranslate2 (faster-whisper). A FOLDER that is there
already stays.
"""

import argparse
from pathlib import Path

from blspkd.errors import command
from blspkd.models.conversion import converter_of


@command
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    convert = converter_of(options.source)
    if (options.folder / "config.json").is_file():
        print(f"{options.folder} is there already")
        return
    from transformers.utils import logging

    logging.set_verbosity_error()
    convert(options.source, options.folder)
    print(f"{options.source} -> {options.folder}")


if __name__ == "__main__":
    main()
