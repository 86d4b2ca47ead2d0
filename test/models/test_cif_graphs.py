"""CIF inside compiled and exported programs, and without waiting for a GPU."""

import pytest
import torch
from torch.export import Dim, export
from torch.utils._python_dispatch import TorchDispatchMode

from blspkd.models.cif import count, fire

ASKS_THE_DEVICE = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero", "aten::equal",
                   "aten::masked_select", "aten::_unique2", "aten::bincount", "aten::repeat_interleave.Tensor"}


class NoWaiting(TorchDispatchMode):
    """Refuses what would read a value from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in ASKS_THE_DEVICE, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def inputs(batch=3, length=11, width=4, device="cpu"):
    torch.manual_seed(length)
    frames, alpha = torch.randn(batch, length, width, device=device), torch.rand(batch, length, device=device) + 0.05
    return frames.requires_grad_(), alpha.requires_grad_(), torch.randint(1, 6, (batch,))


def results(function, frames, alpha, n_tokens):
    tokens = function(frames, alpha, n_tokens)
    return tokens, *torch.autograd.grad(tokens.square().sum(), (frames, alpha))


def tokens_of(frames, alpha, n_tokens):
    return fire(frames, alpha, n_tokens, 5).tokens


def test_compiles_forward_and_backward_without_a_graph_break():
    compiled = torch.compile(tokens_of, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(results(compiled, *inputs()), results(tokens_of, *inputs()))


def test_one_compiled_graph_serves_all_lengths():
    compilations = []

    def backend(graph, _):
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(tokens_of, fullgraph=True, dynamic=True, backend=backend)
    for batch, length in ((3, 11), (4, 12), (2, 30), (5, 7)):
        sample = inputs(batch, length)
        torch.testing.assert_close(compiled(*sample), tokens_of(*sample))
    assert len(compilations) == 1


class Integrator(torch.nn.Module):
    def forward(self, frames, alpha, n_tokens):
        fired = fire(frames, alpha, n_tokens, 5)
        return fired.tokens, fired.mask, fired.times, count(alpha)


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_dynamic_batch_and_length(strict):
    batch, length = Dim("batch", min=2, max=64), Dim("length", min=3, max=4000)
    with torch.no_grad():
        program = export(Integrator(), inputs(), strict=strict,
                         dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}, {0: batch})).module()
        for shape in ((3, 11), (5, 40)):
            sample = inputs(*shape)
            torch.testing.assert_close(program(*sample), Integrator()(*sample))


def test_reads_nothing_from_the_device_when_the_number_of_tokens_is_given():
    sample = inputs()
    with NoWaiting():
        results(tokens_of, *sample)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_is_never_waited_for(dtype):
    def on_gpu():
        frames, alpha, n_tokens = inputs(4, 50, 16, "cuda")
        return frames.detach().to(dtype).requires_grad_(), alpha, n_tokens

    expected = results(tokens_of, *[x.detach().cpu().requires_grad_(x.requires_grad) for x in on_gpu()])
    results(tokens_of, *on_gpu())  # warm up
    sample = on_gpu()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [results(tokens_of, *sample), fire(*sample).times]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for theirs, ours in zip(expected, found[0], strict=True):
        tolerance = 1e-4 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(ours.cpu(), theirs, atol=tolerance, rtol=tolerance)
