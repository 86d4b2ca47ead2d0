"""Text against speech inside one LLM, position by position: the measure that the method itself proposes.

Every utterance is read twice, as text (the teacher) and as speech: KL(text || speech) of the next-token distributions,
at temperature 1 and in float32, and whether both put the same token first. Comparing input positions needs as many
speech tokens as text tokens, so it is done with the *true* number of tokens. The response is compared with the
*predicted* number, which is what the model has to live with in use, and with the true one too. An adapter with a rate
of its own (BLSP's convolutions) has only a response to compare.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blspkd.data.batching import Batch, lay_out
from blspkd.evaluation.retrieval import means
from blspkd.losses.distillation import Divergence, distillation_loss
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.speech_tokens import SpeechTokens

PLAIN_KL = Divergence("forward_kl", temperature=1.0)


@dataclass
class Positions:
    """Teacher against student at some positions of one utterance."""

    kl: list[float]  # nats
    top1: list[bool]  # both put the same token first


@dataclass
class Measured:
    """One utterance; what an adapter of its own rate does not have is None. Times are in encoder frames."""

    n_speech_tokens: int  # as the model decides
    response: Positions  # with that number; positions that predict the response's tokens
    speech_mean: np.ndarray  # [D] of the speech tokens, with that number
    text_mean: np.ndarray  # [D] of the transcript's embeddings
    input: Positions | None = None  # with the true number, like the two below
    response_true: Positions | None = None
    nearest: list[int] | None = None  # of every speech token, with the model's own number, the nearest text token
    nearest_true: list[bool] | None = None  # with the true number: whether that is the transcript's
    fire_times_true: list[float] | None = None
    fire_times: list[float] | None = None
    alpha: list[float] | None = None  # not scaled
    stacked: int = 1  # encoder frames in one of alpha's


@torch.no_grad()
def measure_batch(model: SpeechLlm, batch: Batch) -> list[Measured]:
    """Compare speech with text for every utterance of a batch that lies on the model's device."""
    frames, lengths = model.encoder(batch.features, batch.feature_lengths, batch.windows)
    teacher = model.teacher_states(batch.sequences)
    asked = batch.sequences.response_positions(shifted=True)

    own = model.adapt(frames, lengths)
    sequences = lay_out(batch.examples, own.n_tokens.tolist())
    sequences.ids = sequences.ids.to(batch.sequences.ids.device)
    student = model.student_states(sequences, own)
    responses = compare(model, student, sequences.response_positions(shifted=True), teacher, asked)
    said = batch.sequences.ids[batch.sequences.input_mask.to(batch.sequences.ids.device)]
    speech_means = means(own.rows(), own.n_tokens.tolist())
    text_means = means(model.embedding_table[said], batch.n_tokens.tolist())
    measured = list(map(Measured, own.n_tokens.tolist(), responses, speech_means, text_means))
    if not model.adapter.aligned:
        return measured

    true = model.adapt(frames, lengths, batch.n_tokens)
    student = model.student_states(batch.sequences, true)
    inputs = compare(model, student, batch.sequences.input_mask, teacher, batch.sequences.input_mask)
    responses = compare(model, student, asked, teacher, asked)
    read = model.nearest(own.rows())[0].split(own.n_tokens.tolist())
    is_right = (model.nearest(true.rows())[0] == said).split(batch.n_tokens.tolist())
    for row, item in enumerate(measured):
        item.input, item.response_true = inputs[row], responses[row]
        item.nearest, item.nearest_true = read[row].tolist(), is_right[row].tolist()
        item.fire_times, item.fire_times_true = _times(own, row), _times(true, row)
        item.alpha, item.stacked = own.alpha[row, :int(own.frame_lengths[row])].tolist(), own.stacked
    return measured


def compare(model: SpeechLlm, student: Tensor, student_mask: Tensor, teacher: Tensor,
            teacher_mask: Tensor) -> list[Positions]:
    """Hidden states [B, L, D] of both at the positions that their masks [B, L] (on the CPU) select, equally many."""
    rows = [mask.reshape(-1).nonzero().squeeze(1).to(student.device) for mask in (student_mask, teacher_mask)]
    head, bias = model.head
    distilled = distillation_loss(student.flatten(0, 1)[rows[0]], teacher.flatten(0, 1)[rows[1]], head,
                                  torch.zeros(len(rows[0]), device=student.device), PLAIN_KL, head_bias=bias)
    sizes = student_mask.sum(1).tolist()
    return [Positions(kl.tolist(), top1.tolist()) for kl, top1 in
            zip(distilled.divergence.split(sizes), distilled.agreement.split(sizes), strict=True)]


def _times(speech: SpeechTokens, row: int) -> list[float]:
    return speech.fire_times[row, :int(speech.n_tokens[row])].tolist()
