"""Stage 5: which systems are compared, and which runs that takes.

A system is a file conf/compare/<name>.yaml. A training configuration makes a system that listens; it is trained once
per seed, in exp/compare_<budget>/<name>-seed<k>. A file with the key `reads` makes a system that reads:
`reads: transcript` is the upper bound, `reads: <recogniser>` a cascade; both live in exp/compare_<budget>/<name>.
A file with the key `of` makes a system that is another one's trained models, decoded otherwise:

    system: blspkd+beams
    of: blspkd
    inference: {num_beams: 4}

With `phase: align` the models are those after the first of two phases (training/phases.py).
With `merge: {none: 0.5}` or `merge: {blspkd+plora: 0.3}` it is those models merged with another's of the same seed.
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blspkd.config import TrainConfig
from blspkd.config_file import from_dict, load_config, names_in
from blspkd.data.operations import make_operations
from blspkd.errors import ConfigError
from blspkd.evaluation.typed import needs_typed
from blspkd.evaluation_config import BudgetConfig, CompareConfig, DecodeConfig, OtherwiseConfig, ReaderConfig

TRANSCRIPT = "transcript"
NONE = "none"  # in `merge`: the base models as they are, see models/merging.py
SNAPSHOTS = (8, 4, 2)  # after an eighth, a quarter and a half of all steps
DECODING = ("num_beams", "do_sample", "temperature", "top_p", "seed", "max_new_tokens", "batch_size", "batch_seconds",
            "snap", "recount", "recount_by", "recount_weight", "count", "hears", "tags")
OF_SPEECH = ("snap", "recount", "recount_by", "recount_weight", "count", "hears")  # nothing of it for who reads


@dataclass(frozen=True)
class Run:
    """One system with one seed; its folder below exp/compare_<budget> bears its name."""

    name: str
    system: str
    config: Path
    seed: int | None  # None: nothing is trained
    reads: str = ""  # "transcript", a recogniser, or empty: it listens
    max_steps: int = 0
    snapshots: tuple[int, ...] = ()  # steps after which it is measured too
    chance: bool = False  # it hears other utterances too
    trains_llm: bool = False  # what it makes of typed text may have changed
    of: str = ""  # the run, or RUN/align, whose trained model it decodes otherwise; empty: it has its own, or none
    beside: str = ""  # the run, of the system that it names as `of`, whose answers its own are held against
    inference: str = ""  # how: words of a command line, "--num_beams 4"
    merge: str = ""  # runs whose models are merged, and their weights: "blspkd+lora-seed0=0.5 none=0.5"

    @property
    def decoded_as(self) -> str:
        """The system of `decode_dir` under which its answers lie."""
        return "speech" if not self.reads else "text" if self.reads == TRANSCRIPT else "cascade"


def plan(config: CompareConfig, budget: str, conf_dir: str | Path, overrides: Sequence[str] = (),
         check: Callable[[TrainConfig, Path], object] = lambda training, path: None) -> list[Run]:
    """All runs, seed by seed, the reference system's first; `overrides` are of every training (--key value).

    A comparison that is stopped early has then run the first seed of every system. Runs that decode the models of
    others come after all of those. check(configuration, its file) is asked about every training.
    Raises ConfigError for a budget or system that is not there, and for any system's configuration that would not do.
    """
    if budget not in config.budgets:
        raise ConfigError(f"compare_budget: there is no '{budget}'; known: {', '.join(config.budgets)}")
    limit, config = config.budgets[budget], config.of_budget(budget)
    runs: list[Run] = []
    otherwise: dict[str, OtherwiseConfig] = {}
    for name in sorted(config.systems, key=lambda name: name != config.reference):
        path = Path(conf_dir) / f"{name}.yaml"
        if not path.is_file():
            raise ConfigError(f"{path}: not there, but the comparison names the system '{name}'")
        if "reads" in names_in(path):
            reader = load_config(ReaderConfig, path)
            _check_name(path, reader.system, name)
            allowed = [key for key in DECODING if key not in (*OF_SPEECH, "tags")]
            _check_inference(path, reader.inference, (*allowed, "transcript_style"))
            if name == config.chance:
                raise ConfigError(f"chance: '{name}' reads; name a system that listens, which will hear other "
                                  "utterances")
            recogniser = Path(reader.reads)
            if len(recogniser.parts) > 1 and recogniser.parent.is_dir() and not recogniser.is_dir():
                raise ConfigError(f"{path}: reads: there is no recogniser {recogniser}, though its folder is there")
            runs.append(Run(name, name, path, None, reader.reads, inference=_words(reader.inference)))
            continue
        if "of" in names_in(path):
            otherwise[name] = _read_otherwise(path, name)
            if name == config.chance:
                raise ConfigError(f"chance: '{name}' is a system decoded otherwise; name one that is trained")
            continue
        training = load_config(TrainConfig, path, list(overrides))
        check(training, path)
        make_operations(training.data.operations, str(path))
        _check_name(path, training.system, name)
        steps = limit.max_steps or training.training.max_steps
        for seed in range(min(config.systems[name], limit.max_seeds or config.systems[name])):
            runs.append(Run(f"{name}-seed{seed}", name, path, seed, max_steps=steps,
                            snapshots=_snapshots(steps) if name in config.snapshots and seed == 0 else (),
                            chance=name == config.chance and seed == 0, trains_llm=training.model.plora_rank > 0))
    for name in otherwise:
        runs += _decoded_otherwise(name, otherwise, runs, config, limit, Path(conf_dir) / f"{name}.yaml", overrides)
    return sorted(runs, key=lambda run: (bool(run.of), run.seed or 0))


def _read_otherwise(path: Path, name: str) -> OtherwiseConfig:
    config = load_config(OtherwiseConfig, path)
    _check_name(path, config.system, name)
    _check_inference(path, config.inference, DECODING)
    return config


def _check_inference(path: Path, inference: Mapping[str, object], allowed: Sequence[str]) -> None:
    for key in inference:
        if key not in allowed:
            raise ConfigError(f"{path}: inference: '{key}' is none of what may differ: {', '.join(allowed)}")
    from_dict(DecodeConfig, dict(inference), f"{path}: inference")


def _words(inference: Mapping[str, object]) -> str:
    """Options of a command line, quoted as for a shell."""
    return " ".join(shlex.quote(f"--{key}={json.dumps(value) if isinstance(value, bool | dict) else value}")
                    for key, value in inference.items())


def _decoded_otherwise(name: str, otherwise: Mapping[str, OtherwiseConfig], runs: Sequence[Run], config: CompareConfig,
                       limit: BudgetConfig, path: Path, overrides: Sequence[str]) -> list[Run]:
    """A run for every seed of the system that is trained; what a system in between says of decoding holds too."""
    inference, phase, chain = {}, "", [name]
    while chain[-1] in otherwise:
        inference = otherwise[chain[-1]].inference | inference
        phase = phase or otherwise[chain[-1]].phase
        if len(chain) > 1 and otherwise[chain[-1]].merge:
            raise ConfigError(f"{path}: of: '{chain[-1]}' is merged; name the system that was trained")
        chain.append(otherwise[chain[-1]].of)
        if chain[-1] in chain[:-1]:
            raise ConfigError(f"{path}: of: {' -> '.join(chain)} leads back to itself")
    trained = [run for run in runs if run.system == chain[-1] and not run.reads]
    if not trained:
        what = "reads; name one that listens" if chain[-1] in config.systems else (
            f"is not one of the systems of this budget: {', '.join(config.systems)}")
        raise ConfigError(f"{path}: of: '{chain[-1]}' {what}")
    training = load_config(TrainConfig, trained[0].config, list(overrides))
    if phase and not training.align:
        raise ConfigError(f"{path}: phase: {phase}: '{chain[-1]}' is trained in one phase, without 'align:'")
    counted = inference.get("count", "model") != "model"
    if inference.get("snap") in ("hard", "soft") or inference.get("recount", 0) > 0 or counted:
        from blspkd.models.adapters import adapter_gives  # takes seconds to import

        if "aligned" not in adapter_gives(training.model):
            raise ConfigError(f"{path}: inference: snap, recount and count: the tokens of '{chain[-1]}' stand for no "
                              "text tokens")
    seeds = min(config.systems[name], limit.max_seeds or config.systems[name])
    if seeds > len(trained):
        raise ConfigError(f"systems: {name}: {seeds} seeds, but '{chain[-1]}', whose models it decodes, has "
                          f"{len(trained)}")
    named = min(config.systems[chain[1]], limit.max_seeds or config.systems[chain[1]])  # seeds of what `of` names
    found = []
    for run in trained[:seeds]:
        of = "/".join(filter(None, [run.name, phase]))
        beside = f"{chain[1]}-seed{run.seed}" if run.seed < named else ""
        merged = _merged_runs(run, otherwise[name].merge, runs, path)
        words = [f"{of if other is run else other.name if other else NONE}={weight:.9g}" for other, weight in merged]
        found.append(Run(f"{name}-seed{run.seed}", name, path, run.seed, of=of, beside=beside,
                         inference=_words(inference), merge=" ".join(words),
                         trains_llm=any(other.trains_llm for other, _ in merged if other)))
    return found


def _merged_runs(run: Run, merge: Mapping[str, float], runs: Sequence[Run], path: Path
                 ) -> list[tuple[Run | None, float]]:
    """The runs whose models are merged, `run` first, and their weights; None: the base models as they are."""
    if not merge:
        return []
    merged: list[tuple[Run | None, float]] = [(run, max(0.0, 1 - sum(merge.values())))]
    for system, weight in merge.items():
        other = [one for one in runs if (one.system, one.seed, one.of) == (system, run.seed, "")]
        if system != NONE and (not other or system == run.system):
            raise ConfigError(f"{path}: merge: '{system}' is no other system of this budget that is trained with seed "
                              f"{run.seed}; name one, or {NONE}")
        merged.append((other[0] if system != NONE else None, weight))
    return merged


def _snapshots(steps: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(steps // part for part in SNAPSHOTS if steps >= part))


def check_typed(runs: Sequence[Run], decoding: DecodeConfig, path: str | Path) -> None:
    """Raises ConfigError where a task measures agreement with typed transcripts, and no run reads them."""
    if decoding.typed or any(run.reads == TRANSCRIPT for run in runs):
        return
    for name, task in decoding.tasks.items():
        if needs_typed(task):
            raise ConfigError(f"{path}: tasks.{name} measures agreement with the answers to typed transcripts, and no "
                              f"system of this budget has `reads: {TRANSCRIPT}`; add one to it")


def finished_runs(runs: Sequence[Run], folder: str | Path) -> list[Run]:
    """Those that have results."""
    return [run for run in runs if (Path(folder) / run.name / "results.json").is_file()]


def strangers(runs: Sequence[Run], folder: str | Path) -> list[str]:
    """Folders beside the runs that are none of them."""
    known = {"log", *(run.name for run in runs)}
    return sorted(path.name for path in Path(folder).glob("[!.]*/") if path.name not in known)


def _check_name(path: Path, system: str, name: str) -> None:
    if system != name:
        raise ConfigError(f"{path}: system: '{system}' is not the file's name; write '{name}'")
