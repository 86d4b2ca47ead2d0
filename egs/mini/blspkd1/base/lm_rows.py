"""The LLM's text: `train.jsonl` and `dev.jsonl`, one exchange per line, and how an exchange becomes token ids."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blspkd.data.control_tokens import read_texts
from blspkd.data.prompts import Prompt
from blspkd.errors import DataError

FIELDS = ("task", "instruction", "input", "output")


@dataclass(frozen=True)
class Row:
    """One exchange: the user says `instruction` + newline + `input`, the assistant answers `output`."""

    task: str
    instruction: str
    input: str
    output: str


def read_rows(path: Path) -> list[Row]:
    """Read a .jsonl file. Raises DataError, naming the line, for anything that is not an exchange."""
    rows = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                values = json.loads(line)
                row = Row(*(values[field] for field in FIELDS))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}:{number}: not a row with {', '.join(FIELDS)} ({error!r})") from None
            if not row.input.strip() or not row.output.strip():
                raise DataError(f"{path}:{number}: empty input or output")
            rows.append(row)
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


@dataclass(frozen=True)
class Exchanges:
    """Token ids of all rows, end to end; row r is ids[starts[r]:starts[r + 1]]."""

    ids: np.ndarray  # [all tokens] int32
    starts: np.ndarray  # [rows + 1]
    spans: np.ndarray  # [rows, 3]: where in the row the input begins, the suffix begins, the response begins

    @classmethod
    def encode(cls, rows: list[Row], prompt: Prompt) -> "Exchanges":
        """prefix | input | suffix | response of every row, as `prompt` would give it one by one, but much faster.

        The tokenizer of `train_tokenizer.py` reads a piece of text the same alone and behind a newline or a special
        token, so inputs and outputs can be tokenised in one go.
        """
        pieces, starts, spans = [], [0], []
        for first in range(0, len(rows), 5000):
            block = rows[first:first + 5000]
            inputs = read_texts(prompt.tokenizer, [row.input for row in block])
            outputs = read_texts(prompt.tokenizer, [row.output for row in block])
            for row, input_ids, output_ids in zip(block, inputs, outputs, strict=True):
                prefix, suffix = prompt.around(row.instruction)
                ids = prefix + input_ids + suffix + output_ids + [prompt.end_of_turn]
                spans.append((len(prefix), len(prefix) + len(input_ids), len(prefix) + len(input_ids) + len(suffix)))
                starts.append(starts[-1] + len(ids))
                pieces.append(np.array(ids, dtype=np.int32))
        return cls(np.concatenate(pieces), np.array(starts), np.array(spans))

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def batch(self, rows: np.ndarray, pad: int) -> "ExchangeBatch":
        """The rows [B], padded on the right to a multiple of 8 (every new shape costs the CPU back end time)."""
        lengths = torch.from_numpy(self.lengths[rows])
        spans = torch.from_numpy(self.spans[rows])
        ids = torch.full((len(rows), -(-int(lengths.max()) // 8) * 8), pad)
        for place, row in enumerate(rows):
            ids[place, : lengths[place]] = torch.from_numpy(self.ids[self.starts[row]:self.starts[row + 1]])
        position = torch.arange(ids.shape[1])[None]
        return ExchangeBatch(
            ids=ids,
            is_input=(position >= spans[:, :1]) & (position < spans[:, 1:2]),
            is_response=(position >= spans[:, 2:]) & (position < lengths[:, None]),
            is_real=position < lengths[:, None],
        )


@dataclass(frozen=True)
class ExchangeBatch:
    """ids [B, L] and what each position is, [B, L] boolean."""

    ids: Tensor
    is_input: Tensor
    is_response: Tensor
    is_real: Tensor
