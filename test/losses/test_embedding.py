"""The embedding loss against its formula."""

import torch

from blspkd.losses.embedding import embedding_loss


def test_value_and_gradient():
    torch.manual_seed(0)
    tokens = torch.randn(5, 8, requires_grad=True)
    embeddings = torch.randn(5, 8, requires_grad=True)
    loss = embedding_loss(tokens, embeddings, 0.25)
    torch.testing.assert_close(loss, ((tokens - embeddings) ** 2).sum(1) / (8 * 0.25))
    loss.sum().backward()
    torch.testing.assert_close(tokens.grad, 2 * (tokens - embeddings).detach() / (8 * 0.25))
    assert embeddings.grad is None


def test_no_token_gives_a_sum_of_zero():
    tokens = torch.randn(0, 8, requires_grad=True)
    loss = embedding_loss(tokens, torch.randn(0, 8), 1.0).sum()
    loss.backward()
    assert loss.item() == 0
