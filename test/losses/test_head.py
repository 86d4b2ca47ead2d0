"""Half-precision products with the output head: as exact as float32, and without float32 copies of what they read."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from blspkd.losses import head as products
from blspkd.losses.distillation import Divergence, distillation_loss
from blspkd.losses.head import multiply_head, times_head

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
HALF = [torch.bfloat16, torch.float16]


@pytest.fixture
def tensor_cores(monkeypatch):
    """What a GPU does, on the CPU: exact products of half-precision numbers, added up in float32."""
    monkeypatch.setattr(products, "by_tensor_cores", lambda a, b: a.dtype == b.dtype and a.dtype in HALF)
    monkeypatch.setattr(products, "half_product", lambda a, b, out: out.copy_(Product.of(a, b)))


class Product(torch.autograd.Function):
    """Stands for one kernel: what happens inside is nobody's copy."""

    hidden = False

    @classmethod
    def of(cls, a, b):
        cls.hidden = True
        try:
            return a.float() @ b.float()
        finally:
            cls.hidden = False


class Widened(TorchDispatchMode):
    """Elements of the largest half-precision tensor that was copied to float32 or wider."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not Product.hidden and func.overloadpacket is torch.ops.aten._to_copy and args[0].dtype in HALF:
            self.largest = max(self.largest, result.numel() * (result.dtype not in HALF))
        return result


def problem(dtype, device="cpu", n=40, width=64, vocabulary=9000):
    torch.manual_seed(0)
    return [x.mul(0.3).to(dtype).to(device) for x in (torch.randn(n, width), torch.randn(n, width),
                                                      torch.randn(vocabulary, width))]


def reference(student, teacher, head, temperature):
    """Forward KL and its gradient in float64."""
    leaf = student.detach().double().requires_grad_()
    log_p, log_q = ((x @ head.double().T / temperature).log_softmax(1) for x in (teacher.double(), leaf))
    loss = (log_p.exp() * (log_p - log_q)).sum() / len(leaf)
    loss.backward()
    return loss.detach(), leaf.grad


def found(student, teacher, head, temperature):
    leaf = student.detach().requires_grad_()
    weights = torch.full((len(leaf),), 1 / len(leaf), device=leaf.device)
    loss = distillation_loss(leaf, teacher, head, weights, Divergence(temperature=temperature),
                             chunk_bytes=1 << 20).loss
    loss.backward()
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("how", ["widened", "tensor cores", pytest.param("gpu", marks=gpu)])
def test_the_loss_is_that_of_float64(how, dtype, request):
    if how == "tensor cores":
        request.getfixturevalue("tensor_cores")
    inputs = problem(dtype, "cuda" if how == "gpu" else "cpu")
    (loss, gradient), (expected, slope) = found(*inputs, 2.0), reference(*inputs, 2.0)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    ulp = torch.finfo(dtype).eps  # the gradient is kept in that type
    torch.testing.assert_close(gradient.double(), slope, rtol=ulp, atol=ulp * float(slope.abs().max()) / 4)


def test_nothing_of_the_head_or_the_hidden_states_is_copied_to_float32(tensor_cores):
    inputs = problem(torch.bfloat16)
    with Widened() as copies:
        found(*inputs, 2.0)
    assert copies.largest == 0


def test_elsewhere_the_head_is_copied_block_by_block():
    """The one above can fail."""
    inputs = problem(torch.bfloat16)
    with Widened() as copies:
        found(*inputs, 2.0)
    assert copies.largest == products._BLOCK * inputs[2].shape[1]


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-12])
def test_slopes_keep_16_bits(size, tensor_cores):
    _, _, head = problem(torch.bfloat16)
    slope = torch.randn(20, len(head)) * size
    expected, scale = slope.double() @ head.double(), slope.double().abs() @ head.double().abs()
    assert ((times_head(slope, head).double() - expected).abs() / scale).max() < 2**-16


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
@pytest.mark.parametrize("biased", [False, True])
def test_logits_are_divided_by_the_temperature(dtype, biased, tensor_cores):
    hidden, _, head = problem(dtype)
    bias = torch.randn(len(head)) if biased else None
    out = torch.empty(len(hidden), len(head))
    multiply_head(hidden, head, bias, 1.7, out)
    expected = (hidden.double() @ head.double().T + (bias.double() if biased else 0)) / 1.7
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@gpu
@pytest.mark.parametrize("dtype", HALF)
def test_a_gpu_multiplies_half_precision_into_float32(dtype):
    hidden, _, head = problem(dtype, "cuda")
    assert products.by_tensor_cores(hidden, head)
    out = torch.empty(len(hidden), len(head), device="cuda")
    products.half_product(hidden, head.T, out)
    torch.testing.assert_close(out, hidden.float() @ head.float().T, rtol=1e-5, atol=1e-5)
