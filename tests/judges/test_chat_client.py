"""One question to an endpoint that misbehaves."""

from collections.abc import Iterator
from typing import Any

import pytest
from chat_server import CUT, GOOD, HANG, Endpoint, Reply, running, said

from lora_sku.errors import JudgeError
from lora_sku.judges.chat_client import ChatClient, UnusableAnswerError
from lora_sku.recipe_judges import OpenAISection

SECRET = "sk-very-secret"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with running() as endpoint:
        yield endpoint


@pytest.fixture
def waits() -> list[float]:
    """The seconds that the client slept between its attempts."""
    return []


def ask(endpoint: Endpoint, waits: list[float], **keys: Any) -> str:
    settings = {"base_url": endpoint.url, "model": "some-model", "timeout_seconds": 0.3, **keys}

    def read(text: str) -> str:
        if text != GOOD:
            raise UnusableAnswerError("an answer of another kind")
        return text

    with ChatClient(OpenAISection(**settings), waits.append) as client:
        return client.ask("the rubric", "the texts", read)


def test_it_asks_as_the_api_is_documented(
    endpoint: Endpoint, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", SECRET)
    assert ask(endpoint, waits, api_key_env="SOME_KEY") == GOOD
    ((path, headers, body),) = endpoint.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert body == {
        "model": "some-model",
        "messages": [
            {"role": "system", "content": "the rubric"},
            {"role": "user", "content": "the texts"},
        ],
        "temperature": 0.0,
    }
    assert waits == []


def test_without_a_key_or_a_temperature_none_is_sent(
    endpoint: Endpoint, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ask(endpoint, waits, temperature=None)
    ((_, headers, body),) = endpoint.requests
    assert "Authorization" not in headers
    assert "temperature" not in body


@pytest.mark.parametrize(
    "stumble",
    [
        (429, "slow down"),
        (408, "too slow"),
        (500, "oops"),
        (503, "<html>busy</html>"),
        HANG,
        CUT,
        (200, "<html>not JSON</html>"),
        (200, "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")),
        (200, "[]"),
        (200, '{"choices": []}'),
        (200, '{"error": {"message": "overloaded"}}'),
        said(None),
        said("I would say that this is harmful."),
    ],
    ids=str,
)
def test_what_may_pass_is_asked_again(
    endpoint: Endpoint, waits: list[float], stumble: Reply
) -> None:
    endpoint.script(stumble, stumble, said(GOOD))
    assert ask(endpoint, waits) == GOOD
    assert len(endpoint.requests) == 3
    assert waits == [1.0, 2.0]


def test_waits_double_up_to_a_minute(endpoint: Endpoint, waits: list[float]) -> None:
    endpoint.script((500, ""))
    with pytest.raises(JudgeError, match="failed 9 times in a row, last with: HTTP 500"):
        ask(endpoint, waits, max_attempts=9)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(
    ("asked", "waited"), [("7", 7.0), ("0.1", 1.0), ("86400", 60.0), ("-5", 1.0), ("soon", 1.0)]
)
def test_a_server_may_ask_for_a_longer_wait(
    endpoint: Endpoint, waits: list[float], asked: str, waited: float
) -> None:
    endpoint.script((429, "", {"Retry-After": asked}), said(GOOD))
    ask(endpoint, waits)
    assert waits == [waited]


@pytest.mark.parametrize(
    ("reply", "last"),
    [
        (HANG, "no answer within 0.3 seconds"),
        (CUT, "RemoteProtocolError"),
        ((200, "{}"), "an answer that is no chat completion"),
        (said(7), "a chat completion without text"),
        (said("no"), "an answer of another kind"),
    ],
)
def test_what_stays_broken_is_told(
    endpoint: Endpoint, waits: list[float], reply: Reply, last: str
) -> None:
    endpoint.script(reply)
    with pytest.raises(JudgeError, match=f"failed 2 times in a row, last with: {last}"):
        ask(endpoint, waits, max_attempts=2)
    assert len(endpoint.requests) == 2


def test_nobody_there_is_told_too(waits: list[float]) -> None:
    with running() as endpoint:
        pass
    with pytest.raises(JudgeError, match="ConnectError"):
        ask(endpoint, waits, max_attempts=2)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "valid key into the environment variable SOME_KEY"),
        (403, "SOME_KEY may use"),
        (404, r"base_url and evaluation\.openai\.model"),
        (400, "temperature: set it to null"),
        (307, r"Check evaluation\.openai"),
    ],
)
def test_a_refusal_is_not_asked_again_and_the_key_is_never_shown(
    endpoint: Endpoint,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
    remedy: str,
) -> None:
    monkeypatch.setenv("SOME_KEY", SECRET)
    caplog.set_level("DEBUG")
    elsewhere = {"Location": endpoint.url} if status == 307 else {}
    endpoint.script((status, f'{{"error":\n "not {SECRET}"}}', elsewhere))
    with pytest.raises(JudgeError, match=remedy) as raised:
        ask(endpoint, waits, api_key_env="SOME_KEY")
    assert f'refuses with HTTP {status}: {{"error": "not ***"}}' in str(raised.value)
    assert len(endpoint.requests) == 1
    assert SECRET not in str(raised.value) + caplog.text
