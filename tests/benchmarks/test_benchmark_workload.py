"""Random token ids have the lengths asked for, whoever encodes them."""

from pathlib import Path

from bench_tools import make_setup
from run_tools import changed

from benchmarks.setup import Setup, refuse_other_losses
from benchmarks.workload import Lengths, id_pairs, recipe_draws
from lora_sku.recipe import Recipe

LENGTHS = Lengths(prompt_tokens=7, answer_tokens=5, responses=3, prompts=2, normal_prompts=2)


def test_every_pair_has_the_lengths(tiny_llama: Path) -> None:
    encoder, draws = id_pairs(make_setup(tiny_llama), LENGTHS, 3)
    assert len(draws) == 3
    for draw in draws:
        assert [len(group) for group in (draw.forget, draw.random, draw.normal)] == [2, 2, 4]
        assert [len(pairs) for pairs in draw.random] == [3, 3]
        for (prompt, _), pairs in zip(draw.forget, draw.random, strict=True):
            assert {other for other, _ in pairs} == {prompt}
        for pair in (*draw.forget, *draw.random[0], *draw.random[1], *draw.normal):
            encoded = encoder.encode(*pair)
            assert (encoded.prompt_length, len(encoded.input_ids)) == (7, 12)
            assert all(0 <= token < 300 for token in encoded.input_ids)
            assert encoder.prompt_length(pair[0]) == 7
            assert encoder.answer_length(pair[1]) == 5


def test_the_seed_decides_the_pairs(tiny_llama: Path) -> None:
    def drawn(seed: int) -> object:
        return id_pairs(make_setup(tiny_llama, seed=seed), LENGTHS, 2)[1]

    assert drawn(1) == drawn(1) != drawn(2)


def test_tokens_in_flight() -> None:
    lengths = Lengths(prompt_tokens=64, answer_tokens=160, responses=5, prompts=1)
    assert lengths.shared_tokens == 1024
    assert lengths.separate_tokens == 6 * 224


def test_a_recipe_draws_as_its_training_would(recipe: Recipe) -> None:
    encoder, draws = recipe_draws(recipe, 2)
    assert len(draws) == 2
    batch = recipe.training.per_device_train_batch_size
    responses = recipe.losses.random_disassociation.responses
    for draw in draws:
        assert len(draw.forget) == batch
        assert {len(pairs) for pairs in draw.random} == {responses}
        assert len(draw.normal) == batch * recipe.losses.preservation_divergence.prompts
        assert encoder.encode(*draw.forget[0]).prompt_length > 0


def test_every_method_has_the_papers_losses(recipe: Recipe) -> None:
    ours = {
        "random_disassociation": {"weight": 0.0, "responses": 3},
        "preservation_divergence": {"weight": 6.0, "prompts": 2},
        "safe_response": {"weight": 1.0},
        "held_responses": {"weight": 6.0},
    }
    losses = Setup.of(changed(recipe, losses=ours)).losses
    refuse_other_losses(losses)
    random, kept = losses.random_disassociation, losses.preservation_divergence
    assert (random.responses, kept.prompts, kept.side) == (3, 2, "acquired")
    weights = (losses.guided_distortion.weight, random.weight, kept.weight)
    assert weights == (2.5, 2.5, 1.0)
