"""What a term of the loss is, and what it can see of a training step."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from blspkd.data.batching import Batch, TokenBatch
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.speech_tokens import SpeechTokens
from blspkd.training.own_length import OtherLength


class Step:
    """One micro-batch as the terms see it: made when first asked for, and never twice.

    The LLM runs only if some term asks for `student`.
    """

    def __init__(self, model: SpeechLlm, batch: Batch, other_length: OtherLength | None = None):
        """other_length: numbers of speech tokens in the place of the transcripts'."""
        self.model, self.batch, self.other_length = model, batch, other_length

    @property
    def aligned(self) -> bool:
        """Whether there is a speech token for every token of the transcript, where the adapter is one that aligns."""
        return self.other_length is None

    @cached_property
    def frames(self) -> tuple[Tensor, Tensor]:
        """Frames of the speech encoder [B, T, C] and their lengths [B], on the CPU."""
        batch = self.batch
        if batch.encoded:
            return batch.features, batch.feature_lengths
        return self.model.encode(batch.features, batch.feature_lengths, batch.windows)

    @cached_property
    def speech(self) -> SpeechTokens:
        """What the adapter makes of them, told how many tokens the transcripts have, if it is not another number."""
        if self.other_length is None:
            return self.model.adapt(*self.frames, self.batch.n_tokens, ids=self.input_ids)
        return self.model.adapt(*self.frames, self.other_length.n_tokens, reach=0)

    @cached_property
    def sequences(self) -> TokenBatch:
        """The student's layout: the teacher's, unless the number of speech tokens is another one."""
        return self.model.student_sequences(self.batch, self.speech)

    @cached_property
    def student(self) -> Tensor:
        """The LLM's last hidden states where it reads speech [B * L, D]."""
        return self.model.student_states(self.sequences, self.speech).flatten(0, 1)

    @cached_property
    def responses(self) -> Tensor:
        """The LLM's states that predict the responses' tokens, one response behind the other [M, D]."""
        return self.student.index_select(0, self.sequences.positions(True, False).to(
            self.student.device, non_blocking=True))

    @cached_property
    def response_ids(self) -> Tensor:
        """The responses' tokens [M]."""
        return self.batch.sequences.ids_at(self.batch.sequences.response_mask)

    @cached_property
    def input_ids(self) -> Tensor:
        """The transcripts' tokens, one behind the other [sum of n_tokens]."""
        return self.batch.sequences.ids_at(self.batch.sequences.input_mask)

    @cached_property
    def text_embeddings(self) -> Tensor:
        """Their embeddings in the LLM [sum of n_tokens, D]."""
        return self.model.causal_lm.get_input_embeddings()(self.input_ids)

    @cached_property
    def negatives(self) -> tuple[Tensor, Tensor]:
        """Another utterance's tokens for each, one behind the other, and their numbers [B], on the CPU.

        0 where none was found that says something else. Only for terms with `negatives`.
        """
        drawn = [example.negative for example in self.batch.examples]
        ids = np.concatenate([np.zeros(0, dtype=np.int64), *(ids for ids in drawn if ids is not None)])
        lengths = torch.tensor([0 if ids is None else len(ids) for ids in drawn])
        return torch.from_numpy(ids).to(self.input_ids.device, non_blocking=True), lengths


@dataclass
class TermSums:
    """What a term found in one micro-batch: sums, so that micro-batches and ranks add up."""

    loss: Tensor  # scalar, with gradient
    details: tuple[Tensor, ...] = ()  # scalars, one for each of `Term.reports`


class Term(nn.Module):
    """Base of all terms: loss = weight * sum / number of `unit`. A new one is a file here and a line in `TERMS`.

    Its parameters, if it has any, are trained, saved and resumed with the adapter's.
    """

    @dataclass
    class Options:
        weight: float = 1.0  # 0: without this term

    unit: ClassVar[str] = "utterances"  # or input, response: of what the mean is (see `Denominators`)
    # of what adapters give (models/adapters/adapter.py); `llm`: it has to run; `encoder`: it has to be trained
    needs: ClassVar[frozenset[str]] = frozenset()
    reports: ClassVar[tuple[str, ...]] = ()  # names of further sums that are logged, means over the same unit
    # it changes the response's cross-entropy by R and `is_bad` of the examples, see `ce_factors`; those of the
    # validation set have neither, so that it is not measured there
    scored: ClassVar[bool] = False

    def __init_subclass__(cls):
        if not issubclass(cls.Options, Term.Options):
            raise TypeError(f"{cls.__name__}.Options: derive them from Term.Options, which have the weight")

    def __init__(self, options: Options, model: SpeechLlm):
        """options: of the type `Options`; model: for the sizes of what the term adds."""
        super().__init__()
        self.weight = options.weight
        self.negatives = False  # whether it asks for `Step.negatives`

    @classmethod
    def needs_with(cls, options: Options) -> frozenset[str]:
        """`needs`, of a term in which they follow from the options."""
        return cls.needs

    @classmethod
    def runs_llm(cls, options: Options) -> bool:
        """Whether it has the LLM read what no other term asks for, and not in every batch."""
        return False

    @classmethod
    def teaches(cls, options: Options) -> bool:
        """Whether it can teach without the LLM and other terms: it says what tokens or frames are to be like."""
        return "aligned" in cls.needs_with(options)

    def ce_factors(self, step: Step) -> Tensor | None:
        """Factors of the cross-entropy at the positions of all responses [M], without gradient; None: all 1."""
        return None

    def forward(self, step: Step) -> TermSums:
        """The sums of one micro-batch, the loss without its weight."""
        raise TypeError(f"{type(self).__name__} computes nothing")
