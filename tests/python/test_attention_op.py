"""The Python implementation of kvtool::attention against its definition, term by term."""

import math

import pytest
import torch

from kvtool.attention_op import AttentionCache, attention


def by_definition(q, k, v, scale, window, softcap, sinks, pad):
    """Loops over batch, heads, queries and keys; q are the last positions of k."""
    batch, heads, queries, _ = q.shape
    positions = k.shape[2]
    out = torch.zeros(batch, queries, heads, v.shape[3])
    for b in range(batch):
        for h in range(heads):
            kv = h // (heads // k.shape[1])
            for i in range(queries):
                at = positions - queries + i
                terms = []
                for j in range(pad[b], at + 1):
                    if window and at - j >= window:
                        continue
                    score = float(q[b, h, i] @ k[b, kv, j]) * scale
                    if softcap:
                        score = softcap * math.tanh(score / softcap)
                    terms.append((math.exp(score), v[b, kv, j]))
                total = sum(weight for weight, _ in terms)
                if sinks is not None:
                    total += math.exp(float(sinks[h]))
                for weight, value in terms:
                    out[b, i, h] += weight / total * value
    return out


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_prefill_and_decode_match_the_definition(window, softcap, with_sinks):
    torch.manual_seed(0)
    batch, heads, kv_heads, positions, key_dim, value_dim = 2, 4, 2, 9, 5, 3
    q = torch.randn(batch, heads, positions, key_dim)
    k = torch.randn(batch, kv_heads, positions, key_dim)
    v = torch.randn(batch, kv_heads, positions, value_dim)
    sinks = torch.randn(heads) if with_sinks else None
    pad = [0, 2]

    cache = AttentionCache(torch.tensor(pad))
    parts = []
    for start, end in ((0, 7), (7, 8), (8, 9)):
        with cache:
            rows = (tensor[:, :, start:end] for tensor in (q, k, v))
            parts.append(attention(*rows, 0, 0.4, window, softcap, sinks))
    out = torch.cat(parts, dim=1)

    wanted = by_definition(q, k, v, 0.4, window, softcap, sinks, pad)
    assert out.shape == (batch, positions, heads, value_dim)
    assert out.is_contiguous()
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)


def test_without_a_cache_it_is_causal_attention():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 4) for _ in range(3))
    out = attention(q, k, v, 0, 0.5, 0, 0.0, None)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)
    torch.testing.assert_close(out, wanted.transpose(1, 2))


def test_padding_positions_yield_zero_and_not_nan():
    q, k, v = (torch.ones(1, 1, 3, 2) for _ in range(3))
    with AttentionCache(torch.tensor([2])):
        out = attention(q, k, v, 0, 1.0, 0, 0.0, None)
    assert out[0, :2].eq(0).all() and out[0, 2].eq(1).all()


def test_layers_of_one_cache_are_kept_apart():
    q, k = torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
    with AttentionCache() as cache:
        for layer in (0, 1, 0):
            v = torch.full((1, 1, 1, 2), float(layer + 1))
            attention(q, k, v, layer, 1.0, 0, 0.0, None)
        assert cache.append(0, k, k).keys.shape[2] == 3
        assert cache.append(1, k, k).keys.shape[2] == 2
