"""The planned peak of a step is that of a real one, whatever losses it has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from planning_tools import Pair as Both
from planning_tools import pair
from run_tools import changed, tiny_recipe
from tiny import llama_config, save_model

from benchmarks.workload import Lengths, TokenIdEncoder
from lora_sku.data import Pair, StepDraw
from lora_sku.planning.live import LiveBytes
from lora_sku.planning.passes import training_moments
from lora_sku.planning.recipe_passes import stage_1_passes
from lora_sku.recipe import LossesSection, Recipe
from lora_sku.step import StepGradients

PROMPT, ANSWER, PROMPTS, K, NORMAL = 40, 24, 2, 3, 3
NONE: dict[str, Any] = {"weight": 0.0}
HARM = {"guided_distortion": {}, "random_disassociation": {"responses": K}}
PRESERVED = {"preservation_divergence": {"prompts": NORMAL}}
SAFE = {"safe_response": {"weight": 1.0}}
HELD = {"held_responses": {"weight": 1.0}}


def on(side: str) -> dict[str, Any]:
    return {"preservation_divergence": {"prompts": NORMAL, "side": side}}


CASES: dict[str, dict[str, Any]] = {
    "harm": HARM,
    "safe": SAFE,
    "negated": SAFE | PRESERVED | HELD,
    "acquired": SAFE | on("acquired"),
    "both": {"guided_distortion": {}, **on("both"), **HELD},
    "held": SAFE | HELD | {"preservation_divergence": {**NONE, "prompts": NORMAL}},
    "all": HARM | SAFE | PRESERVED | HELD,
}


def losses(case: Mapping[str, Any]) -> LossesSection:
    named = ("guided_distortion", "random_disassociation", "preservation_divergence")
    return LossesSection.model_validate(dict.fromkeys(named, NONE) | dict(case))


def make_draw(*, shared: int = 0) -> StepDraw:
    """Random token ids; the first ``shared`` of all prompts are the same."""
    source = torch.Generator().manual_seed(0)

    def text(tokens: int) -> str:
        return " ".join(map(str, torch.randint(5, 300, (tokens,), generator=source).tolist()))

    first = text(shared)
    forget, normal = (
        [f"{first} {text(PROMPT - shared)}" for _ in range(n)] for n in (PROMPTS, PROMPTS * NORMAL)
    )

    def answered(prompts: list[str]) -> tuple[Pair, ...]:
        return tuple((prompt, text(ANSWER)) for prompt in prompts)

    return StepDraw(
        forget=answered(forget),
        random=tuple(answered([prompt] * K) for prompt in forget),
        normal=answered(normal),
        safe=answered(forget),
        held=answered(normal),
    )


@pytest.fixture
def both(tmp_path: Path) -> Both:
    config = llama_config(num_hidden_layers=6, hidden_size=128, intermediate_size=384)
    return pair(save_model(tmp_path / "model", config), "none")


def real_peak(both: Both, section: LossesSection, draw: StepDraw) -> int:
    encoder = TokenIdEncoder(both.real.base.tokenizer, Lengths(PROMPT, ANSWER, K, PROMPTS))
    step = StepGradients(both.real, encoder, section, PROMPTS, torch.Tensor.backward)
    with LiveBytes() as live:
        step.accumulate(draw)
    return live.peak


def planned_peak(both: Both, recipe: Recipe, *, checkpointing: bool, packs: bool = True) -> int:
    _, passes = stage_1_passes(recipe, PROMPTS, None, packs=packs)
    return max(
        moment.total
        for work in passes
        for moment in training_moments(both.shape, both.setup, work, checkpointing=checkpointing)
    )


def recipe_with(section: LossesSection, folder: Path) -> Recipe:
    limits = {"max_prompt_tokens": PROMPT, "max_answer_tokens": ANSWER}
    recipe = tiny_recipe(folder / "model", folder)
    return changed(recipe, data=limits, losses=section.model_dump())


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_peak_of_a_real_step_is_the_planned_one(
    both: Both, tmp_path: Path, case: str, checkpointing: bool
) -> None:
    section = losses(CASES[case])
    if checkpointing:
        both.real.base.model.activation_checkpointing_enable({"use_reentrant": False})
    planned = planned_peak(both, recipe_with(section, tmp_path), checkpointing=checkpointing)
    assert planned == pytest.approx(real_peak(both, section, make_draw()), rel=0.1)


@pytest.mark.parametrize("case", ["harm", "negated"])
def test_the_layers_below_the_adapter_keep_nothing(tmp_path: Path, case: str) -> None:
    config = llama_config(num_hidden_layers=6, hidden_size=128, intermediate_size=384)
    folder = save_model(tmp_path / "model", config)
    upper = pair(folder, "none", layers_to_transform=(3, 4, 5))
    section = losses(CASES[case])
    planned = planned_peak(upper, recipe_with(section, tmp_path), checkpointing=False)
    assert planned == pytest.approx(real_peak(upper, section, make_draw()), rel=0.1)


@pytest.mark.parametrize("case", CASES)
def test_what_prompts_have_in_common_makes_the_plan_an_upper_bound(
    both: Both, tmp_path: Path, case: str
) -> None:
    section = losses(CASES[case])
    planned = planned_peak(both, recipe_with(section, tmp_path), checkpointing=False)
    apart, common = (real_peak(both, section, make_draw(shared=n)) for n in (0, PROMPT // 2))
    assert common < apart <= planned * 1.1
    assert common < planned
