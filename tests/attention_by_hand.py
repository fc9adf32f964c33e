"""Attention within one text, computed weight by weight: the oracle for packed attention."""

import pytest
import torch

CASES = [
    pytest.param(key_heads, causal, window, id=f"{key_heads} key heads, causal {causal}, window {window}")
    for key_heads in (4, 2, 1)
    for causal in (True, False)
    for window in (None, 1, 3)
]
"""Key heads for 4 query heads, whether a token sees only earlier tokens, and the window."""


def attention_by_hand(query, key, value, *, scaling, causal, window):
    """Return attention within one text: (tokens, heads, head_dim).

    Args:
        query: (tokens, heads, head_dim).
        key: (tokens, key heads, head_dim).
        value: Like `key`.
        scaling: Factor of the scores.
        causal: Whether a token sees only earlier tokens.
        window: Number of tokens that a token sees to either side, itself included; all if None.
    """
    tokens, heads, _ = query.shape
    attended = [
        torch.stack(
            [
                _attended(
                    query[token, head],
                    key[:, head * key.shape[1] // heads],
                    value[:, head * key.shape[1] // heads],
                    seen=[
                        other
                        for other in range(tokens)
                        if (other <= token or not causal) and (window is None or abs(other - token) < window)
                    ],
                    scaling=scaling,
                )
                for head in range(heads)
            ]
        )
        for token in range(tokens)
    ]
    return torch.stack(attended) if attended else torch.zeros_like(query)


def _attended(query, key, value, *, seen, scaling):
    weights = torch.softmax(key[seen] @ query * scaling, dim=0)
    return weights @ value[seen]


def packed_by_hand(query, key, value, lengths, **options):
    """Return attention within each text of some packed texts: (tokens, heads, head_dim)."""
    texts = zip(*(torch.split(one, list(lengths)) for one in (query, key, value)), strict=True)
    return torch.cat([attention_by_hand(*text, **options) for text in texts])
