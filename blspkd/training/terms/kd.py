"""Knowledge distillation (arXiv 2405.19041, section 3.1): KL(teacher || student) over input and response.

    input KL    = 1/N sum_n KL(p(. | t_1 ... t_n) || q(. | s_1 ... s_n))              N tokens of all transcripts
    response KL = 1/M sum_m w KL(p(. | text, y_1 ... y_m-1) || q(. | speech, y_1 ... y_m-1)) M of all responses

w is the weight of the example, 1 unless a data operation gives it another.

Both, and BLSP's cross-entropy on the response, are one call that never keeps logits (losses/distillation.py).
"""

import torch
from torch import Tensor, nn

from blspkd.config import LossConfig
from blspkd.losses.distillation import Divergence, distillation_loss
from blspkd.training.terms.term import Step, TermSums


class KnowledgeDistillation(nn.Module):
    """w_input * input KL + w_response * response KL + w_response_ce * cross-entropy."""

    units = {"input_kl": "input", "input_top1": "input", "response_kl": "response", "response_top1": "response",
             "response_ce": "response"}  # what is summed, and of what the mean is

    def __init__(self, config: LossConfig, aligned: bool):
        """aligned: the adapter gives as many speech tokens as there are text tokens."""
        super().__init__()
        self.config, self.aligned = config, aligned
        self.shifted = config.response_positions == "shifted"
        self.divergence = Divergence(config.divergence, config.temperature, config.jsd_beta,
                                     config.temperature_squared)

    def computed(self, training: bool) -> set[str]:
        """Which of `units` are computed; validation computes all that can be."""
        names = set()
        if self._with_input(training):
            names |= {"input_kl", "input_top1"}
        if self._with_teacher(training):
            names |= {"response_kl", "response_top1"}
        if self._with_labels(training):
            names.add("response_ce")
        return names

    def forward(self, step: Step, input_positions: float, response_positions: float,
                ce_factors: Tensor | None = None) -> TermSums:
        """input_positions, response_positions: of the whole optimiser step, see `Denominators`.

        ce_factors: of the cross-entropy at each response position [M], see `Term`. With them and with the weights of
        the examples the loss is a weighted sum over the same number of positions; what is reported has no weights.
        """
        config, batch, student = self.config, step.batch, step.student
        with_input = step.aligned and self._with_input(self.training)
        rows = step.sequences.positions(self.shifted, with_input).to(student.device, non_blocking=True)  # [n]
        n_input = int(batch.n_tokens.sum()) if with_input else 0
        weights = torch.full((len(rows),), config.w_response / response_positions, device=student.device)
        weights[:n_input] = config.w_input / input_positions
        shares = batch.of_responses(batch.weights)  # [M]
        weights[n_input:] *= shares
        labels = label_weights = None
        if self._with_labels(self.training):
            answers = step.response_ids
            labels = torch.cat([answers.new_full((n_input,), -100), answers])
            label_weights = torch.full_like(weights, config.w_response_ce / response_positions)
            label_weights[n_input:] *= shares if ce_factors is None else shares * ce_factors
        teacher = self._teacher(step, with_input, len(rows)) if self._with_teacher(self.training) else None
        head, bias = step.model.head
        distilled = distillation_loss(student.index_select(0, rows), teacher, head, weights, self.divergence,
                                      labels=labels, label_weights=label_weights, head_bias=bias,
                                      chunk_bytes=config.chunk_mib << 20)
        divergence, agreement = distilled.divergence, distilled.agreement
        return TermSums(distilled.loss, (divergence[:n_input].sum(), agreement[:n_input].sum(),
                                         divergence[n_input:].sum(), agreement[n_input:].sum(),
                                         distilled.cross_entropy[n_input:].sum()))

    def _teacher(self, step: Step, with_input: bool, n: int) -> Tensor:
        """The frozen LLM's hidden states at the positions that are compared [n, D]; cached ones hold all inputs."""
        batch = step.batch
        if batch.teacher is not None:
            return batch.teacher[len(batch.teacher) - n:].to(step.student.dtype)
        rows = batch.sequences.positions(self.shifted, with_input).to(step.student.device, non_blocking=True)
        return step.model.teacher_states(batch.sequences).flatten(0, 1).index_select(0, rows)

    def _with_input(self, training: bool) -> bool:
        return self.aligned and (self.config.w_input > 0 or not training)

    def _with_teacher(self, training: bool) -> bool:
        return bool(self.config.w_input or self.config.w_response or not training)

    def _with_labels(self, training: bool) -> bool:
        """Positions that are not shifted do not predict the response: its tokens are no labels there."""
        return self.shifted and (self.config.w_response_ce > 0 or not training)
