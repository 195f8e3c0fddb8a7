import pytest

from lora_sku.data.formats import FORMAT_FIELDS, FORMATS, BadRecordError, rename_columns

PKU = {
    "prompt": " p ",
    "response_0": "a0",
    "response_1": "a1",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
}
QA = {
    "question": "q",
    "best_answer": "best",
    "correct_answers": ["best", "good"],
    "incorrect_answers": ["bad", "worse", "bad "],
}


def problem(format_name, fields, side="retain"):
    with pytest.raises(BadRecordError) as caught:
        FORMATS[format_name](fields, side)
    return str(caught.value)


def test_pku_gives_safe_answers_to_retain_and_unsafe_ones_to_forget():
    assert FORMATS["pku-saferlhf"](PKU, "retain") == [("p", "a0")]
    assert FORMATS["pku-saferlhf"](PKU, "forget") == [("p", "a1")]


def test_pku_record_may_give_two_answers_or_none():
    both_safe = {**PKU, "is_response_1_safe": "True"}
    assert FORMATS["pku-saferlhf"](both_safe, "retain") == [("p", "a0"), ("p", "a1")]
    assert FORMATS["pku-saferlhf"](both_safe, "forget") == []


def test_pku_does_not_look_at_the_other_sides_answer():
    assert FORMATS["pku-saferlhf"]({**PKU, "response_1": None}, "retain") == [("p", "a0")]
    assert "response_1 is a NoneType" in problem(
        "pku-saferlhf", {**PKU, "response_1": None}, "forget"
    )


def test_pku_flag_must_be_a_truth_value():
    assert "is_response_0_safe is a int" in problem(
        "pku-saferlhf", {**PKU, "is_response_0_safe": 1}
    )


def test_truthfulqa_retains_best_and_correct_answers_once_and_forgets_incorrect_ones():
    assert FORMATS["truthfulqa"](QA, "retain") == [("q", "best"), ("q", "good")]
    assert FORMATS["truthfulqa"](QA, "forget") == [("q", "bad"), ("q", "worse")]


def test_truthfulqa_csv_spelling_separates_answers_by_semicolon():
    fields = {
        "Question": "q",
        "Best Answer": "best",
        "Correct Answers": "good; best;",
        "Incorrect Answers": "bad",
    }
    assert FORMATS["truthfulqa"](fields, "retain") == [("q", "best"), ("q", "good")]
    assert FORMATS["truthfulqa"](fields, "forget") == [("q", "bad")]
    assert "Correct Answers is blank" in problem("truthfulqa", {**fields, "Correct Answers": " "})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "is an empty list"),
        (["x", ""], r"correct_answers[1] is blank"),
        ({}, "is a dict where a list is needed"),
    ],
)
def test_truthfulqa_answers_must_be_a_list_of_texts(value, text):
    assert text in problem("truthfulqa", {**QA, "correct_answers": value})


def test_prompt_response_is_taken_as_it_stands_but_stripped():
    assert FORMATS["prompt-response"]({"prompt": "p\n", "response": " r"}, "forget") == [("p", "r")]


def turns(*roles):
    return {"messages": [{"role": role, "content": role.upper()} for role in roles]}


def test_messages_are_one_user_turn_and_one_assistant_turn():
    assert FORMATS["messages"](turns("user", "assistant"), "forget") == [("USER", "ASSISTANT")]


@pytest.mark.parametrize(
    "roles", [("system", "user", "assistant"), ("user",), ("user", "assistant") * 2, ()]
)
def test_other_conversations_are_refused_with_their_roles(roles):
    text = problem("messages", turns(*roles))
    assert "one user turn and the assistant's answer" in text
    assert text.endswith(", ".join(roles) or "none")


@pytest.mark.parametrize("messages", ["hi", ["hi"], {"role": "user"}])
def test_messages_of_another_shape_are_refused(messages):
    assert "not a list" in problem("messages", {"messages": messages})


def test_message_content_must_be_text():
    message = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    fields = {"messages": [message, {"role": "assistant", "content": "y"}]}
    assert "the user's content is a list" in problem("messages", fields)


@pytest.mark.parametrize("extra", [{}, {"input": ""}, {"input": None}])
def test_alpaca_without_input_is_the_instruction(extra):
    assert FORMATS["alpaca"]({"instruction": "i", "output": "o", **extra}, "forget") == [("i", "o")]


def test_alpaca_input_follows_after_a_blank_line():
    fields = {"instruction": "i", "input": " x", "output": "o"}
    assert FORMATS["alpaca"](fields, "retain") == [("i\n\nx", "o")]


def test_alpaca_input_under_another_spelling_is_not_lost_in_silence():
    assert "no column 'input'" in problem("alpaca", {"instruction": "i", "Input": "x"})


def test_missing_column_is_named_with_those_present_and_the_nearest():
    text = problem("prompt-response", {"promt": "p", "response": "r"})
    assert text == "no column 'prompt' among 'promt', 'response'; the nearest is 'promt'"


@pytest.mark.parametrize(
    ("value", "text"),
    [(" \n", "blank"), (3, "a int where text"), (None, "NoneType"), ("\ud800x", "valid Unicode")],
)
@pytest.mark.parametrize("name", ["prompt", "response"])
def test_prompt_and_answer_must_be_text(name, value, text):
    fields = {"prompt": "p", "response": "r", name: value}
    shown = problem("prompt-response", fields)
    assert shown.startswith(f"{name} is ")
    assert text in shown


def test_columns_are_renamed_to_the_formats_fields():
    fields = rename_columns({"q": "p", "a": "r"}, {"prompt": "q", "response": "a"})
    assert FORMATS["prompt-response"](fields, "forget") == [("p", "r")]
    with pytest.raises(BadRecordError, match="no column 'x'"):
        rename_columns({"q": "p"}, {"prompt": "x"})


def test_every_format_says_which_fields_can_be_renamed():
    assert FORMAT_FIELDS.keys() == FORMATS.keys()
    for name, fields in FORMAT_FIELDS.items():
        # Each listed field but alpaca's optional one is really read.
        for field in set(fields) - {"input"}:
            complete = {
                "pku-saferlhf": PKU,
                "truthfulqa": QA,
                "prompt-response": {"prompt": "p", "response": "r"},
                "messages": turns("user", "assistant"),
                "alpaca": {"instruction": "i", "output": "o"},
            }[name]
            lacking = {key: value for key, value in complete.items() if key != field}
            sides = [side for side in ("forget", "retain") if _fails(name, lacking, side)]
            assert sides, (name, field)


def _fails(name, fields, side):
    try:
        FORMATS[name](fields, side)
    except BadRecordError:
        return True
    return False
