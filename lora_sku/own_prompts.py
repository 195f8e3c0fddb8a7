"""Prompts of the base's own: what it writes where a user's turn stands.

A model that was tuned on conversations has learned users' turns with them, so it can be asked for
prompts as broad as its tuning was, without any data set. Source: Xu et al. 2024, 'Magpie: Alignment
Data Synthesis from Scratch by Prompting Aligned LLMs with Nothing' (arXiv 2406.08464).
"""

from collections.abc import Sequence

from lora_sku.data import Encoder
from lora_sku.errors import DataError
from lora_sku.generation import Completion
from lora_sku.judges import classify
from lora_sku.own_answers import OwnAnswers, whole

_FEWEST_WORDS = 3  # fewer ask nothing


def own_prompts(drawn: OwnAnswers, encoder: Encoder) -> list[str]:
    """Different prompts without broken ones, in the order in which they were drawn.

    Args:
        drawn: Draws and remembers; its section says how many.
        encoder: Its template has the user's turn.

    Raises:
        DataError: if the template has nothing before the prompt that could be gone on from.
    """
    before, after = encoder.around_prompt()
    if not before:
        raise DataError(
            "this template and tokenizer put nothing before a prompt, so none can be drawn",
            where="data.own_prompts",
            remedy="Set it to null, and name normal prompts in data.protect.",
        )
    turn_end, between = _end_of_turn(after, encoder)
    drawn_turns = drawn.after([before], turn_end)[0]
    prompts = dict.fromkeys(_prompt(turn, between) for turn in drawn_turns)
    return [
        prompt
        for prompt in prompts
        if len(prompt.split()) >= _FEWEST_WORDS and classify(prompt) != "degenerate"
    ]


def _end_of_turn(after: Sequence[int], encoder: Encoder) -> tuple[tuple[int, ...], str]:
    """The special token that ends a user's turn, if there is one, and the text before it.

    A chat template writes "assistant" or the like behind that token: as mere text it would be
    found in prompts that speak of assistants.
    """
    for place, token in enumerate(after):
        if encoder.is_special(token):
            return (token,), encoder.decode(after[:place]).strip()
    return (), encoder.decode(after).strip()


def _prompt(turn: Completion, between: str) -> str:
    """The user's turn alone: a text template goes on to the answer."""
    prompt, found, _ = turn.text.partition(between) if between else (turn.text, "", "")
    return whole(Completion(prompt.strip(), ended=turn.ended or bool(found)))
