"""A training run's folder, exp/<tag>: its configuration, and the prompt that it inherits from stage 2."""

import json
from collections.abc import Container, Iterable
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from blspkd.config import PromptConfig, TrainConfig, TrainingConfig
from blspkd.config_file import from_dict, load_config, save_config, to_dict
from blspkd.errors import ConfigError, DataError
from blspkd.files import atomic_write
from blspkd.kaldi.sampling import written_for
from blspkd.model_files import file_digest
from blspkd.models.adapters import adapter_options
from blspkd.training.checkpoint import Split, begun_with
from blspkd.training.phases import alignment_of
from blspkd.training.terms import TERMS, resolved_terms, term_options

# Keys that may change between a run's start and its continuation: they change no result. gradient_accumulation may
# change together with the number of ranks, and does so by itself (`split_of`).
_FREE_KEYS = {"data.num_workers", "training.log_steps", "training.keep_checkpoints", "training.cache_dir",
              "loss.chunk_mib", "training.most_positions", "training.hang_minutes", "training.gradient_accumulation",
              "model.recount", "model.recount_by", "model.recount_weight", "training.shard_llm"}

OPERATIONS = "operations.json"
INIT = "init.json"  # digests of the weights of training.init_from and init_ctc_head


def resolved(config: TrainConfig, where: str | Path | None = None) -> TrainConfig:
    """The same with the defaults of its adapter and loss terms filled in; loads no model.

    Raises ConfigError, which names `where`, for options that these do not have or that do not fit each other.
    """
    try:
        if first := alignment_of(config):
            resolved(first, "align")
        model = replace(config.model, adapter_options=asdict(adapter_options(config.model)))
        _check_marks(config)
        return replace(config, model=model, loss=replace(config.loss, terms=resolved_terms(config.loss, model)))
    except ConfigError as error:
        raise ConfigError(f"{where or 'options'}: {error}") from None


def _check_marks(config: TrainConfig) -> None:
    """Terms that go by scores need a data operation that marks the examples. Raises ConfigError."""
    scored = [name for name in term_options(config.loss, config.model) if TERMS[name].scored]
    marked = any(entry.get("name") == "prefer" and entry.get("mode") == "mark" for entry in config.data.operations
                 if isinstance(entry, dict))
    if scored and not marked:
        raise ConfigError(f"loss: terms: {scored[0]}: needs to know which examples are good; add {{name: prefer, mode: "
                          "mark} to data.operations, or set its weight to 0")


def prompt_of(data_dir: str | Path, llm: str, needed: bool = True) -> PromptConfig:
    """The prompt under which stage 2 wrote `data_dir`/continuation; the same LLM must read it now.

    Raises DataError where stage 2 has not run and it is `needed`, ConfigError for another LLM.
    """
    path = Path(data_dir) / "continuation.info.json"
    if not needed and not path.exists():
        return PromptConfig()
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        prompt = from_dict(PromptConfig, info["prompt"], str(path))
    except OSError:
        raise DataError(f"{path}: not there; write the continuations first (stage 2)") from None
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: damaged ({error}); remove it and run stage 2 again") from None
    if info.get("model") != llm:
        raise ConfigError(f"{path}: these continuations were written by {info.get('model')}, and the LLM to train with "
                          f"is {llm}; distillation needs the LLM's own continuations: run stage 2 with --llm {llm}")
    return prompt


def check_continuations(data_dir: str | Path, utt_ids: Iterable[str], written: Container[str]) -> None:
    """Make sure that `data_dir`/continuation holds all that stage 2 wrote for these utterances.

    What the filters dropped stands in continuation.info.json; one that was made by hand may say nothing of counts.
    Raises DataError for a file that was cut or damaged since.
    """
    info = json.loads((Path(data_dir) / "continuation.info.json").read_text(encoding="utf-8"))
    if "counts" not in info:
        return
    utt_ids = written_for(dict.fromkeys(utt_ids), info.get("generation") or {})
    dropped = {utt_id for names in (info.get("filtered") or {}).values() for utt_id in names}
    lost = [utt_id for utt_id in utt_ids if utt_id not in written and utt_id not in dropped]
    if lost:
        raise DataError(f"{data_dir}/continuation: lacks {len(lost)} utterances that were not filtered out: "
                        f"{' '.join(lost[:5])}{' ...' * (len(lost) > 5)}; remove this file and run stage 2 again")


