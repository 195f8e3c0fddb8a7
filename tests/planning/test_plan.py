"""Plans against what others measured on GPUs, with one set of constants for all."""

import pytest
import torch

from lora_sku.architectures import find_config
from lora_sku.planning.layers import Tokens
from lora_sku.planning.passes import Moment, Pass
from lora_sku.planning.plan import Line, Plan, Setup, StagePlan, at_peak, plan_training
from lora_sku.planning.shapes import ModelShape, model_shape
from lora_sku.recipe import BaseModelSection

GIB = 2**30


def shape_of(path: str) -> ModelShape:
    return model_shape(find_config(BaseModelSection(path=path)), path, torch.bfloat16, "nf4")


def published(**changes: object) -> Setup:
    """NF4 with double quantization, factors in the compute dtype, torch's AdamW, as both had it."""
    settings: dict[str, object] = {
        "device": "cuda",
        "quantization": "nf4",
        "dtype": torch.bfloat16,
        "rank": 8,
        "optimizer": "adamw_torch",
        "adapter_dtype": torch.bfloat16,
        "branch": "peft",
    }
    return Setup(**{**settings, **changes})  # type: ignore[arg-type]


def test_torchtunes_qlora_of_llama_3_1_8b() -> None:
    # 2 x 2048 tokens, all linear layers, checkpointing, chunked cross-entropy: 7.4 GiB.
    work = Pass("sft", Tokens(2, 2048), (4096,), "nll")
    stage = plan_training(shape_of("meta-llama/Llama-3.1-8B-Instruct"), published(), [work])
    assert stage.tensors == pytest.approx(7.4 * GIB, rel=0.15)
    assert stage.total == pytest.approx(7.4 * GIB, rel=0.15)


@pytest.mark.parametrize(
    ("path", "measured_gb"),
    [("meta-llama/Llama-2-7b-hf", 13.84), ("meta-llama/Llama-2-13b-hf", 22.55)],
)
def test_litgpts_lora_of_llama_2(path: str, measured_gb: float) -> None:
    # 1 x 1304 tokens, q and v, dropout 0.05, no checkpointing, bitsandbytes of 2023.
    setup = published(
        targets=("q_proj", "v_proj"), checkpointing=False, dropout=0.05, keeps_inputs=True
    )
    work = Pass("sft", Tokens(1, 1304), (1304,), "nll")
    stage = plan_training(shape_of(path), setup, [work])
    assert stage.tensors == pytest.approx(measured_gb * 1e9, rel=0.15)
    assert stage.total == pytest.approx(measured_gb * 1e9, rel=0.15)


def test_the_lines_add_up_at_the_largest_moment() -> None:
    moments = [Moment("early", activations=5), Moment("late", activations=3, layer=4, loss=1)]
    stage = at_peak("acquire", [Line("base weights", 100)], moments, 10, "cuda")
    assert stage.moment == "late"
    assert stage.bytes_of("activations") == 3
    assert stage.bytes_of("no such part") == 0
    assert stage.tensors == 100 + 8 + 10
    assert stage.total == stage.tensors + stage.bytes_of("framework")
    assert sum(stage.as_dict()["lines"].values()) == stage.as_dict()["total"]


def test_a_plan_is_as_large_as_its_largest_stage() -> None:
    small, large = (StagePlan(n, "m", (Line("x", n_),)) for n, n_ in (("a", 1), ("b", 2)))
    planned = Plan("model", "cuda", 1, 10, True, (small, large))
    assert (planned.peak, planned.total) == (large, 2)
    assert planned.stage("a") is small
    assert set(planned.as_dict()) == {
        *("model", "device", "micro_batch", "tokens", "upper_bound"),
        *("total", "total_gib", "stages"),
    }
