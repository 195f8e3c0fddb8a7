"""Filters of a task vector, beside the dense computation."""

import pytest
import torch

from lora_sku.task_vectors import layer_index, leading_part, with_layer_strengths


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_the_leading_part_is_the_truncated_svd_of_the_product(kept: int) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5, 20), torch.randn(12, 5)
    u, s, v = torch.linalg.svd(b @ a, full_matrices=False)
    a_kept, b_kept = leading_part(a, b, kept)
    assert a_kept.shape == (kept, 20)
    assert b_kept.shape == (12, kept)
    assert a_kept.dtype == b_kept.dtype == torch.float32
    expected = (u[:, :kept] * s[:kept]) @ v[:kept]
    torch.testing.assert_close(b_kept @ a_kept, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [0, 6])
def test_more_directions_than_there_are_is_refused(kept: int) -> None:
    with pytest.raises(ValueError, match=f"no {kept} leading"):
        leading_part(torch.randn(5, 20), torch.randn(12, 5), kept)


def test_each_layer_gets_its_own_strength() -> None:
    a, b = torch.randn(2, 4), torch.randn(3, 2)
    names = [f"model.layers.{i}.mlp.up_proj" for i in (0, 1, 12)]
    weighted = with_layer_strengths(dict.fromkeys(names, (a, b)), {0: 0.0, 12: 2.0})
    assert list(weighted) == names
    for name, strength in zip(names, (0.0, 1.0, 2.0), strict=True):
        assert torch.equal(weighted[name][0], a)
        assert torch.equal(weighted[name][1], b * strength)


def test_a_module_outside_the_layers_has_no_index() -> None:
    assert layer_index("transformer.h.7.attn.c_attn") == 7
    with pytest.raises(ValueError, match="lm_head is in no"):
        layer_index("lm_head")
