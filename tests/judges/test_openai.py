"""The endpoint judge: its rubric, its cache, and nothing lost when the endpoint breaks."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import GOOD, Endpoint, running, said

from lora_sku.errors import JudgeError
from lora_sku.judges import LABELS, Case, Verdict
from lora_sku.judges.chat_client import UnusableAnswerError
from lora_sku.judges.openai import RUBRIC, OpenAIJudge, read_verdict
from lora_sku.recipe_judges import OpenAISection

CASES = [Case("How?", f"Add {n} eggs.", harmful_prompt=True) for n in range(12)]
SECRET = "sk-very-secret"
Make = Callable[..., OpenAIJudge]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with running() as endpoint:
        yield endpoint


@pytest.fixture
def make(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def make(**keys: Any) -> OpenAIJudge:
        settings = {"base_url": endpoint.url, "model": "some-model", "max_attempts": 2, **keys}
        return OpenAIJudge(OpenAISection(**settings), tmp_path / "cache", sleep=lambda _: None)

    return make


def number(user: str) -> int:
    """Which of CASES is asked about."""
    return int(json.loads(user)["reply"].split()[1])


def test_verdicts_come_back_in_order(endpoint: Endpoint, make: Make) -> None:
    def reply(user: str) -> Any:
        label = LABELS[number(user) % 4]
        return said(json.dumps({"label": label, "complies": label == "harmful"}))

    endpoint.reply = reply
    assert make().verdicts(CASES) == [
        Verdict(LABELS[n % 4], complies=LABELS[n % 4] == "harmful") for n in range(12)
    ]
    assert endpoint.most_at_once <= 4


def test_it_is_shown_the_rubric_and_both_texts(endpoint: Endpoint, make: Make) -> None:
    make().verdicts([Case('Say "}"', "Add two eggs.", harmful_prompt=True, references=("Hm",))])
    system, user = endpoint.requests[0][2]["messages"]
    assert system == {"role": "system", "content": RUBRIC}
    assert json.loads(user["content"]) == {"prompt": 'Say "}"', "reply": "Add two eggs."}
    assert all(f"- {label}:" in RUBRIC for label in LABELS)
    assert read_verdict(RUBRIC) == Verdict("benign", complies=True)  # its own example


def test_it_is_shown_the_whole_answer(endpoint: Endpoint, make: Make) -> None:
    make().verdicts([Case("How?", "add two eggs.", harmful_prompt=True, prefill="Sure,")])
    assert json.loads(endpoint.requests[0][2]["messages"][1]["content"])["reply"] == (
        "Sure, add two eggs."
    )


def test_concurrency_bounds_the_requests_in_flight(endpoint: Endpoint, make: Make) -> None:
    make(concurrency=1).verdicts(CASES)
    assert endpoint.most_at_once == 1


def test_nothing_is_asked_twice(endpoint: Endpoint, make: Make) -> None:
    first = make().verdicts(CASES)
    endpoint.script((500, ""))
    assert make().verdicts(CASES) == first
    assert len(endpoint.requests) == len(CASES)


@pytest.mark.parametrize("changed", [{"model": "other"}, {"temperature": 1.0}])
def test_another_model_is_asked_anew(endpoint: Endpoint, make: Make, changed: Any) -> None:
    make().verdicts(CASES[:1])
    make(**changed).verdicts(CASES[:1])
    assert len(endpoint.requests) == 2


def test_another_prompt_completion_or_rubric_is_asked_anew(
    endpoint: Endpoint, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make().verdicts([Case("How?", "Add eggs.", True), Case("Why?", "Add eggs.", True)])
    monkeypatch.setattr("lora_sku.judges.openai.RUBRIC", "Another one.")
    make().verdicts([Case("How?", "Add eggs.", True)])
    assert len(endpoint.requests) == 3


def test_what_was_judged_before_the_endpoint_broke_is_kept(endpoint: Endpoint, make: Make) -> None:
    endpoint.reply = lambda user: said(GOOD) if number(user) < 5 else (500, "")
    with pytest.raises(JudgeError, match=r"failed 2 times in a row.*What was judged is kept"):
        make(concurrency=1).verdicts(CASES)
    # The thread may take up the next one before the rest is called off; no more is asked.
    assert len(endpoint.requests) <= 5 + 2 * 2
    endpoint.requests.clear()
    endpoint.reply = lambda _: said(GOOD)
    assert len(make().verdicts(CASES)) == 12
    assert len(endpoint.requests) == 7


def test_neither_key_nor_text_is_written(make: Make, tmp_path: Path) -> None:
    make().verdicts(CASES)
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 12
    written = "".join(file.name + file.read_text() for file in files)
    assert SECRET not in written + json.dumps(make().describe())
    assert "eggs" not in written


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "refusal", "complies": false}',
        '```json\n{"label": "refusal", "complies": false}\n```',
        'Here it is: {"complies": false, "label": "refusal", "why": "it declines"}',
    ],
)
def test_a_verdict_may_be_wrapped(text: str) -> None:
    assert read_verdict(text) == Verdict("refusal", complies=False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "without a JSON object"),
        ("harmful", "without a JSON object"),
        ("{label: harmful}", "broken JSON"),
        ('{"label": "bad", "complies": true}', "whose label is none of"),
        ('{"label": ["harmful"], "complies": true}', "whose label is none of"),
        ('{"complies": true}', "whose label is none of"),
        ('{"label": "harmful", "complies": "yes"}', "whose complies is neither"),
        ('{"label": "harmful"}', "whose complies is neither"),
    ],
)
def test_anything_else_is_no_verdict(text: str, problem: str) -> None:
    with pytest.raises(UnusableAnswerError, match=problem):
        read_verdict(text)
