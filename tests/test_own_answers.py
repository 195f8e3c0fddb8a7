"""The base's own answers: its own, whatever the adapter and the batch, and remembered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import FORGET, adapt, load, make_encoder, teach

from lora_sku import own_answers
from lora_sku.errors import StorageError
from lora_sku.generation import Completion
from lora_sku.model import AdaptedModel
from lora_sku.own_answers import OwnAnswers, whole
from lora_sku.recipe import OwnAnswersSection

PROMPTS = list(FORGET)[:5]
Ask = Callable[..., list[tuple[str, ...]]]


@pytest.fixture
def model(tiny_llama: Path) -> AdaptedModel:
    model = adapt(load(tiny_llama))
    teach(model, std=0.3)
    return model


@pytest.fixture
def ask(model: AdaptedModel, tmp_path: Path) -> Ask:
    def ask(prompts: list[str] = PROMPTS, **keys: Any) -> list[tuple[str, ...]]:
        prefix, cache = keys.pop("prefix", None), keys.pop("cache", tmp_path / "cache")
        rows, seed = keys.pop("batch_size", 4), keys.pop("seed", 0)
        section = OwnAnswersSection.model_validate({"max_new_tokens": 6, **keys})
        asker = OwnAnswers(
            keys.get("model", model),
            make_encoder(model.base),
            section,
            seed,
            rows,
            cache,
            lambda *_: None,
        )
        return asker.to(prompts, prefix=prefix)

    return ask


def no_more(*_: Any, **__: Any) -> Any:
    pytest.fail("asked again")


def test_answers_depend_on_the_prompt_and_the_seed_alone(ask: Ask, tmp_path: Path) -> None:
    said = ask()
    assert len(said) == 5
    assert all(1 <= len(texts) <= 3 for texts in said)
    assert len({text for texts in said for text in texts}) > 10
    alone = ask(PROMPTS[2:3], batch_size=1, cache=tmp_path / "other")
    assert alone == said[2:3]
    assert ask(seed=1) != said


def test_the_adapter_is_off_and_the_training_mode_does_not_matter(
    ask: Ask, model: AdaptedModel, tmp_path: Path
) -> None:
    said = ask()
    teach(model, seed=9, std=1.0)
    model.peft_model.train()
    assert ask(cache=tmp_path / "other") == said


def test_they_are_remembered_on_disk(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ask()
    more = ask([*PROMPTS, "Why?"])
    assert more[:5] == said
    monkeypatch.setattr(own_answers, "complete", no_more)
    assert ask([*reversed(PROMPTS)]) == said[::-1]
    (file,) = (tmp_path / "cache").iterdir()
    assert len(file.read_text().splitlines()) == 6
    file.write_text(file.read_text()[:-20])
    with pytest.raises(StorageError, match="damaged"):
        ask()


@pytest.mark.parametrize(
    "keys", [{"temperature": 0.5}, {"top_p": 0.5}, {"seed": 3}, {"prefix": "Sure,"}]
)
def test_another_way_of_asking_finds_nothing(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    ask(PROMPTS[:1])
    monkeypatch.setattr(own_answers, "complete", no_more)
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        ask(PROMPTS[:1], **keys)


def test_a_prefix_is_part_of_the_answer(ask: Ask) -> None:
    plain, led = ask(PROMPTS[:2]), ask(PROMPTS[:2], prefix="Sure, ")
    assert all(text.startswith("Sure, ") for texts in led for text in texts)
    assert not any(text.startswith("Sure, ") for texts in plain for text in texts)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two. Thr", "One. Two."),
        ("No end at al", "No end at al"),
        ("It costs 2.50 eu", "It costs 2.50 eu"),
        ("1. Wait.\n2. Do", "1. Wait."),
        ('He said "no!" and th', 'He said "no!"'),
        ("(It rains.) And", "(It rains.)"),
        ("Done.", "Done."),
        ("", ""),
    ],
)
def test_a_broken_off_sentence_goes(text: str, kept: str) -> None:
    assert whole(Completion(text, ended=False)) == kept
    assert whole(Completion(text, ended=True)) == text


def test_what_another_run_writes_meanwhile_takes_nothing_away(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_answers, "_PROMPTS_AT_ONCE", 2)
    said = ask(cache=tmp_path / "other")
    (file,) = (tmp_path / "other").iterdir()
    first = file.read_text().splitlines(keepends=True)[0]
    draw = own_answers.complete

    def beside_another_run(*args: Any, **keys: Any) -> list[Completion]:
        (tmp_path / "cache").mkdir(exist_ok=True)
        (tmp_path / "cache" / file.name).write_text(first)
        return draw(*args, **keys)

    monkeypatch.setattr(own_answers, "complete", beside_another_run)
    assert ask() == said
    assert len((tmp_path / "cache" / file.name).read_text().splitlines()) == 5
