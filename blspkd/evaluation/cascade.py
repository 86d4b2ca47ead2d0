"""The cascade, what an end-to-end model has to beat: a recogniser transcribes, the LLM reads the transcript.

The transcripts of a set are a folder with a Kaldi `text`, as `bin/transcribe` writes it, or any other recogniser. The
LLM is the one of a trained model, or one by itself: then a small `config.yaml` in the experiment's folder tells scoring
what was decoded there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from blspkd.config import ModelConfig
from blspkd.errors import ConfigError, DataError
from blspkd.evaluation.transcript_style import RULES, TranscriptStyle
from blspkd.evaluation_config import DecodeConfig
from blspkd.files import atomic_write, contents_digests
from blspkd.kaldi.tables import read_table

NO_ADAPTER = "none"  # in config.yaml: an LLM by itself


def transcripts_dir(pattern: str, set_name: str) -> Path:
    """The folder of one set's transcripts: `pattern` with {set} replaced."""
    return Path(pattern.replace("{set}", set_name))


@dataclass(frozen=True)
class Recognised:
    """What the cascade reads of one set; without the system "cascade" nothing."""

    texts: dict[str, str]  # utt_id -> the recogniser's transcript, in the style that it is given
    files: dict[str, object]  # digests of the files that they come from

    @classmethod
    def read(cls, config: DecodeConfig, set_name: str, utt_ids: Iterable[str]) -> "Recognised":
        """For each of `utt_ids`; raises DataError as `read_transcripts` does."""
        if "cascade" not in config.systems:
            return cls({}, {})
        folder = transcripts_dir(config.transcripts, set_name)
        texts, files = read_transcripts(folder, utt_ids), {"recognised": contents_digests([folder / "text"])}
        if config.transcript_style:
            trained = Path(config.transcript_style) / "text"
            texts = TranscriptStyle.of(read_table(trained, allow_empty=True).values()).restyle(texts)
            files["style"] = [RULES, contents_digests([trained])]
        return cls(texts, files)


def read_transcripts(folder: Path, utt_ids: Iterable[str]) -> dict[str, str]:
    """What the recogniser wrote for each of `utt_ids`; "" where it wrote nothing (the id alone on its line).

    Raises DataError where the file or an utterance's line is missing.
    """
    path = folder / "text"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: missing; transcribe the set first (stage 4 with --reads), or correct "
                        "`transcripts`") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); transcribe the set again") from None
    found = {key: text.strip() for key, _, text in (line.replace("\t", " ").partition(" ") for line in lines)}
    missing = [utt_id for utt_id in utt_ids if utt_id not in found]
    if missing:
        raise DataError(f"{path}: {len(missing)} utterances have no line, the first is {missing[0]}; transcribe the "
                        "set again (one without words has its id alone on the line)")
    return {utt_id: found[utt_id] for utt_id in utt_ids}


def describe_experiment(exp_dir: str | Path, system: str, model: ModelConfig) -> None:
    """Write `exp_dir/config.yaml` for an LLM by itself; `system` names the cascade in results.json.

    Raises ConfigError in the folder of a trained model, and for the name of a system that listens.
    """
    if system != "text" and not system.startswith("cascade"):
        raise ConfigError(f"system: '{system}' is not text, cascade or cascade-<name>")
    path = Path(exp_dir) / "config.yaml"
    values = {"system": system, "training": {"seed": None}, "model": {"llm": model.llm, "dtype": model.dtype,
                                                                      "adapter": NO_ADAPTER}}
    if path.is_file():
        there = yaml.safe_load(path.read_text(encoding="utf-8"))
        if there == values:
            return
        if there.get("model", {}).get("adapter") != NO_ADAPTER:
            raise ConfigError(f"exp_dir: {exp_dir} is the folder of a trained model; choose another one for {system}")
    with atomic_write(path) as file:
        yaml.safe_dump(values, file, sort_keys=False)
