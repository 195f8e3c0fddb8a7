"""The judges' sections: what each judge needs, said before anything runs."""

from typing import Any

import pytest
from pydantic import ValidationError

from lora_sku.recipe_judges import ClassifierSection, JudgesSection, OpenAISection


def test_by_default_the_base_itself_judges() -> None:
    assert JudgesSection().judges == ("compliance",)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"judges": ["refusal", "refusal"]}, "names one of them twice"),
        ({"judges": []}, "at least 1 item"),
        ({"judges": ["classifier"]}, r"needs classifier\.preset, or classifier\.path"),
        (
            {"judges": ["classifier"], "classifier": {"path": "a/b"}},
            r"or classifier\.path and classifier\.kind",
        ),
        (
            {
                "judges": ["classifier"],
                "classifier": {"path": "a/b", "kind": "causal", "harmful": ["yes"]},
            },
            r"needs classifier\.harmful and classifier\.harmless",
        ),
        ({"judges": ["openai"]}, r"needs openai\.model"),
        ({"compliance": {"calibration_pairs": 1}}, "greater than or equal to 2"),
        ({"similarity": {"rouge_l_threshold": 0}}, "greater than 0"),
    ],
)
def test_faults(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        JudgesSection(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"judges": ["classifier"], "classifier": {"preset": "llama-guard-3-8b"}},
        {
            "judges": ["classifier"],
            "classifier": {"path": "a/b", "kind": "sequence-classification"},
        },
        {"judges": ["openai"], "openai": {"model": "x", "base_url": "http://localhost:8000/v1"}},
        {"judges": ["refusal", "compliance", "similarity"]},
    ],
)
def test_sound_sections(keys: dict[str, Any]) -> None:
    assert JudgesSection(**keys).judges == tuple(keys["judges"])


@pytest.mark.parametrize("template", ["{prompt}", "{completion}", "{prompt}{prompt}{completion}"])
def test_a_template_names_both_texts_once(template: str) -> None:
    with pytest.raises(ValidationError, match="exactly once each"):
        ClassifierSection(template=template)


@pytest.mark.parametrize(
    "url", ["ftp://host/v1", "host/v1", "http://", "https://me:secret@host/v1", "http://h/?key=x"]
)
def test_an_endpoint_is_a_url_without_secrets(url: str) -> None:
    with pytest.raises(ValidationError):
        OpenAISection(base_url=url)


def test_an_endpoints_last_slash_changes_nothing() -> None:
    assert OpenAISection(base_url="http://h/v1/").base_url == "http://h/v1"


def test_a_key_in_place_of_its_variables_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="not the key itself"):
        OpenAISection(api_key_env="sk-very-secret")
