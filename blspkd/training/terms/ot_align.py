"""Optimal transport between speech and text as a term (losses/optimal_transport.py; not in arXiv 2405.19041).

UNITER (arXiv 1909.11740, section 3.2, "word-region alignment"): the cost of moving the speech tokens into the text's
embeddings, which needs no alignment; with `negatives` minus that of another utterance's text. It suits adapters whose
tokens are none of the text's: where they are aligned, the plan costs at most what the diagonal does, so that this is a
weaker form of the embedding loss. CTC meets optimal transport (arXiv 2301.11716): the same on frames of a speech
encoder that is trained, by debiased Sinkhorn divergence, with positions.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from blspkd.errors import ConfigError
from blspkd.losses.optimal_transport import Ground, Points, divergence, ipot, transport_cost
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.terms.term import Step, Term, TermSums

BLUR = {"ipot": 0.5, "sinkhorn": 0.05}  # UNITER's, and that of CTC meets optimal transport
ITERATIONS = {"ipot": 50, "sinkhorn": 20}


class OtAlign(Term):
    """Transport between speech and text, the mean over utterances."""

    reports = ("ot_align_skipped",)  # utterances without the other text that they were to be compared with

    @dataclass
    class Options(Term.Options):
        weight: float = 0.1
        method: Literal["ipot", "sinkhorn"] = "ipot"
        blur: float = 0.0  # ipot: beta; sinkhorn: the root of epsilon, as a distance; 0: 0.5 and 0.05
        iterations: int = 0  # 0: 50 and 20
        cost: Literal["cosine", "euclidean"] = "cosine"  # euclidean: relative to the embeddings' mean squared norm
        positions: float = 0.0  # weight of half the squared difference of relative positions in the cost
        speech: Literal["tokens", "frames"] = "tokens"  # frames: the encoder's, through a linear layer C -> D
        layers: int = 0  # the text: states behind so many layers of the LLM, read without a prompt; 0: embeddings
        negatives: bool = False  # half of (this text - another utterance's), as UNITER's mean over both
        shuffled: bool = False  # a control: another utterance's text in the place of this one's

        def __post_init__(self):
            for name in ("blur", "iterations", "positions", "layers"):
                if not getattr(self, name) >= 0:
                    raise ConfigError(f"{name}: {getattr(self, name)} is below 0")
            if self.negatives and self.shuffled:
                raise ConfigError("negatives, shuffled: the control has no right text to compare another one with; "
                                  "choose one of them")

    @classmethod
    def needs_with(cls, options: Options) -> frozenset[str]:
        return frozenset({"encoder"} if options.speech == "frames" else ()) | ({"llm"} if options.layers else set())

    @classmethod
    def runs_llm(cls, options: Options) -> bool:
        return bool(options.layers)

    @classmethod
    def teaches(cls, options: Options) -> bool:
        return True

    def __init__(self, options: Options, model: SpeechLlm):
        super().__init__(options, model)
        self.options, self.negatives = options, options.negatives or options.shuffled
        self.blur = options.blur or BLUR[options.method]
        self.iterations = options.iterations or ITERATIONS[options.method]
        width = model.embedding_table.shape[1]
        self.ground = Ground(options.cost, width * model.embedding_rms**2, options.positions)
        self.projection = nn.Linear(model.encoder.width, width) if options.speech == "frames" else None
        if options.layers and options.layers > model.causal_lm.config.num_hidden_layers:
            raise ConfigError(f"loss: terms: ot_align: layers: {options.layers}, but the LLM has "
                              f"{model.causal_lm.config.num_hidden_layers}")

    def forward(self, step: Step) -> TermSums:
        own = (step.input_ids, step.batch.n_tokens)
        if not self.negatives:
            loss = self._transport(step, *own)
            return TermSums(loss, (loss.new_zeros(()),))
        other = self._transport(step, *step.negatives)
        loss = other if self.options.shuffled else (self._transport(step, *own) - other) / 2
        return TermSums(loss, ((step.negatives[1] == 0).sum().to(loss.device),))

    def _transport(self, step: Step, ids: Tensor, n_tokens: Tensor) -> Tensor:
        """Sum over utterances, float32; texts: ids [sum of n_tokens] of n_tokens [B], on the CPU, 0: not compared."""
        rows = n_tokens.nonzero().squeeze(1)
        speech = self._speech(step)
        if not len(rows):
            return speech.vectors.float().sum() * 0
        vectors = speech.vectors.index_select(0, rows.to(speech.vectors.device, non_blocking=True))  # [R, N, D]
        x = Points(vectors, speech.lengths[rows])
        y = Points(self._text(step.model, ids, n_tokens[rows]), n_tokens[rows])
        if self.options.method == "sinkhorn":
            return divergence(x, y, self.ground, self.blur**2, self.iterations).sum().float()
        cost = self.ground.cost(x, y)  # [R, N, M]
        return transport_cost(ipot(cost, x.lengths, y.lengths, self.blur, self.iterations), cost).sum().float()

    def _speech(self, step: Step) -> Points:
        """[B, N, D]: speech tokens, or frames of the encoder."""
        if self.projection is None:
            return Points(step.speech.tokens, step.speech.n_tokens)
        frames, lengths = step.frames
        return Points(self.projection(frames.to(self.projection.weight.dtype)), lengths)

    @torch.no_grad()
    def _text(self, model: SpeechLlm, ids: Tensor, n_tokens: Tensor) -> Tensor:
        """[R, M, D]: embeddings, or the LLM's states; what stands on the right of a text changes none of its states."""
        ids = pad_sequence(ids.split(n_tokens.tolist()), batch_first=True)  # [R, M]
        if not self.options.layers:
            return model.causal_lm.get_input_embeddings()(ids)
        with model.llm.disable_adapter() if model.plain_lora else nullcontext():
            states = model.causal_lm.base_model(input_ids=ids, use_cache=False, output_hidden_states=True)
        return states.hidden_states[self.options.layers]
