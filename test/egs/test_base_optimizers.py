"""The base models' optimisers: who learns what, and Muon's update against its formula in float64."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from blspkd.errors import ConfigError

BASE = Path(__file__).resolve().parents[2] / "egs/mini/blspkd1/base"


@pytest.fixture(scope="module")
def make_optimizers():
    sys.path.insert(0, str(BASE))
    yield importlib.import_module("optimizers").make_optimizers
    sys.path.remove(str(BASE))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(7, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.inner = nn.Linear(4, 6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.ctc_head = nn.Linear(6, 5)


def names(model, optimizer):
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return {known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}


@pytest.mark.parametrize("kind, matrices", [("muon", {"inner.weight"}), ("adamw", set())])
def test_every_parameter_that_learns_has_one_optimiser(make_optimizers, kind, matrices):
    model = Model()
    adamw, *muon = make_optimizers(model, kind, 1e-3, 0.01)
    assert [names(model, one) for one in muon] == ([matrices] if matrices else [])
    assert names(model, adamw) == {"embed_tokens.weight", "conv.weight", "conv.bias", "inner.weight", "inner.bias",
                                   "ctc_head.weight", "ctc_head.bias"} - matrices


def test_a_first_update_is_the_gradient_with_all_singular_values_near_one(make_optimizers):
    torch.manual_seed(0)
    model = Model()
    rate, before = 1e-2, model.inner.weight.detach().double().clone()
    _, muon = make_optimizers(model, "muon", rate, 0.0)
    model.inner.weight.grad = torch.randn(6, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    left, values, right = torch.linalg.svd(model.inner.weight.grad.double(), full_matrices=False)
    muon.step()
    update = (before - model.inner.weight.detach().double()) / (rate * 0.2 * 6 ** 0.5)  # AdamW's size
    along = torch.diagonal(left.T @ update @ right.T)
    assert values.max() / values.min() > 2 and (along > 0.6).all() and (along < 1.3).all()
    assert torch.allclose(left @ torch.diag(along) @ right, update, atol=0.03)  # bfloat16 inside


def test_bad_choices_are_told(make_optimizers, monkeypatch):
    with pytest.raises(ConfigError, match="optimizer: 'sgd' is none of muon, adamw"):
        make_optimizers(Model(), "sgd", 1e-3, 0.0)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigError, match=r"has no Muon, which came with 2\.9"):
        make_optimizers(Model(), "muon", 1e-3, 0.0)
    assert len(make_optimizers(Model(), "adamw", 1e-3, 0.0)) == 1
