"""WER and CER: minimal edits (jiwer) in percent of the reference's words or characters."""

from collections.abc import Mapping, Sequence

import numpy as np

from blspkd.evaluation.scorers.scorer import Scorer
from blspkd.evaluation.scorers.texts import folded
from blspkd.evaluation_config import TaskConfig

KINDS = ("substitute", "delete", "insert")  # as jiwer names them


class ErrorRate(Scorer):
    """Columns: errors, units of the reference, substitutions, deletions, insertions, any?, 1."""

    better = "lower"
    parts = {"_sub": (2, 1), "_del": (3, 1), "_ins": (4, 1), "_sent": (5, 6)}
    package = "jiwer"
    characters = False  # the unit; else words

    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        import jiwer

        hypotheses, references = folded(rows, task.normalize)
        process = jiwer.process_characters if self.characters else jiwer.process_words
        output = process(references, hypotheses)
        edits = np.array([[sum(_length(chunk) for chunk in chunks if chunk.type == kind)
                           for kind in KINDS] for chunks in output.alignments], dtype=np.float64)
        errors = edits.sum(axis=1)  # [n], of edits [n, 3]
        units = [len(reference) for reference in output.references]
        return np.column_stack([errors, units, edits, errors > 0, np.ones_like(errors)])


def _length(chunk) -> int:
    """Units of a stretch of one kind of edit."""
    return max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)


class WordErrorRate(ErrorRate):
    label = "WER"


class CharacterErrorRate(ErrorRate):
    """Spaces count."""

    label = "CER"
    characters = True
