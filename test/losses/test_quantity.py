import torch

from blspkd.losses.quantity import quantity_loss


def test_is_the_relative_difference_of_sum_and_length():
    alpha = torch.tensor([[0.5, 0.5, 0.5], [1.0, 1.0, 0.0]])
    torch.testing.assert_close(quantity_loss(alpha, torch.tensor([3, 2])), torch.tensor([0.5, 0.0]))


def test_gradients_reach_alpha():
    alpha = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: quantity_loss(a.double(), torch.tensor([4, 1])).sum(), (alpha,), eps=1e-3,
                                    atol=1e-3)
