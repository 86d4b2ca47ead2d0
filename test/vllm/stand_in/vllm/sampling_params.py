"""See __init__.py."""

from dataclasses import dataclass, field
from enum import Enum


class RequestOutputKind(Enum):
    DELTA = 1


@dataclass
class SamplingParams:
    temperature: float
    top_p: float
    seed: int | None
    max_tokens: int
    detokenize: bool
    ignore_eos: bool
    output_kind: RequestOutputKind
    stop_token_ids: list[int] = field(default_factory=list)
