"""The data section: names of protected sets."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from lora_sku.errors import RecipeError
from lora_sku.recipe import DataSection
from lora_sku.recipe_file import load_recipe

SOURCE = {"path": "some.jsonl", "format": "alpaca"}


def test_protected_sets_have_names_of_their_own() -> None:
    section = DataSection.model_validate(
        {"forget": SOURCE, "retain": SOURCE, "protect": {"shop_2": SOURCE}}
    )
    assert section.protect["shop_2"].format == "alpaca"
    for name in ("retain", "forget", "hard_negatives", "own_prompts", "a.b", "", "Shop", "2"):
        with pytest.raises(ValidationError, match="cannot name a protected set"):
            DataSection.model_validate(
                {"forget": SOURCE, "retain": SOURCE, "protect": {name: SOURCE}}
            )


def test_a_protected_set_can_be_named_on_the_command_line(tmp_path: Path) -> None:
    recipe = load_recipe(
        "smollm2-135m",
        ["data.protect.shop.path=shop.jsonl", "data.protect.shop.format=prompt-response"],
    )
    assert recipe.data.protect["shop"].path == "shop.jsonl"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.protect.shop.fromat=x", "did you mean format"),
        ("data.protect.shop.format=alpca", "did you mean alpaca"),
        ("data.protect.shop.split=1", "data.protect.shop.path: missing; Hub id"),
    ],
)
def test_what_is_wrong_with_a_protected_set_is_told_by_its_keys(override: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        load_recipe("smollm2-135m", [override])


def test_hard_negatives_are_protected_after_the_named_sets() -> None:
    section = DataSection.model_validate(
        {"forget": SOURCE, "retain": SOURCE, "protect": {"shop": SOURCE}, "hard_negatives": SOURCE}
    )
    assert list(section.protected) == ["shop", "hard_negatives"]
    assert list(section.protect) == ["shop"]
    assert not section.asks_the_base
    own = SOURCE | {"answers": "own"}
    asking = DataSection.model_validate({"forget": SOURCE, "retain": SOURCE, "hard_negatives": own})
    assert asking.asks_the_base
    bare = DataSection.model_validate({"forget": SOURCE, "retain": SOURCE})
    assert bare.protected == {}


@pytest.mark.parametrize("name", ["safe_responses", "forget_unseen"])
def test_what_is_not_trained_to_be_forgotten_has_given_answers(name: str) -> None:
    sets = {"forget": SOURCE, "retain": SOURCE}
    assert getattr(DataSection.model_validate(sets | {name: SOURCE}), name) is not None
    for answers in ("own", "both"):
        with pytest.raises(ValidationError, match="answers must be given"):
            DataSection.model_validate(sets | {name: SOURCE | {"answers": answers}})
