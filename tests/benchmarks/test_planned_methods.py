"""The planned methods differ where the methods differ."""

import pytest
import torch

from benchmarks.planned_methods import Work, compare, count_full_logits, published, textbook
from lora_sku.architectures import find_config
from lora_sku.planning.layers import Tokens
from lora_sku.planning.plan import Setup
from lora_sku.planning.recipe_passes import Lengths
from lora_sku.planning.shapes import ModelShape, model_shape
from lora_sku.recipe import BaseModelSection

GIB = 2**30
WORK = Work(prompts=1, responses=5, lengths=Lengths(148, 147))
SETUP = Setup("cuda", "nf4", torch.bfloat16, rank=16)


@pytest.fixture(scope="module")
def llama_2_7b() -> ModelShape:
    path = "meta-llama/Llama-2-7b-hf"
    return model_shape(find_config(BaseModelSection(path=path)), path, torch.bfloat16, "nf4")


def test_ours_needs_least_and_the_published_most(llama_2_7b: ModelShape) -> None:
    totals = {stage.stage: stage.total for stage in compare(llama_2_7b, SETUP, WORK)}
    assert list(totals) == ["acquire", "textbook", "full", "published", "negate"]
    assert totals["acquire"] < totals["textbook"] < totals["full"] < totals["published"]
    assert totals["full"] > 6 * llama_2_7b.parameters  # 2 + 2 + 2 bytes a parameter
    assert totals["negate"] > 10 * llama_2_7b.parameters  # five copies of 2 bytes


def test_the_published_one_holds_a_second_base(llama_2_7b: ModelShape) -> None:
    training, _ = published(llama_2_7b, SETUP, WORK)
    assert training.bytes_of("reference weights") == training.bytes_of("base weights") > 12 * GIB


def test_without_checkpointing_the_textbooks_graphs_add_up(llama_2_7b: ModelShape) -> None:
    on, off = (
        textbook(llama_2_7b, Setup("cuda", "nf4", torch.bfloat16, 16, checkpointing=c), WORK)
        for c in (True, False)
    )
    assert off.bytes_of("activations") > 5 * on.bytes_of("activations")


def test_full_logits_cost_the_known_bytes_a_token_and_word(llama_2_7b: ModelShape) -> None:
    words = 100 * llama_2_7b.vocabulary
    nll, kl = (count_full_logits(llama_2_7b, Tokens(2, 50), kl=kl) for kl in (False, True))
    assert 8 <= max(nll.forward_peak, nll.backward_peak) / words <= 16
    assert 14 <= max(kl.forward_peak, kl.backward_peak) / words <= 28
