"""One step's loss (arXiv 2405.19041, section 3.1): input KL + response KL + quantity, or BLSP's cross-entropy."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blspkd.config import LossConfig, check_loss
from blspkd.data.batching import Batch, TokenBatch
from blspkd.losses.distillation import Distilled, Divergence, distillation_loss
from blspkd.losses.embedding import embedding_loss
from blspkd.losses.quantity import quantity_loss
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.speech_tokens import SpeechTokens
from blspkd.models.token_counter import ctc_loss

# What the sums in `Objective.sums` are of, and by which denominator each becomes a mean.
TERMS = {"input_kl": "input", "input_top1": "input", "response_kl": "response", "response_top1": "response",
         "response_ce": "response", "quantity": "utterances", "embedding": "input",
         "ctc": "utterances", "count_accuracy": "utterances"}


@dataclass
class Denominators:
    """Numbers of input positions, response positions and utterances that the losses are means over.

    They are counted over all accumulated micro-batches and all ranks, so that any split gives the loss of one big
    batch.
    """

    input: float
    response: float
    utterances: float

    @classmethod
    def of(cls, batches: list[Batch]) -> "Denominators":
        return cls(input=float(sum(int(batch.n_tokens.sum()) for batch in batches)),
                   response=float(sum(int(batch.sequences.response_mask.sum()) for batch in batches)),
                   utterances=float(sum(len(batch.utt_ids) for batch in batches)))


@dataclass
class Objective:
    """The loss and its terms."""

    loss: Tensor  # scalar
    sums: Tensor  # [len(TERMS)] sums over positions or utterances, no gradient


class KdObjective(nn.Module):
    """SpeechLlm with its loss, as one module, so that DistributedDataParallel sees a single forward call."""

    def __init__(self, speech_llm: SpeechLlm, config: LossConfig):
        super().__init__()
        self.speech_llm, self.loss_config = speech_llm, config
        check_loss(config, speech_llm.config)

    def forward(self, batch: Batch, denominators: Denominators) -> Objective:
        """Loss of one micro-batch, to be summed over micro-batches and ranks."""
        config, model = self.loss_config, self.speech_llm
        frames = ((batch.features, batch.feature_lengths) if batch.encoded
                  else model.encode(batch.features, batch.feature_lengths, batch.windows))
        speech = model.adapt(*frames, batch.n_tokens)
        sequences = model.student_sequences(batch, speech)
        student = model.student_states(sequences, speech).flatten(0, 1)
        uses_teacher = bool(config.w_input or config.w_response or not self.training)

        with_input = model.adapter.matches_text_length and (config.w_input > 0 or not self.training)
        shifted = config.response_positions == "shifted"
        rows_student = selected_rows(sequences, with_input, shifted, student.device)
        teacher = None
        if uses_teacher and batch.teacher is not None:
            teacher = batch.teacher[len(batch.teacher) - len(rows_student):].to(student.dtype)
        elif uses_teacher:
            rows_teacher = selected_rows(batch.sequences, with_input, shifted, student.device)
            teacher = model.teacher_states(batch.sequences).flatten(0, 1).index_select(0, rows_teacher)
        n_input = int(batch.n_tokens.sum()) if with_input else 0
        n_response = len(rows_student) - n_input

        weights = torch.full((n_input + n_response,), config.w_response / denominators.response, device=student.device)
        weights[:n_input] = config.w_input / denominators.input
        labels = label_weights = None
        if shifted and (config.w_response_ce or not self.training):  # other positions do not predict the response
            answers = batch.sequences.ids[batch.sequences.response_mask.to(batch.sequences.ids.device)]
            labels = torch.cat([answers.new_full((n_input,), -100), answers])
            label_weights = torch.full_like(weights, config.w_response_ce / denominators.response)
        head, bias = model.head
        distilled = distillation_loss(
            student.index_select(0, rows_student), teacher, head, weights,
            Divergence(config.divergence, config.temperature, config.jsd_beta, config.temperature_squared),
            labels=labels, label_weights=label_weights, head_bias=bias, chunk_bytes=config.chunk_mib << 20)

        terms = self._adapter_terms(batch, speech)
        loss = (distilled.loss + config.w_quantity * terms["quantity"] / denominators.utterances
                + config.w_embedding * terms["embedding"] / denominators.input
                + config.w_ctc * terms["ctc"] / denominators.utterances)
        return Objective(loss, torch.stack([value.detach().float()
                                            for value in (*_sums(distilled, n_input), *terms.values())]))

    def _adapter_terms(self, batch: Batch, speech: SpeechTokens) -> dict[str, Tensor]:
        """Sums of what is asked of the speech tokens themselves, in the order of TERMS; zeros where it is not."""
        config, ids = self.loss_config, batch.sequences.ids
        terms = dict.fromkeys(("quantity", "embedding", "ctc", "count_accuracy"), torch.zeros((), device=ids.device))
        if speech.alpha is None:
            return terms
        terms["quantity"] = quantity_loss(speech.alpha, batch.n_tokens).sum()
        terms["count_accuracy"] = (speech.n_predicted == batch.n_tokens.to(speech.n_predicted.device)).sum()
        if config.w_embedding or config.w_ctc:
            input_ids = ids[batch.sequences.input_mask.to(ids.device)]
        if config.w_embedding:
            embeddings = self.speech_llm.causal_lm.get_input_embeddings()(input_ids)
            terms["embedding"] = embedding_loss(speech.rows(), embeddings, self.speech_llm.embedding_rms**2).sum()
        if config.w_ctc:
            terms["ctc"] = ctc_loss(speech.ctc_logits, speech.frame_lengths, input_ids, batch.n_tokens).sum()
        return terms


def selected_rows(sequences: TokenBatch, with_input: bool, shifted: bool, device: torch.device) -> Tensor:
    """Selected positions of the flattened [B * L]: the inputs', then those of the response."""
    response = sequences.response_mask
    if shifted:  # the position before a token predicts it
        response = torch.cat([response[:, 1:], response.new_zeros(len(response), 1)], dim=1)
    masks = [sequences.input_mask, response] if with_input else [response]
    return torch.cat([mask.reshape(-1).nonzero().squeeze(1) for mask in masks]).to(device, non_blocking=True)


def _sums(distilled: Distilled, n_input: int) -> list[Tensor]:
    """In the order of TERMS."""
    return [distilled.divergence[:n_input].sum(), distilled.agreement[:n_input].sum(),
            distilled.divergence[n_input:].sum(), distilled.agreement[n_input:].sum(),
            distilled.cross_entropy[n_input:].sum()]
