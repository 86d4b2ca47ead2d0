"""What every adapter is: frames of the speech encoder in, speech tokens for the LLM out.

What an adapter gives beyond its tokens is said by names, and whoever needs it asks for the name, never for an adapter:

- `aligned`: as many speech tokens as the transcript has tokens, where it is told how many (`n_tokens`);
  `SpeechTokens.n_predicted` is its own opinion
- `alpha`: firing weights and fire times (CIF)
- `ctc`: logits of a token counter, which a term of the loss has to train
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from blspkd.errors import ConfigError
from blspkd.models.speech_tokens import SpeechTokens

TRAINED_BY_TERMS = frozenset({"ctc"})  # heads that the LLM never reads: only a term of the loss teaches them


@dataclass(frozen=True)
class Sides:
    """What lies on both sides of an adapter."""

    encoder_width: int  # C
    llm_width: int  # D
    embedding_rms: float  # of the embeddings that the LLM reads text with
    vocabulary: int = 0  # V, of those embeddings
    attn_implementation: str = "sdpa"


def check_at_least(options, lowest: int, *names: str) -> None:
    """Raises ConfigError for an option that is below `lowest`."""
    for name in names:
        if getattr(options, name) < lowest:
            raise ConfigError(f"{name}: {getattr(options, name)} is below {lowest}")


class Adapter(nn.Module):
    """Base of all adapters. A new one is a file here and a line in `ADAPTERS`."""

    @dataclass
    class Options:
        """In YAML `model.adapter_options`; an adapter with options has a dataclass of its own in this place."""

    free: ClassVar[frozenset[str]] = frozenset()  # options that may differ where trained weights are used again

    def __init__(self, options, sides: Sides):
        """options: of the type `Options`. Raises ConfigError where they do not fit `sides`."""
        super().__init__()
        self.gives_now = self.gives(options)

    @classmethod
    def gives(cls, options) -> frozenset[str]:
        """Names of what it gives with these options, see above."""
        raise TypeError(f"{cls.__name__} does not say what it gives")

    @property
    def reads(self) -> frozenset[str]:
        """What else `forward` takes, by name.

        ids:        the transcripts' token ids [sum of n_tokens], in training with the transcripts' n_tokens, else None
        embeddings: what the LLM reads text tokens as [V, D]
        """
        return frozenset()

    @property
    def aligned(self) -> bool:
        return "aligned" in self.gives_now

    def count_as(self, how: str) -> None:
        """Decide on numbers of tokens as `how` says, in the place of what the options say. Raises ConfigError."""
        raise ConfigError(f"count: {how}: this adapter counts no text tokens in that way; leave it at model")

    def forward(self, frames: Tensor, lengths: Tensor, n_tokens: Tensor | None = None) -> SpeechTokens:
        """Frames [B, T, C], zero on padding, with lengths [B] on the CPU -> tokens [B, N, D].

        n_tokens [B], on the CPU: the transcripts' token counts, in training; None lets the adapter decide.
        """
        raise TypeError(f"{type(self).__name__} does not listen")
