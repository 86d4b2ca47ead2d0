"""Data operations: which examples a training hears, how often, and what it is asked; its configuration names them.

    data:
      operations:
      - {name: filter, max_duration: 20, silence_db: -40}

A new one is a file here with a class (see `Operation`) and a line in `OPERATIONS`. They apply to the training set,
not to the validation set. Noise is none of them: `noise.add_noise` writes audio, for a copy of a test set, and what a
training adds to its own audio differs from epoch to epoch (`data.noise_snr_db`).
"""

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from blspkd.config_file import from_dict, nearest
from blspkd.data.operations.filter import Filter
from blspkd.data.operations.mask_speech import MaskSpeech
from blspkd.data.operations.mix import Mix
from blspkd.data.operations.operation import Operation, Report
from blspkd.data.operations.prefer import Prefer
from blspkd.data.operations.tags import TagOperation
from blspkd.errors import ConfigError, DataError
from blspkd.files import text_digest
from blspkd.kaldi.data_dir import KaldiDir

if TYPE_CHECKING:
    from blspkd.data.examples import Example
    from blspkd.data.prompts import Prompt

__all__ = ["OPERATIONS", "Operation", "Report", "apply_operations", "make_operations"]

OPERATIONS: dict[str, type[Operation]] = {"filter": Filter, "mask_speech": MaskSpeech, "mix": Mix, "prefer": Prefer,
                                          "tags": TagOperation}

logger = logging.getLogger(__name__)
_SHOWN = 3  # ids per reason in a log line


def make_operations(entries: list[Any], where: str = "config", prompt: "Prompt | None" = None) -> list[Operation]:
    """The operations that `data.operations` names; raises ConfigError for a name or an option that is not there.

    prompt: needed to apply them, not to check them.
    """
    operations = []
    for number, entry in enumerate(entries, 1):
        place = f"{where}: data.operations, entry {number}"
        if not isinstance(entry, dict) or "name" not in entry:
            raise ConfigError(f"{place}: expected {{name: ..., option: value}}, found {entry!r}")
        name, options = entry["name"], {key: value for key, value in entry.items() if key != "name"}
        if name not in OPERATIONS:
            raise ConfigError(f"{place}: unknown operation '{name}'; {nearest(str(name), set(OPERATIONS))}")
        operation = OPERATIONS[name]
        operations.append(operation(from_dict(operation.Options, options, f"{place}: {name}"), prompt))
    return operations


def apply_operations(entries: list[Any], examples: "list[Example]", data: KaldiDir, seed: int,
                     prompt: "Prompt | None" = None, max_tokens: int | None = None) -> "tuple[list[Example], dict]":
    """Apply the operations in their order, a log line each; returns the examples to train on, and a record for JSON.

    prompt: renders the turns of the examples; max_tokens: examples that an operation makes longer are left out.
    Raises DataError where nothing is left.
    """
    done = []
    for number, (entry, operation) in enumerate(zip(entries, make_operations(entries, prompt=prompt), strict=True)):
        before, (examples, report) = len(examples), operation.apply(examples, data,
                                                                    np.random.default_rng((seed, number)))
        if max_tokens is not None:
            longer = {example.utt_id for example in examples if example.length > max_tokens}
            examples = [example for example in examples if example.utt_id not in longer] if longer else examples
            report = report | {f"longer than {max_tokens} LLM tokens": longer}
        report = {reason: sorted(ids) for reason, ids in report.items() if ids}
        told = [f"{len(ids)} {reason} ({', '.join(ids[:_SHOWN])}{' ...' * (len(ids) > _SHOWN)})"
                for reason, ids in report.items()]
        logger.info("operation %s: %d examples of %d: %s", entry["name"], len(examples), before,
                    "; ".join(told) or "nothing to do")
        if not examples:
            raise DataError(f"{data.path}: operation {entry['name']}: no utterance is left to train on")
        done.append({**entry, "before": before, "after": len(examples), "report": report})
    ids = "\n".join(map(_told, examples))
    return examples, {"data": str(data.path), "operations": done, "examples": text_digest(ids)[:16]}


def _told(example: "Example") -> str:
    """The id of an example, and what operations have put on it."""
    rated = example.utt_id if example.rate == 1 else f"{example.utt_id} {example.rate}"
    marks = [example.tags, example.weight, example.score, example.is_bad]
    return rated if marks == [(), 1.0, None, False] else f"{rated} {marks}"
