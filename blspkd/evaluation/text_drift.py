"""What training did to the LLM's reading of text: KL(base LLM || trained LLM) where both read transcripts.

Only weights inside the LLM can make a difference: plain LoRA does, PLoRA must give exactly 0 (it is off on text).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from blspkd.config_file import load_config
from blspkd.data.batching import TokenBatch, lay_out
from blspkd.data.examples import Example, make_examples
from blspkd.evaluation.bootstrap import Statistics, ratio
from blspkd.evaluation.measured_set import NO_LIMITS, MeasuredSet
from blspkd.evaluation.results import Row, update_results
from blspkd.evaluation.scoring import Experiment
from blspkd.evaluation.text_vs_speech import PLAIN_KL
from blspkd.evaluation_config import DecodeConfig
from blspkd.losses.distillation import distillation_loss
from blspkd.models.listener import Listener
from blspkd.models.model_folder import SpeechLlmConfig
from blspkd.progress import progress_bar


def trains_llm(model_dir: str | Path) -> bool:
    """Whether this trained model has weights inside its LLM."""
    return load_config(SpeechLlmConfig, Path(model_dir) / "config.yaml").model.plora_rank > 0


@torch.inference_mode()
def measure_text_drift(listener: Listener, data_dir: str | Path, config: DecodeConfig) -> np.ndarray:
    """[utterances, 4]: sum of KL in nats over all positions of transcript and continuation, positions whose most likely
    next token changed, positions, and the largest difference of two hidden states' entries.

    Raises DataError where `data_dir` lacks durations or continuations.
    """
    measured_set = MeasuredSet.read(data_dir, config)
    examples = make_examples(measured_set.data, measured_set.continuations, listener.prompt, NO_LIMITS).examples
    examples.sort(key=lambda example: example.length)
    found = []
    with progress_bar(f"text drift {measured_set.data.path.name}", total=len(examples), unit="utt") as bar:
        for first in range(0, len(examples), config.batch_size):
            batch = examples[first:first + config.batch_size]
            found += _compare(listener, batch)
            bar.update(len(batch))
    return np.array(found)


def _compare(listener: Listener, examples: list[Example]) -> Iterator[tuple[float, float, int, float]]:
    model = listener.model
    sequences: TokenBatch = lay_out(examples, [example.n_tokens for example in examples])
    ids = sequences.ids.to(model.device)
    trained = model.causal_lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
    with model.llm.disable_adapter():
        base = model.causal_lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
    head, bias = model.head
    for row, length in enumerate(sequences.lengths.tolist()):
        student, teacher = trained[row, :length], base[row, :length]
        distilled = distillation_loss(student, teacher, head, student.new_ones(length, dtype=torch.float32),
                                      PLAIN_KL, head_bias=bias)
        yield (float(distilled.divergence.sum()), float((~distilled.agreement).sum()), length,
               float((student - teacher).abs().max()))


def update_drift_results(path: str | Path, found: np.ndarray, experiment: Experiment, set_name: str,
                         config: DecodeConfig) -> list[Row]:
    """Rows of task `text`: `kl_to_base` (nats a position), `changed_top1` (percent), `max_state_diff`."""
    kl, changed, positions, largest = found.T
    rows = []
    for metric, values, scale in ("kl_to_base", kl, 0.01), ("changed_top1", changed, 1.0):
        percent = Statistics(np.column_stack([values, positions]), ratio)
        low, high = percent.interval(config.num_bootstrap, config.seed)
        rows.append(Row(experiment.system, set_name, "text", metric, scale * 100 * values.sum() / positions.sum(),
                        [scale * low, scale * high], len(found), experiment.seed, "all positions|temperature:1"))
    rows.append(Row(experiment.system, set_name, "text", "max_state_diff", largest.max(), [largest.max()] * 2,
                    len(found), experiment.seed, "last hidden states"))
    update_results(path, rows, lambda row: False)
    return rows
