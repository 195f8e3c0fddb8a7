"""What trains, what chooses and what is reported on, as the benchmark hands it out."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from tiny import adapt, load
from tradeoff_tools import write_data_folder

from benchmarks import tradeoff_bench, tradeoff_scores, tradeoff_sets
from benchmarks.tradeoff_bench import Bench, Sizes
from benchmarks.tradeoff_data import load_tradeoff_data
from benchmarks.tradeoff_sets import normal_sets
from benchmarks.tradeoff_training import Stage1
from lora_sku.data import Row
from lora_sku.data.rows import normalised
from lora_sku.likelihood import AnswerScorer
from lora_sku.recipe import OwnPromptsSection, Recipe
from lora_sku.stages import load_encoder

SIZES = Sizes(2, 2, 2, validation=2, unseen=2, new_tokens=3, learning_rates=(1e-3,))


class FakeDraws:
    """Draws given prompts, and answers any."""

    def __init__(self, prompts: list[str]) -> None:
        self.prompts = lambda: prompts

    def normal(self, rows: list[Row]) -> list[tuple[str, ...]]:
        return [("An answer.",) for _ in rows]


@pytest.fixture
def drawing(recipe: Recipe) -> Recipe:
    """The tiny recipe with own prompts."""
    data = recipe.data.model_copy(update={"own_prompts": OwnPromptsSection(count=30)})
    return recipe.model_copy(update={"data": data})


def prompts_of(rows: Any) -> set[str]:
    return {normalised(row.prompt) for row in rows}


def test_no_own_prompt_is_one_of_another_set(
    drawing: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(drawing)
    whole = load_tradeoff_data(write_data_folder(tmp_path / "pku"), encoder)
    cut = whole.at_most(validation=2, unseen=2)
    # Beyond the cut too: benchmarks.confirm reports on those.
    taken = [
        *(rows[-1].prompt for rows in (*whole.forget.named().values(), whole.normal.unseen)),
        whole.general.unseen[-1].prompt,
        whole.facts[0].question,
    ]
    drawn = [f"  {prompt.upper()}" for prompt in taken] + [f"Prompt {n}?" for n in range(20)]
    monkeypatch.setattr(tradeoff_sets, "make_elicitor", lambda *_: FakeDraws(drawn))
    model = adapt(load(Path(drawing.base_model.path)))
    sets = normal_sets(drawing.data, drawing.evaluation, whole, cut, model, encoder)
    own = sets.spared["own_prompts"]
    kept = prompts_of((*own.train, *own.validation, *own.unseen))
    assert kept == {f"prompt {n}?" for n in range(20)}
    assert {*prompts_of(own.train), *prompts_of(cut.normal.train)} == prompts_of(sets.preserved)


def test_training_choosing_and_reporting_get_different_prompts(
    drawing: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: set[str] = set()
    chosen: set[str] = set()
    reported: set[str] = set()

    def stage_1(*given: Any) -> Stage1:
        made = Stage1(*given)
        for rows in (made.forget, made.sets.preserved, *made.sets.trained):
            trained.update(prompts_of(rows))
        return made

    def scorer(into: set[str]) -> Any:
        def made(model: Any, encoder: Any, rows: Any, **keys: Any) -> AnswerScorer:
            into.update(prompts_of(rows))
            return AnswerScorer(model, encoder, rows, **keys)

        return made

    draws = FakeDraws([f"Prompt {n}?" for n in range(20)])
    monkeypatch.setattr(tradeoff_sets, "make_elicitor", lambda *_: draws)
    monkeypatch.setattr(tradeoff_bench, "Stage1", stage_1)
    monkeypatch.setattr(tradeoff_bench, "AnswerScorer", scorer(chosen))
    monkeypatch.setattr(tradeoff_scores, "AnswerScorer", scorer(reported))
    Bench(drawing, write_data_folder(tmp_path / "pku"), SIZES, tmp_path / "out")
    assert all(len(prompts) > 5 for prompts in (trained, chosen))
    assert len(reported) == 6  # two of each kind
    for one, other in combinations((trained, chosen, reported), 2):
        assert not one & other
