"""The shipped prompts: enough of every kind, and no question twice in any two files or splits."""

import json
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import lora_sku
from lora_sku.data import load_data, same_prompt
from lora_sku.judges import classify
from lora_sku.metrics import rouge_l, words
from lora_sku.recipe_file import load_recipe

FOLDER = Path(lora_sku.__file__).parent / "demo"
FILES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))
# From this likeness on, two prompts are the same question in other words.
ALIKE = 0.6


@cache
def records(name: str) -> tuple[dict[str, str], ...]:
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def categories(name: str) -> Counter[str]:
    return Counter(record["category"] for record in records(name))


def test_these_are_all() -> None:
    assert FILES == ["contrasts", "forget", "hard-negatives", "lookalikes", "other-harm", "retain"]


@pytest.mark.parametrize("name", FILES)
def test_a_record_is_a_prompt_with_a_response_and_its_category(name: str) -> None:
    for record in records(name):
        assert list(record) == ["prompt", "response", "category"]
        assert all(value == value.strip() != "" for value in record.values())
        assert 1 <= len(words(record["prompt"])) <= 70
        assert len(words(record["response"])) <= 90


@pytest.mark.parametrize("name", ["forget", "other-harm"])
def test_harmful_responses_comply(name: str) -> None:
    assert {classify(record["response"]) for record in records(name)} == {"other"}


@pytest.mark.parametrize(
    ("name", "least", "kinds"), [("forget", 300, 12), ("retain", 500, 12), ("other-harm", 60, 3)]
)
def test_there_are_enough_of_every_kind(name: str, least: int, kinds: int) -> None:
    found = categories(name)
    assert found.total() >= least
    assert len(found) >= kinds
    assert min(found.values()) >= least / kinds / 2


def test_there_are_enough_hard_negatives_with_the_lookalikes() -> None:
    assert categories("hard-negatives").total() + categories("lookalikes").total() >= 300
    assert categories("lookalikes").total() >= 40
    assert len(categories("lookalikes")) == 3


@pytest.mark.parametrize(
    ("held_back", "trained"), [("other-harm", "forget"), ("lookalikes", "hard-negatives")]
)
def test_kinds_that_only_the_evaluation_asks_are_not_trained_on(
    held_back: str, trained: str
) -> None:
    assert len(categories(held_back)) == 3
    assert not categories(held_back).keys() & categories(trained).keys()


def test_no_prompt_stands_twice_in_any_two_files() -> None:
    asked = Counter(same_prompt(record["prompt"]) for name in FILES for record in records(name))
    assert [prompt for prompt, times in asked.items() if times > 1] == []


def parts() -> dict[str, list[str]]:
    """Split -> its prompts, as the recipe of the demo sees them; a file that it splits not, whole.

    What is drawn for training, chosen on and reported must be different questions.
    """
    recipe = load_recipe("smollm2-135m")
    data = load_data(recipe.data, None)
    found: dict[str, list[str]] = {}
    for name, splits in {"forget": data.forget, **data.normal}.items():
        for split, rows in splits.named().items():
            found[f"{name}, {split}"] = [row.prompt for row in rows]
    split = {same_prompt(prompt) for prompts in found.values() for prompt in prompts}
    for name in FILES:
        prompts = [record["prompt"] for record in records(name)]
        rest = [prompt for prompt in prompts if same_prompt(prompt) not in split]
        assert rest in ([], prompts), f"{name} is split in part"
        if rest:
            found[name] = rest
    return found


def test_no_two_prompts_of_different_splits_are_alike() -> None:
    said = [(part, text, words(text)) for part, prompts in parts().items() for text in prompts]
    assert len(said) == sum(len(records(name)) for name in FILES)
    of_text = [Counter(tokens) for _, _, tokens in said]
    # A likeness of ALIKE takes so many words in common, in whatever order; rare words tell first.
    known = Counter(word for tokens in of_text for word in tokens)
    holders: dict[str, list[int]] = {}
    near: set[tuple[int, int]] = set()
    for number, tokens in enumerate(of_text):
        # Sharing less than ALIKE of its words leaves that many out: some of these is shared.
        spared = sorted(tokens, key=known.__getitem__)
        needed = ALIKE / (2 - ALIKE) * len(said[number][2])
        prefix, left = [], len(said[number][2])
        for word in spared:
            if left < needed:
                break
            prefix.append(word)
            left -= tokens[word]
        for word in prefix:
            near.update((other, number) for other in holders.get(word, ()))
        for word in tokens:
            holders.setdefault(word, []).append(number)
    alike = []
    for one, other in near:
        (part, text, tokens), (other_part, other_text, other_tokens) = said[one], said[other]
        if part == other_part:
            continue
        common = (of_text[one] & of_text[other]).total()
        if 2 * common >= ALIKE * (len(tokens) + len(other_tokens)):
            likeness = rouge_l(text, other_text)
            if likeness >= ALIKE:
                alike.append((round(likeness, 2), part, text, other_part, other_text))
    assert sorted(alike, reverse=True) == []