def check_unchanged(config: TrainConfig, folder: str | Path, num_ranks: int) -> None:
    """Make sure that a run that began in exp/<tag> began with this configuration. Raises ConfigError.

    The ranks may change as long as they can share as many batches as before: a step consists of the very same ones.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        return
    before, now = (_in_force(resolved(c, path)) for c in (load_config(TrainConfig, path), config))
    free = _FREE_KEYS if config.loss.distils else _FREE_KEYS | {"model.snap"}  # it is the LLM that reads snapped tokens
    changed = [f"{key} was {before.get(key, 'not there')} and is now {now.get(key, 'not there')}"
               for key in {**now, **before}
               if key not in free and (key in before, before.get(key)) != (key in now, now.get(key))]
    if changed:
        raise ConfigError(f"{path}: this run began with other options ({'; '.join(changed)}); choose another --tag, or "
                          f"remove {folder} to start anew")
    before, now = begun_with(folder), split_of(config, folder, num_ranks)
    if before and before.num_ranks != num_ranks and config.training.deepspeed:
        raise ConfigError(f"{folder}: this run began with {before}, and now there would be {now}: DeepSpeed's "
                          f"checkpoints are only for the same number of ranks; start it with {before.num_ranks} again")
    check_start(config, Path(folder))


def split_of(config: TrainConfig, folder: str | Path, num_ranks: int) -> Split:
    """How `num_ranks` ranks share the batches of a step, of which there are as many as when the run in `folder` began.

    Where only the number of ranks has changed since, the accumulation is adapted. Raises ConfigError where the batches
    cannot be shared alike, or gradient_accumulation is neither what it was nor what it has to be.
    """
    begun, asked = begun_with(folder), Split(num_ranks, config.training.gradient_accumulation)
    if begun is None or begun.batches_per_step == asked.batches_per_step:
        return asked
    accumulation, left = divmod(begun.batches_per_step, num_ranks)
    if left or asked.accumulation != begun.accumulation or asked.num_ranks == begun.num_ranks:
        raise ConfigError(f"{folder}: this run began with {begun}, and now there would be {asked}: it would go on with "
                          f"other batches; set ranks and gradient_accumulation so that their product is "
                          f"{begun.batches_per_step} again, choose another --tag, or remove {folder} to start anew")
    return Split(num_ranks, accumulation)


def record_start(config: TrainConfig, folder: str | Path) -> None:
    """Write what the run in exp/<tag> begins with: `config.yaml`, and digests of trained weights in `init.json`."""
    path, weights = Path(folder) / INIT, _weights(config.training)
    if weights and not path.is_file():
        with atomic_write(path) as file:
            json.dump(weights, file, indent=1)
    save_config(config, Path(folder) / "config.yaml")


def check_start(config: TrainConfig, folder: Path) -> None:
    """Make sure that the weights with which the run began are still the same, if they are still there."""
    now, training = _weights(config.training), config.training
    if now and (folder / INIT).is_file() and json.loads((folder / INIT).read_text(encoding="utf-8")) != now:
        raise ConfigError(f"{folder / INIT}: the weights in {training.init_from or training.init_ctc_head} have "
                          f"changed since this run began with them; choose another --tag, or remove {folder} to start "
                          "anew")


def keep_record(operations: dict, folder: str | Path, write: bool) -> None:
    """Keep what the data operations did in `operations.json` of the run in exp/<tag>.

    Raises DataError where the run began with another result.
    """
    path, begun = Path(folder) / OPERATIONS, (Path(folder) / "config.yaml").is_file()
    before = json.loads(path.read_text(encoding="utf-8")) if begun and path.is_file() else operations
    if before | {"data": operations["data"]} != operations:  # the same directory may be at another place now
        raise DataError(f"{path}: this run began with other examples: a table or the audio of {operations['data']} has "
                        f"changed since; choose another --tag, or remove {folder} to start anew")
    if write:
        with atomic_write(path) as file:
            json.dump(operations, file, indent=1, ensure_ascii=False)


def _weights(training: TrainingConfig) -> dict[str, str]:
    """The files of trained weights that a run starts from, where they are there, and their digests."""
    folder, head = Path(training.init_from), Path(training.init_ctc_head)
    found = sorted(folder.rglob("*.safetensors")) if training.init_from else []
    weights = {path.relative_to(folder).as_posix(): file_digest(path) for path in found}
    return weights | ({"init_ctc_head": file_digest(head)} if head.is_file() else {})


def describe(model: nn.Module) -> str:
    """Parameters by part, trained and in all."""
    parts = []
    for name, part in model.named_children():
        total = sum(p.numel() for p in part.parameters())
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        parts.append(f"{name} {trained / 1e6:.2f}/{total / 1e6:.2f} M")
    return "parameters (trained/all): " + ", ".join(parts)


def _in_force(config: TrainConfig) -> dict:
    """All keys with dots; a term of weight 0 is as one that is not named."""
    return {key: value for key, value in _flat(to_dict(config)).items()
            if value or not (key.startswith("loss.terms.") and key.endswith(".weight"))}


def _flat(values: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
