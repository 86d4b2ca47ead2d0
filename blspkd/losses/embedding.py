"""Distance of speech tokens from the embeddings of the text tokens that they stand for (not in arXiv 2405.19041).

CIF gives one speech token per text token, so the two can be compared where the LLM reads them. KL sees a token only
through what the LLM makes of it in the training task; a circuit that another instruction needs may read directions of
the embedding that continuation writing never constrains.
"""

from torch import Tensor


def embedding_loss(tokens: Tensor, embeddings: Tensor, mean_square: float) -> Tensor:
    """Squared distance, relative to the mean squared norm of the LLM's embeddings, per token.

    tokens, embeddings: [n, D]; gradients reach `tokens` only. mean_square: of one element of the embeddings. Returns
    [n], float32.
    """
    return (tokens.float() - embeddings.detach().float()).pow(2).mean(1) / mean_square
