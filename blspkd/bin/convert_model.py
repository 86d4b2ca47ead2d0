"""A model of another runtime -> a Hugging Face folder, for --llm or --speech_encoder.

    python -m blspkd.bin.convert_model SOURCE FOLDER

SOURCE: a GGUF file of an LLM, or a folder with a Whisper model of CTranslate2 (faster-whisper). A FOLDER with a model
stays as it is; one with anything else is refused.
"""

import argparse
from pathlib import Path

from blspkd.errors import ModelError, command
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
    if options.folder.exists() and not (options.folder.is_dir() and not any(options.folder.iterdir())):
        raise ModelError(f"{options.folder}: is there, and is no model; name a new folder")
    from transformers.utils import logging

    logging.set_verbosity_error()
    convert(options.source, options.folder)
    print(f"{options.source} -> {options.folder}")


if __name__ == "__main__":
    main()
