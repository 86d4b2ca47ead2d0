"""What a packed directory was made from, and whether that is still so: tables by their contents, tokenizer, prompt.

Audio is looked at when a directory is packed again, by size and date: a training would have to ask for every file.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from blspkd.config import PromptConfig
from blspkd.errors import DataError
from blspkd.files import contents_digest, json_digest
from blspkd.kaldi.files import INFO, Follows, data_files, known_file
from blspkd.kaldi.tables import remedy_command

FORMAT = 2  # of the files, and of the rules that make token ids; a change makes old directories stale
READ = ("wav.scp", "segments", "reco2channel", "text", "utt2spk", "utt2dur", "continuation", INFO)  # packed, as it were
_NOT_COPIED = ("wav.scp", "segments", "reco2channel", "text", "utt2dur", "continuation", "feats.scp", "vad.scp")


def side_tables(source: Path) -> Iterator[Path]:
    """The files that data operations and prompts read: they are copied beside the shards."""
    for file in data_files(source):
        if file.name not in _NOT_COPIED and (file.name == INFO or known_file(file.name) is Follows.UTTERANCES):
            yield file


def table_states(source: Path) -> dict[str, list]:
    """{name: [bytes, date in ns, digest]} of the tables of `source` that decide what is packed."""
    names = {*READ, *(file.name for file in side_tables(source))}
    states = {}
    for file in sorted(source / name for name in names):
        if file.is_file():
            states[file.name] = [*_size_and_date(file), contents_digest(file)]
    return states


def check_tables(source: Path, packed: Path, states: Mapping[str, list], llm: str) -> None:
    """Raise DataError for a table of `source` that has changed since; what was moved away altogether is not missed.

    A file with the size and the date that it had is not read.
    """
    if not (source / "utt2spk").is_file():
        return
    for name in sorted({*states, *READ}):
        file, before = source / name, states.get(name)
        if not file.is_file():
            problem = "is not there any more" if before else ""
        elif before is None:
            problem = "was not there"
        else:
            same = _size_and_date(file) == tuple(before[:2]) or contents_digest(file) == before[2]
            problem = "" if same else "has changed"
        if problem:
            raise DataError(f"{file}: {problem} since {packed} was packed from it; pack it again, which remakes the "
                            f"shards that it concerns: `{again(source, packed, llm)}`")


def check_prompt(packed: Path, before: Mapping, now: PromptConfig, command: str) -> None:
    """Raise DataError where the token ids were made with another prompt."""
    values = prompt_values(now)
    changed = [f"{key} was {before.get(key)!r} and is now {values[key]!r}" for key in values
               if before.get(key) != values[key]]
    if changed:
        raise DataError(f"{packed}: was packed with another prompt ({'; '.join(changed)}); pack it again: `{command}`")


def prompt_values(config: PromptConfig) -> dict:
    """The prompt as JSON gives it back."""
    keys = PromptConfig.__dataclass_fields__
    return json.loads(json.dumps({key: value for key, value in asdict(config).items() if key in keys}))


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of all that decides token ids: vocabulary, merges, rules, chat template and special tokens; not its name."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    for passing in ("version", "truncation", "padding"):  # the latter two are those of the last call
        rules.pop(passing, None)
    return json_digest([rules, json.dumps(tokenizer.chat_template, sort_keys=True), sorted(tokenizer.all_special_ids),
                        tokenizer.eos_token_id, tokenizer.bos_token])


def again(source: Path, packed: Path, llm: str) -> str:
    """The command that packs a directory, for messages."""
    return remedy_command("data_dir.sh", "pack", "--llm", llm, source, packed)


def _size_and_date(file: Path) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns
