"""CTC over the LLM's vocabulary on the frames of the speech encoder (CTC meets optimal transport, arXiv 2301.11716).

It pre-trains an encoder that is trained. There the labels are phonemes; here they are the LLM's tokens. The head can
start from a recogniser's own, whose classes are LLM tokens too (egs/mini: exp/base/recogniser/ctc_head.safetensors).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from blspkd.errors import ModelError
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.token_counter import TokenCounter, ctc_loss, frames_needed
from blspkd.training.terms.term import Step, Term, TermSums


class EncoderCtc(Term):
    """CTC's loss per token, the mean over utterances; 0 where a transcript has too many tokens for its frames."""

    needs = frozenset({"encoder"})
    reports = ("encoder_ctc_skipped",)  # utterances of too few frames

    @dataclass
    class Options(Term.Options):
        head: str = ""  # ctc_head.safetensors of a recogniser to start from; empty: a new one

    @classmethod
    def teaches(cls, options: Options) -> bool:
        return True

    def __init__(self, options: Options, model: SpeechLlm):
        super().__init__(options, model)
        self.head = TokenCounter(model.encoder.width, len(model.embedding_table))  # class 1 + id for every token
        if options.head:
            start_from_head(self.head, Path(options.head))

    def forward(self, step: Step) -> TermSums:
        (frames, lengths), n_tokens = step.frames, step.batch.n_tokens
        logits = self.head(frames.to(self.head.weight.dtype))  # [B, T, V + 1]
        losses = ctc_loss(logits, lengths, step.input_ids, n_tokens)  # [B]
        too_short = frames_needed([example.input for example in step.batch.examples]) > lengths
        return TermSums(losses.sum(), (too_short.sum().to(losses.device),))


@torch.no_grad()
def start_from_head(head: TokenCounter, path: Path) -> None:
    """Load a recogniser's head: `weight` and `bias` of blank and classes, and in its metadata the token of each class.

    Tokens that it does not know start without weights and with its lowest bias. Raises ModelError.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tokens = torch.tensor(json.loads(file.metadata()["tokens"]))
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"loss: terms: encoder_ctc: head: {path}: is no CTC head over the LLM's tokens ({error}); "
                         "name the ctc_head.safetensors of a recogniser of stage 1, or leave it empty") from None
    _check(path, head, tokens, weight)
    rows = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + tokens])  # blank first
    head.weight.zero_()
    head.bias.fill_(float(bias.min()))
    head.weight[rows], head.bias[rows] = weight, bias


def _check(path: Path, head: TokenCounter, tokens: Tensor, weight: Tensor) -> None:
    if weight.shape != (1 + len(tokens), head.in_features) or not 0 <= int(tokens.min()) <= int(
            tokens.max()) < head.classes:
        raise ModelError(f"loss: terms: encoder_ctc: head: {path}: has {len(tokens)} tokens up to {int(tokens.max())} "
                         f"and frames of {weight.shape[1]}; the LLM has {head.classes} tokens, and the encoder's "
                         f"frames are of {head.in_features}; name the head of this encoder")
