"""A projector that starts from what captions say, in closed form, instead of from random weights.

A caption names what its picture shows, so the patch tokens of a picture ought to add up to the caption's words. The
projector is fitted to exactly that by ridge regression: every patch token then begins in the language model's own word
space, as a bag of the few words that its patch accounts for. Gradient descent on captions alone ends far outside of it
(measured on the embedded model: image tokens 300 times as long as a word's embedding, on which attention and feed-
forward layers have next to no effect), and what the language model knows about words does not take hold.

Shapes: N pictures, P patches, V vision width, D model width, W words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

# Of the mean squared length of the inputs: makes the system well-posed without bending the fit much.
RIDGE = 1e-3
# A word that fewer captions have cannot be told from chance.
LEAST_CAPTIONS = 20
# The longest token of a picture, in mean lengths of a word's embedding: a patch accounts for a word or two.
LENGTH = 1.5
# What every token has in common, likewise: an average word. Tokens near zero would be blown up to noise by the
# language model's normalisation.
NEUTRAL = 0.5
# Every fifth caption only tells how far a word can be trusted.
_HELD_BACK = 5


def fit_to_words(
    projector: nn.Module,
    sums: torch.Tensor,
    captions: Sequence[Sequence[int]],
    embedding: torch.Tensor,
    *,
    features: torch.Tensor,
) -> dict[int, float]:
    """Set a projector so that a picture's tokens add up to its caption's words, up to one common scale.

    Each word counts by how rare it is, log(N / captions that have it), times the share of its variance that the
    pictures explain in captions held back from the fit: wordings that follow from no picture drop out.

    Args:
        projector: transformers' `LlavaMultiModalProjector` with random weights; changed in place.
        sums: (N, V) patch features of each picture, added up over its patches.
        captions: N lists of token ids.
        embedding: (vocabulary, D) word embeddings.
        features: (I, P, V) patch features of some of the pictures: they set mean, deviation and scale.

    Returns:
        Token id -> explained share of variance, 0-1, of all words that enough captions have. Where there is no such
        word, or the pictures explain none, the projector is as it was.
    """
    frequency = Counter(token for caption in captions for token in set(caption))
    tokens = sorted(token for token, times in frequency.items() if LEAST_CAPTIONS <= times < len(captions))
    if not tokens:
        return {}
    # In double precision on the CPU: thousands of squares are added up, and this is done once.
    flat = features.double().cpu().flatten(0, 1)
    mean, deviation = flat.mean(0), flat.std(0).clamp_min(1e-6)
    x = sums.double().cpu() / deviation
    x = x - x.mean(0)
    counts = _word_counts(captions, tokens)
    y = counts - counts.mean(0)
    fitted = torch.arange(len(x)) % _HELD_BACK != 0
    missed = (y[~fitted] - x[~fitted] @ _ridge(x[fitted], y[fitted])).square().sum(0)
    explained = (1 - missed / y[~fitted].square().sum(0).clamp_min(1e-9)).clamp(0.0, 1.0)
    if not explained.any():
        return dict.fromkeys(tokens, 0.0)

    rarity = torch.log(len(captions) / torch.tensor([float(frequency[token]) for token in tokens])).double()
    words = embedding[torch.tensor(tokens, device=embedding.device)].double().cpu()
    matrix = _ridge(x, y) @ ((rarity * explained)[:, None] * words)
    word_length = float(embedding.float().norm(dim=-1).mean())
    longest = (((flat - mean) / deviation) @ matrix).unflatten(0, features.shape[:2]).norm(dim=-1).amax(dim=-1).mean()
    matrix *= LENGTH * word_length / longest
    times = torch.tensor([float(frequency[token]) for token in sorted(frequency)])
    average = times.to(embedding.device) @ embedding[torch.tensor(sorted(frequency), device=embedding.device)].float()
    _set_linear(
        projector, matrix, mean, deviation, average.double().cpu() * (NEUTRAL * word_length / average.norm().item())
    )
    return dict(zip(tokens, explained.tolist(), strict=True))


def _set_linear(
    projector: nn.Module, matrix: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor, offset: torch.Tensor
) -> None:
    """Make the projector compute `((f - mean) / deviation) @ matrix + offset`; `matrix` is (V, D).

    An MLP with GELU does so exactly, since gelu(x) - gelu(-x) = x: the first layer holds every direction with both
    signs, mixed by an orthonormal matrix taken from its random weights, so that all of its rows learn from then on.
    Where it has fewer rows than that takes, the directions in which `matrix` is smallest are left out.
    """
    first, second = cast(nn.Linear, projector.linear_1), cast(nn.Linear, projector.linear_2)
    with torch.no_grad():
        if type(projector.act).__name__ == "LinearActivation":
            first.weight.copy_((matrix / deviation[:, None]).T)
            first.bias.copy_(offset - (mean / deviation) @ matrix)
            return
        half = first.out_features // 2
        left = torch.linalg.svd(matrix, full_matrices=False)[0][:, :half]
        mixing = torch.linalg.qr(first.weight[:half, : left.shape[1]].double().cpu())[0]
        inward, outward = mixing @ left.T, mixing @ (left.T @ matrix)
        rows = torch.cat([inward, -inward]) / deviation
        first.weight[: 2 * half].copy_(rows)
        first.bias[: 2 * half].copy_(-(rows @ mean))
        second.weight.zero_()
        second.weight[:, : 2 * half].copy_(torch.cat([outward, -outward]).T)
        second.bias.copy_(offset)


def _word_counts(captions: Sequence[Sequence[int]], tokens: Sequence[int]) -> torch.Tensor:
    """(N, W) how often each caption has each word."""
    column = {token: index for index, token in enumerate(tokens)}
    counts = torch.zeros(len(captions), len(tokens), dtype=torch.float64)
    for row, caption in enumerate(captions):
        for token in caption:
            if token in column:
                counts[row, column[token]] += 1
    return counts


def _ridge(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    gram = x.T @ x
    # Pictures that are all alike leave nothing but the second term.
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + 1e-9)
    solution: torch.Tensor = torch.linalg.solve(gram, x.T @ y)
    return solution
