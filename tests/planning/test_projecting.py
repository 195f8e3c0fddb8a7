"""The stages that projection and sweep add to a plan, beside what they really take."""

from pathlib import Path

import pytest
import torch
from run_tools import changed
from tiny import adapt, load, make_encoder, teach, write_data

from lora_sku.candidates import candidates
from lora_sku.data import load_data
from lora_sku.gradients import AnswerGradients
from lora_sku.live_factors import LiveFactors
from lora_sku.model import ACQUIRED
from lora_sku.natural_step import PAIRS_PER_PROMPT, natural_step
from lora_sku.planning import knobs, plan
from lora_sku.planning.live import LiveBytes
from lora_sku.projection import Projector, solver_bytes
from lora_sku.recipe import BalanceSection, ProjectionSection, Recipe
from lora_sku.recipe_file import load_recipe

GIB = 2**30


@pytest.mark.parametrize(
    ("negation", "stages"),
    [
        ({}, []),
        ({"strength": "auto"}, ["sweep"]),
        ({"projection": {"mu": 3.0}}, ["project"]),
        ({"strength": "auto", "projection": {"mu": "auto"}}, ["project", "sweep"]),
    ],
)
def test_the_plan_has_the_stages_that_the_recipe_asks_for(
    recipe: Recipe, negation: dict[str, object], stages: list[str]
) -> None:
    planned = plan(changed(recipe, negation=negation))
    assert [stage.stage for stage in planned.stages] == ["acquire", *stages, "evaluate"]
    for stage in planned.stages:
        assert stage.total > stage.bytes_of("base weights") > 0


@pytest.mark.parametrize("features", [700, 2500])
@pytest.mark.parametrize("tokens", [(300, 300), (600, 500)])
def test_the_solver_takes_what_it_says(features: int, tokens: tuple[int, int]) -> None:
    torch.manual_seed(0)
    forget, retain = (torch.randn(n, features, dtype=torch.bfloat16) for n in tokens)
    a = torch.randn(4, features)
    with LiveBytes() as live:
        Projector(forget, retain).project(a, 3.0)
    assert live.peak == pytest.approx(solver_bytes(features, *tokens), rel=0.15)


def test_the_stage_takes_what_is_planned(recipe: Recipe, tmp_path: Path) -> None:
    recipe = changed(recipe, negation={"projection": {"mu": 3.0, "tokens": 100}})
    model = adapt(load(Path(recipe.base_model.path)))
    teach(model)
    encoder = make_encoder(model.base)
    data = load_data(write_data(tmp_path), encoder)
    section = recipe.negation.projection
    assert isinstance(section, ProjectionSection)
    rows = recipe.evaluation.per_device_eval_batch_size
    with LiveBytes() as live:
        factors = LiveFactors(model, ACQUIRED)
        candidates(
            model,
            factors,
            data.forget.train,
            [data.retain.train],
            encoder,
            section,
            rows=rows,
            seed=0,
        )
    stage = plan(recipe).stage("project")
    own = stage.tensors - stage.bytes_of("base weights") - stage.bytes_of("adapter weights")
    # The texts are shorter than planned, and shared inputs are counted for each layer.
    assert 0.3 * own <= live.peak <= own


