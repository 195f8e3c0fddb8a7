"""Prompts of the base's own: what it writes where a user's turn stands.

A model that was tuned on conversations has learned users' turns with them, so it can be asked for
prompts as broad as its tuning was, without any data set. Source: Xu et al. 2024, 'Magpie: Alignment
Data Synthesis from Scratch by Prompting Aligned LLMs with Nothing' (arXiv 2406.08464).
"""

from lora_sku.data import Encoder
from lora_sku.errors import DataError
from lora_sku.judges import classify
from lora_sku.own_answers import OwnAnswers, whole_sentences

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
    # A text template goes on to the answer; a chat's turn has ended there.
    texts = (text.partition(after)[0] if after else text for text in drawn.after([before])[0])
    prompts = dict.fromkeys(whole_sentences(text).strip() for text in texts)
    return [
        prompt
        for prompt in prompts
        if len(prompt.split()) >= _FEWEST_WORDS and classify(prompt) != "degenerate"
    ]
