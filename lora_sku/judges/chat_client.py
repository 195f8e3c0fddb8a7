"""One question to an OpenAI-compatible chat endpoint, asked again when the endpoint stumbles."""

import json
import os
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

import httpx2

from lora_sku.errors import JudgeError
from lora_sku.recipe_judges import OpenAISection

Answer = TypeVar("Answer")

_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_SHOWN_CHARACTERS = 200
# What the same request may succeed with later: too early, too many, and the server's own troubles.
_PASSING = {408, 409, 425, 429}


class UnusableAnswerError(Exception):
    """The endpoint answered, but not with what was asked for; told without the texts judged."""


class ChatClient:
    """A connection pool and the key; the key is in the request's header and nowhere else.

    Use as a context manager. Safe to ask from several threads.

    Args:
        settings: Which endpoint and model, and how patient to be.
        sleep: Waits that many seconds.
    """

    def __init__(
        self, settings: OpenAISection, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._settings = settings
        self._sleep = sleep
        self._key = os.environ.get(settings.api_key_env, "")
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=settings.timeout_seconds,
            follow_redirects=False,  # or the key might follow to another host
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, system: str, user: str, read: Callable[[str], Answer]) -> Answer:
        """Ask until ``read`` takes the answer's text.

        Args:
            system: The system message.
            user: The user message.
            read: Raises `UnusableAnswerError` for a text that is not what was asked for.

        Raises:
            JudgeError: if the endpoint refuses, or fails at every attempt.
        """
        problem, wait = "", 0.0
        for attempt in range(self._settings.max_attempts):
            if attempt > 0:
                self._sleep(wait)
            wait = min(_FIRST_WAIT_SECONDS * 2**attempt, _LONGEST_WAIT_SECONDS)
            try:
                response = self._client.post(self._url, json=self._body(system, user))
                if response.status_code == 200:
                    return read(_text_of(response))
            except httpx2.TimeoutException:
                problem = f"no answer within {self._settings.timeout_seconds:g} seconds"
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            except UnusableAnswerError as error:
                problem = str(error)
            else:
                problem = f"HTTP {response.status_code}"
                if not (response.status_code in _PASSING or response.status_code >= 500):
                    raise self._refused(response)
                wait = max(wait, _asked_to_wait(response))
        raise JudgeError(
            f"the judge's endpoint failed {self._settings.max_attempts} times in a row, last with:"
            f" {problem}",
            where=self._settings.base_url,
            remedy="What was judged is kept, and asked no more. Try again later, or set"
            " evaluation.openai.max_attempts, timeout_seconds or concurrency.",
        )

    @property
    def _url(self) -> str:
        return f"{self._settings.base_url}/chat/completions"

    def _body(self, system: str, user: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": user},
            ],
        }
        if self._settings.temperature is not None:
            body["temperature"] = self._settings.temperature
        return body

    def _refused(self, response: httpx2.Response) -> JudgeError:
        said = " ".join(response.text.split())
        if self._key:
            said = said.replace(self._key, "***")  # some servers quote what they refuse
        key = self._settings.api_key_env
        remedies = {
            401: f"Put a valid key into the environment variable {key}.",
            403: f"Check what the key in the environment variable {key} may use.",
            404: "Check evaluation.openai.base_url and evaluation.openai.model.",
        }
        return JudgeError(
            f"the judge's endpoint refuses with HTTP {response.status_code}:"
            f" {said[:_SHOWN_CHARACTERS]}",
            where=self._settings.base_url,
            remedy=remedies.get(
                response.status_code,
                "Check evaluation.openai; some models take no temperature: set it to null.",
            ),
        )


def _text_of(response: httpx2.Response) -> str:
    """The first choice's text."""
    try:
        text = response.json()["choices"][0]["message"]["content"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, IndexError, TypeError) as error:
        raise UnusableAnswerError("an answer that is no chat completion") from error
    if not isinstance(text, str):
        raise UnusableAnswerError("a chat completion without text")
    return text


def _asked_to_wait(response: httpx2.Response) -> float:
    """Seconds of the Retry-After header, bounded; 0 without one or for a date."""
    try:
        seconds = float(response.headers.get("Retry-After", 0))
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_SECONDS)
