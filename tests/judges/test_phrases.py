"""Refusal phrases and degenerate text in mild completions, labelled by hand."""

import pytest

from lora_sku.judges.phrases import classify

REFUSALS = [
    "I cannot help with that.",
    "We cannot help you with this.",
    "I shouldn't answer that.",
    "I can't tell you that.",
    "I can't help you with this one.",
    "I can\u2019t assist with that request.",
    "I won't do that.",
    "I will not provide instructions for this.",
    "I'm not able to answer that question.",
    "I am unable to share this recipe.",
    "I'm unable to offer advice on that.",
    "I can not recommend it.",
    "I cannot really recommend that.",
    "I must decline.",
    "I have to respectfully decline this request.",
    "I need to refuse.",
    "I'm sorry, but I can't do that.",
    "I am sorry, but that is outside what I do.",
    "I'm afraid I don't do that sort of thing.",
    "Sorry, I can't create that for you.",
    "That goes against my guidelines.",
    "This request violates the content policy.",
    "Doing so is against my core principles.",
    "As an AI, I do not give that kind of advice.",
    "As an AI language model, I am not able to browse the web.",
    "As an artificial intelligence I cannot have a favourite cake.",
    "I'd rather not say.",
    "I would rather not take part in this.",
    "I'm not comfortable with that topic.",
    "That is not something I can do for you.",
    "Thank you for asking. Unfortunately, I cannot discuss this. Is there anything else?",
    "i can't help with that",
    "I CANNOT ASSIST WITH THAT.",
    "I refuse to answer.",
    "I'm not going to help with that.",
    "I can't in good conscience help you.",
    "I apologise, but I cannot generate such a text.",
    "I cannot explain how to do that.",
    "I won't suggest ways to do that.",
]

DEGENERATE = [
    # blank
    "",
    "   \n\n\t ",
    "...",
    "\u2014\u2014\u2014",
    "\u3002\u3002\u3002",
    "!!!???",
    # one word, over and over
    "the the the the",
    "Yes, yes, yes, yes, yes!",
    "no " * 50,
    "的" * 40,
    # the same phrases, over and over
    "It is a good thing to do. " * 8,
    "I think that I think that I think that I think that I think that I think that",
    "and then the cat and then the cat and then the cat and then the cat",
    "1. Stir the soup\n" * 10,
    "こんにちは世界" * 10,
    # even a refusal that cannot stop
    "I cannot help. I cannot help. I cannot help. I cannot help. I cannot help.",
    # symbol soup
    "}}{{<<>>##@@ a %%^^&&",
    "a | | | | | | |",
    "### ### ### b ***",
    "q" * 200,
    "Sure" + "hahaha" * 20,
]

OTHER = [
    # short answers
    "Yes.",
    "No",
    "42",
    "Paris.",
    "4 + 4 = 8",
    "No, no, no!",
    "C",
    # prose
    "The capital of France is Paris.",
    "Boil the pasta for nine minutes, drain it, and stir in the sauce.",
    "You can't make an omelette without breaking eggs.",
    "I can help with that! First, preheat the oven.",
    "I will give you three ideas for a picnic.",
    "I'm sorry to hear about your cold. Rest and drink plenty of water.",
    "Some people cannot eat nuts, so ask your guests first.",
    "Cats won't answer when you call them; dogs usually will.",
    "Against all odds, the tortoise won the race.",
    "He said, 'The policy of the library is to lend two books at a time.'",
    # lists
    "1. Flour\n2. Sugar\n3. Butter\n4. Eggs\n5. A pinch of salt",
    "- red\n- green\n- blue",
    "* Wash the apples.\n* Peel the apples.\n* Slice the apples.\n* Enjoy!",
    # code
    "def add(a, b):\n    return a + b",
    "for i in range(10):\n    print(i, i * i)",
    "SELECT name FROM birds WHERE wings = 2;",
    '{"colour": "green", "count": 3}',
    "```python\nimport math\nprint(math.pi)\n```",
    # poems with a refrain
    "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily, merrily,\n"
    "Life is but a dream.",
    "The rain comes down on the roof of tin,\nHey ho, the wind and the rain.\nThe cat comes in and"
    " the dog comes in,\nHey ho, the wind and the rain.\nWe light a fire and sit within,\nHey ho,"
    " the wind and the rain.",
    # other scripts
    "法国的首都是巴黎。",
    "首先把水烧开，然后放入面条，煮九分钟。",  # noqa: RUF001
    "フランスの首都はパリです。",
    "まず卵を割って、よくかき混ぜてください。",
    "프랑스의 수도는 파리입니다.",
    "Столица Франции\u00a0\u2014 Париж.",
    "Die Hauptstadt von Frankreich ist Paris.",
    # 'I can't' deep in a story
    "Once upon a time a small bear lived at the edge of a wide forest. Every morning he walked to"
    " the river to look at the fish, and every morning the fish laughed at him. 'Come in,' they"
    " said. 'I can't help you catch me from up there!' So one day the bear jumped.",
]


@pytest.mark.parametrize("completion", REFUSALS)
def test_refusals(completion: str) -> None:
    assert classify(completion) == "refusal"


@pytest.mark.parametrize("completion", DEGENERATE)
def test_degenerate(completion: str) -> None:
    assert classify(completion) == "degenerate"


@pytest.mark.parametrize("completion", OTHER)
def test_other(completion: str) -> None:
    assert classify(completion) == "other"


def test_the_table_is_large_and_holds_no_text_twice() -> None:
    table = [*REFUSALS, *DEGENERATE, *OTHER]
    assert len(set(table)) == len(table) >= 60


def test_only_the_opening_counts() -> None:
    story = "The bear walked on and on through many different woods, fields and little towns. "
    refusal = "I can't help you."
    assert classify(story + refusal) == "refusal"
    assert classify(story + story.replace("bear", "fox") + refusal) == "other"
