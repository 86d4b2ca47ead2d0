"""Muon for the matrices between a model's embeddings and its heads, AdamW for all else.

Muon (Jordan et al. 2024; scaled to AdamW's updates as in arXiv 2502.16982) makes every singular value of a matrix's
update alike. A step costs more, and these small models need far fewer.
"""

import torch
from torch import nn
from torch.optim import Optimizer

from blspkd.errors import ConfigError

KINDS = ("muon", "adamw")
OUTSIDE = ("embed", "head", "proj_out")  # in the names of embeddings and of layers that give logits: AdamW's


def make_optimizers(module: nn.Module, kind: str, learning_rate: float, weight_decay: float) -> list[Optimizer]:
    """kind: one of KINDS. Raises ConfigError for another one, or where this torch has no Muon."""
    if kind not in KINDS:
        raise ConfigError(f"optimizer: '{kind}' is none of {', '.join(KINDS)}")
    if kind == "muon" and not hasattr(torch.optim, "Muon"):
        raise ConfigError(f"optimizer: torch {torch.__version__} has no Muon, which came with 2.9; install a newer "
                          "one, or take adamw and twice as many steps")
    learns = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    matrices = {name: parameter for name, parameter in learns.items()
                if kind == "muon" and parameter.ndim == 2 and not any(word in name for word in OUTSIDE)}
    others = [parameter for name, parameter in learns.items() if name not in matrices]
    optimizers: list[Optimizer] = [torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98),
                                                     weight_decay=weight_decay, fused=True)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices.values(), lr=learning_rate, weight_decay=weight_decay,
                                           adjust_lr_fn="match_rms_adamw"))
    return optimizers
