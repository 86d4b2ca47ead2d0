"""AdamW with a learning rate per part: adapter (and terms of the loss), PLoRA, speech encoder."""

import torch

from blspkd.config import TrainingConfig
from blspkd.training.objective import KdObjective


def make_optimiser(objective: KdObjective, training: TrainingConfig) -> torch.optim.Optimizer:
    """Over what is trained; biases and norms are not decayed."""
    rates = {"adapter": training.learning_rate, "encoder": training.encoder_learning_rate,
             "llm": training.plora_learning_rate or training.learning_rate}
    parts = [(getattr(objective.speech_llm, name), rate) for name, rate in rates.items()]
    groups = []
    for part, rate in [*parts, (objective.terms, training.learning_rate)]:
        named = [(name, p) for name, p in part.named_parameters() if p.requires_grad]
        for decay in (True, False):
            parameters = [p for name, p in named if (p.dim() > 1) == decay]
            if parameters:
                groups.append({"params": parameters, "lr": rate,
                               "weight_decay": training.weight_decay if decay else 0.0})
    return torch.optim.AdamW(groups, lr=training.learning_rate)
