"""Products with the shared, frozen output head: logits of hidden states, and the way back of their slopes.

On a GPU half-precision hidden states and a head of the same type are multiplied as they are, by tensor cores, which add
up in float32 and give float32: products of two half-precision numbers are exact there, so that this is the float32
product without a float32 copy of either. Slopes are float32; for bfloat16 they are split into two halves that together
keep 16 bits of theirs. Elsewhere a narrower head is widened block by block.
"""

import torch
from torch import Tensor

_BLOCK = 8192  # rows of a half-precision output head that are widened at a time
_HALF = (torch.bfloat16, torch.float16)


def multiply_head(hidden: Tensor, head: Tensor, bias: Tensor | None, temperature: float, out: Tensor) -> None:
    """out = (hidden [n, D] x head [V, D]^T + bias [V]) / temperature, summed in out's type, float32 or wider."""
    if by_tensor_cores(hidden, head):
        half_product(hidden, head.T, out)
        out.div_(temperature)
    else:
        hidden = hidden.to(out.dtype) / temperature
        step = len(head) if head.dtype == out.dtype else _BLOCK
        for start in range(0, len(head), step):
            block = head[start:start + step].to(out.dtype)
            torch.mm(hidden, block.T, out=out[:, start:start + len(block)])
    if bias is not None:
        out.add_(bias.to(out.dtype) / temperature)


def times_head(slope: Tensor, head: Tensor) -> Tensor:
    """slope [n, V], float32 or wider, x head [V, D] -> [n, D], of slope's type."""
    if head.dtype == slope.dtype:
        return slope @ head
    result = slope.new_zeros(len(slope), head.shape[1])
    if head.dtype == torch.bfloat16 and by_tensor_cores(head, head):  # float16 has no room for small slopes
        high = slope.to(head.dtype)
        low = (slope - high).to(head.dtype)
        half_product(low, head, result)
        rest = result.clone()
        half_product(high, head, result)
        return result.add_(rest)
    for start in range(0, len(head), _BLOCK):
        block = head[start:start + _BLOCK]
        result.addmm_(slope[:, start:start + len(block)], block.to(slope.dtype))
    return result


def by_tensor_cores(hidden: Tensor, head: Tensor) -> bool:
    """Whether `half_product` can multiply them: of one half-precision type, on a GPU, by torch 2.8 or newer."""
    return (hidden.is_cuda and hidden.dtype == head.dtype and head.dtype in _HALF
            and "dtype_out" in torch.ops.aten.mm.overloads())


def half_product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out [n, m] = a [n, k] x b [k, m], both of half precision, added up and kept in float32."""
    torch.mm(a, b, out_dtype=torch.float32, out=out)
