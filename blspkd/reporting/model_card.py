"""The model card of a trained model for the Hugging Face hub: what it is, how it is used, and what was measured.

Everything in it is read from the model's folder and what stage 4 left beside it; the metadata at its top have the very
numbers of results.json.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from blspkd import __version__
from blspkd.config import PromptConfig
from blspkd.errors import ModelError
from blspkd.evaluation.results import Row, read_results, whole_tasks
from blspkd.evaluation.scorers import COUNTS, SCORERS
from blspkd.models.base_records import BASES, BaseModel, BaseModels
from blspkd.models.model_folder import SpeechLlmConfig, base_folder, locate_base_model, read_config
from blspkd.reporting.pages import render
from blspkd.reporting.tables import TYPED, markdown_tasks, metric_label

RESULTS = "results.json"
TASK_TYPE = "audio-text-to-text"  # the hub's name for it
REFERENCES = ("text", "chance", "cascade")  # systems in results.json that are not the model
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_LICENCES = {"apache license": "apache-2.0", "mit license": "mit", "bsd 3-clause": "bsd-3-clause",
             "gnu general public license": "gpl", "llama": "llama"}  # how the text begins -> the hub's name


@dataclass(frozen=True)
class Base:
    """A base model."""

    name: str  # its id on the hub, or its folder's name
    public: bool  # whether it is on the hub
    licence: str  # the hub's name for it; "": not known


def write_card(folder: str | Path, repo: str = "") -> str:
    """The card of the trained model in `folder`, for the repository `repo`. Raises ModelError and ConfigError."""
    folder = Path(folder)
    saved = read_config(folder)
    bases = {key: _base(folder, saved, key) for key in BASES}
    path = results_of(folder)
    rows = whole_tasks(read_results(path)) if path else []
    name = repo.rpartition("/")[2] or (folder.resolve().parent.name if folder.name == "model" else folder.name)
    metadata = _metadata(name, bases.values(), [row for row in rows if _is_own(folder, row)])
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=1000)
    body = render("model_card.md", title=name, llm=bases["llm"], encoder=bases["speech_encoder"], model=saved.model,
                  version=__version__, example=example(repo or str(folder), saved.prompt),
                  results=markdown_tasks(rows), data_licences=_data_licences(folder))
    return f"---\n{front}---\n\n{body}\n"


def example(name: str, prompt: PromptConfig) -> str:
    """Lines of Python that run as they are, where there is a recording speech.wav; `prompt` is the training's."""
    text = [f'    {{"type": "text", "text": {prompt.instruction!r}}},'] if prompt.instruction.strip() else []
    audio = ['    {"type": "audio", "audio": "speech.wav"},']
    parts = text + audio if prompt.speech_position == "after" else audio + text
    return "\n".join(["from blspkd import SpeechLLM", "", f"model = SpeechLLM.from_pretrained({name!r})",
                      'reply = model.chat([{"role": "user", "content": [', *parts, "]}])", "print(reply.text)"])


def results_of(folder: Path) -> Path | None:
    """results.json in the model's folder (it was pushed with it) or beside it (stage 4 wrote it)."""
    return next((path for path in (folder / RESULTS, folder.resolve().parent / RESULTS) if path.is_file()), None)


def _metadata(name: str, bases: Iterable[Base], rows: list[Row]) -> dict:
    """The card's front matter."""
    bases = list(bases)
    licences = {base.licence for base in bases}
    metadata: dict = {"library_name": "blspkd", "pipeline_tag": TASK_TYPE,
                      "tags": ["blspkd", "speech", "speech-llm", "arxiv:2405.19041"]}
    if "" not in licences:  # nothing is claimed about a model whose licence is not known
        metadata |= ({"license": licences.pop()} if len(licences) == 1 else
                     {"license": "other", "license_name": "those-of-the-base-models"})
    public = [base.name for base in bases if base.public]
    if public:
        metadata["base_model"] = public
    measured = [row for row in rows if row.metric in SCORERS or row.metric in COUNTS]
    if measured:
        metadata["metrics"] = list(dict.fromkeys(row.metric for row in measured))
        metadata["model-index"] = [{"name": name, "results": _model_index(measured)}]
    return metadata


def _model_index(rows: list[Row]) -> list[dict]:
    """One entry for each task and set, with all that was measured there."""
    by_set: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        by_set.setdefault((row.task, row.set), []).append(
            {"type": row.metric, "name": metric_label(row.metric), "value": row.value})
    return [{"task": {"type": TASK_TYPE, "name": task}, "dataset": {"type": name, "name": name}, "metrics": metrics}
            for (task, name), metrics in by_set.items()]


def _is_own(folder: Path, row: Row) -> bool:
    """Whether a row of results.json is about the model itself: of the system that the training's config.yaml names."""
    path = folder.resolve().parent / "config.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    if isinstance(values, dict) and "system" in values:
        return row.system == str(values["system"])
    return row.system.partition("-")[0] not in REFERENCES and not row.system.endswith(TYPED)


def _base(folder: Path, saved: SpeechLlmConfig, key: str) -> Base:
    record = getattr(BaseModels.read(folder), key)
    said = getattr(saved.model, key)
    public = bool(record.id) or not record.path and not Path(said).exists()
    try:
        place = base_folder(locate_base_model(folder, saved.model, key), download=False)
    except ModelError:  # the card can be written without it
        place = None
    licence = "" if place is None else licence_in(place)
    if not licence and record.id:
        licence = _licence_on_hub(record)
    return Base(record.id or (said if public else Path(said).name), public, licence)


def _licence_on_hub(record: BaseModel) -> str:
    """What the model's card says there; "" where it cannot be had."""
    from huggingface_hub import hf_hub_download

    with suppress(Exception):  # of many kinds; a card without the licence is better than none
        return licence_in(Path(hf_hub_download(record.id, "README.md", revision=record.revision or None)).parent)
    return ""


def licence_in(folder: Path) -> str:
    """The hub's name of the licence that a model's card or its LICENSE file names; "": it names none that is known."""
    card = folder / "README.md"
    found = _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    try:
        values = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        values = {}
    if isinstance(values, dict) and isinstance(values.get("license"), str):
        return values["license"]
    for path in sorted(folder.glob("LICEN[SC]E*")):
        beginning = path.read_text(encoding="utf-8", errors="replace")[:400].lower()
        for words, name in _LICENCES.items():
            if words in beginning:
                return name
    return ""


def _data_licences(folder: Path) -> list[str]:
    """What the recipe's LICENCES file, or its README, says about the licences of its data."""
    parents = folder.resolve().parents  # exp/<tag>, exp, the recipe
    if len(parents) < 3 or not (parents[2] / "run.sh").is_file():
        return []
    whole = sorted(parents[2].glob("LICEN[SC]ES*"))
    texts = whole or sorted(parents[2].glob("README.md"))
    lines = [line.strip(" -*#") for path in texts for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and (whole or re.search("licen[sc]e", line, re.IGNORECASE))]
