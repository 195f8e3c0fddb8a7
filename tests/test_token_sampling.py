"""Draws by Gumbel noise: the right distribution, and each row on its own."""

import torch

from lora_sku.token_sampling import _FEW, GumbelDraw, Sampling, _nucleus

LOGITS_BV = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def frequencies(temperature: float, top_p: float, draws: int = 4000) -> torch.Tensor:
    drawer = GumbelDraw(Sampling(temperature, top_p, tuple(range(draws))))
    chosen = drawer(torch.empty(0), LOGITS_BV.expand(draws, -1)).argmax(-1)
    return torch.bincount(chosen, minlength=4) / draws


def test_the_argmax_is_a_draw_from_the_softmax() -> None:
    expected = torch.tensor([0.5, 0.3, 0.15, 0.05])
    torch.testing.assert_close(frequencies(1.0, 1.0), expected, atol=0.03, rtol=0)
    cold = expected**2 / (expected**2).sum()
    torch.testing.assert_close(frequencies(0.5, 1.0), cold, atol=0.03, rtol=0)


def test_top_p_keeps_the_likeliest_and_always_one() -> None:
    kept = frequencies(1.0, 0.6)
    torch.testing.assert_close(kept, torch.tensor([0.625, 0.375, 0, 0]), atol=0.03, rtol=0)
    assert frequencies(1.0, 0.01)[0] == 1


def test_a_flat_distribution_has_a_nucleus_of_many_tokens() -> None:
    logits_BV = 0.1 * torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
    drawer = GumbelDraw(Sampling(1.0, 0.7, (0, 1)))
    kept = drawer(torch.empty(0), logits_BV).isfinite()
    probability_BV = logits_BV.softmax(-1)
    for kept_V, probability_V in zip(kept, probability_BV, strict=True):
        assert 0.7 <= probability_V[kept_V].sum() < 0.701
        assert probability_V[kept_V].min() >= probability_V[~kept_V].max()


def test_a_row_draws_the_same_whoever_is_beside_it() -> None:
    logits_BV = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(1.0, 0.9, (5, 6, 7))
    together, alone = GumbelDraw(sampling), GumbelDraw(sampling.of([2]))
    ids = torch.empty(0)
    for _ in range(3):  # a row's stream goes on from token to token
        three, one = together(ids, logits_BV), alone(ids, logits_BV[2:])
        assert torch.equal(three[2:], one)
    assert not torch.equal(together(ids, logits_BV[2:].expand(3, -1))[0], one[0])


def test_equally_likely_tokens_stay_or_go_whatever_the_row_beside_them() -> None:
    torch.manual_seed(0)
    vocabulary = 4 * _FEW
    # bf16 logits tie. A flat row beside them has no nucleus among the few likeliest.
    peaked = (torch.randn(1, vocabulary) * 3).bfloat16().float()
    flat = torch.zeros(1, vocabulary)
    for top_p in (0.5, 0.8, 0.9):
        alone = _nucleus(peaked, top_p).isfinite()
        assert 1 < int(alone.sum()) < _FEW
        assert torch.equal(_nucleus(torch.cat([peaked, flat]), top_p)[:1].isfinite(), alone)
        least = peaked[alone].min()
        assert torch.equal(alone, peaked >= least)