def test_a_7b_stays_below_its_own_training_on_a_card() -> None:
    recipe = load_recipe(
        "llama2-7b",
        ["negation.strength=auto", "negation.projection={mu: auto}", "adapter.r=16"],
    )
    recipe = changed(recipe, adapter={"target_modules": "all-linear"})
    planned = plan(recipe)
    assert planned.peak.stage == "acquire"
    stage = planned.stage("project")
    assert stage.total < 7 * GIB
    # Its widest input is 11,008, and is solved with by tokens; samples and copies are not there.
    assert stage.moment == "solving"
    tokens = 2 * recipe.negation.projection.tokens  # type: ignore[union-attr]
    assert stage.bytes_of("layer at work") == solver_bytes(11008, tokens // 2, tokens // 2)
    assert stage.bytes_of("activations") == tokens * 11008 * 2
    assert stage.bytes_of("adapter copies") == 0
    on_cpu = plan(recipe, device="cpu").stage("project")
    # Both factors once, and A for each of the four mus: 16 rows of fp32.
    inputs, outputs = 6 * 4096 + 11008, 5 * 4096 + 2 * 11008
    assert on_cpu.bytes_of("adapter copies") == 32 * 16 * 4 * (outputs + inputs + 5 * inputs)
    assert on_cpu.bytes_of("activations") == GIB


def test_a_fixed_subspace_halves_what_is_trained_and_keeps_no_inputs(recipe: Recipe) -> None:
    free, fixed = (
        plan(changed(recipe, adapter={"subspace": subspace}), device="cpu").stage("acquire")
        for subspace in (None, {"tokens": 60})
    )
    assert fixed.bytes_of("adapter weights") == free.bytes_of("adapter weights")
    for line in ("gradients", "optimizer state"):
        assert 0 < fixed.bytes_of(line) < free.bytes_of(line)
    assert fixed.bytes_of("activations") < 0.9 * free.bytes_of("activations")
    stages = plan(changed(recipe, adapter={"subspace": {"tokens": 60}})).stages
    assert [stage.stage for stage in stages] == ["subspace", "acquire", "evaluate"]


def test_fewer_tokens_are_a_knob(recipe: Recipe) -> None:
    recipe = changed(recipe, negation={"projection": {"mu": 3.0}})
    assert "negation.projection.tokens=2048" in {knob.setting for knob in knobs(recipe)}
    recipe = changed(recipe, adapter={"subspace": {"tokens": 60, "discriminants": None}})
    assert "adapter.subspace.tokens=30" in {knob.setting for knob in knobs(recipe)}
    recipe = changed(recipe, adapter={"subspace": {"discriminants": {}}, "r": 4})
    assert "adapter.subspace.discriminants.prompts=128" in {k.setting for k in knobs(recipe)}
    assert not any(
        "projection" in k.setting for k in knobs(changed(recipe, negation={"projection": None}))
    )
    recipe = changed(recipe, training={"natural_step": {"pairs": 8, "tokens": 60}})
    assert "training.natural_step.tokens=30" in {knob.setting for knob in knobs(recipe)}


def test_a_natural_step_takes_what_is_planned(recipe: Recipe, tmp_path: Path) -> None:
    # Beside 2,000 positions' gradients, what goes through the model is little.
    keys = {"natural_step": {"pairs": 400, "tokens": 2000}}
    recipe = changed(recipe, training=keys, negation={"balance": {}})
    model = adapt(load(Path(recipe.base_model.path)))
    encoder = make_encoder(model.base)
    data = load_data(write_data(tmp_path), encoder)
    rows = [row for _ in range(70) for row in data.retain.train]  # enough answer tokens
    section = recipe.training.natural_step
    assert section is not None
    pairs = recipe.training.per_device_train_batch_size * PAIRS_PER_PROMPT
    with LiveBytes() as live:
        natural_step(
            AnswerGradients(model, ACQUIRED, encoder, pairs_at_once=pairs, where="here"),
            data.forget.train,
            [rows],
            recipe.losses,
            section,
            BalanceSection(),
            seed=0,
        )
    stage = plan(recipe, device="cpu").stage("acquire")
    own = stage.tensors - stage.bytes_of("base weights") - stage.bytes_of("adapter weights")
    assert 0.6 * own <= live.peak <= 1.1 * own


def test_a_natural_step_holds_no_optimizer_and_on_a_card_no_samples() -> None:
    recipe = load_recipe("llama2-7b", ["training.natural_step={}"])
    stage = plan(recipe).stage("acquire")
    assert stage.bytes_of("optimizer state") == stage.bytes_of("adapter copies") == 0
    trained = plan(load_recipe("llama2-7b")).stage("acquire")
    assert trained.bytes_of("base weights") < stage.total < trained.total
    assert plan(recipe, device="cpu").stage("acquire").bytes_of("adapter copies") > 0


def test_a_natural_step_takes_single_pairs_through_the_model(recipe: Recipe) -> None:
    def acquiring(k: int, prompts: int, micro_batch: int) -> int:
        losses = {
            "random_disassociation": {"responses": k},
            "preservation_divergence": {"prompts": prompts},
        }
        keys = {"natural_step": {"pairs": 8, "tokens": 4}}
        asked = changed(recipe, training=keys, losses=losses)
        return plan(asked, micro_batch=micro_batch).stage("acquire").total

    assert acquiring(9, 2, 2) == acquiring(1, 4, 2) > acquiring(1, 4, 1)
    pairs = changed(recipe, training={"natural_step": {"pairs": 8, "tokens": 4}})
    assert not any("responses" in knob.setting for knob in knobs(pairs))
