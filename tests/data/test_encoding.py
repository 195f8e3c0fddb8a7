import pytest
from data_tools import make_byte_level

from lora_sku.data.encoding import Encoder
from lora_sku.errors import DataError

LONG = "What is the capital of France? " * 6 + "where is Paris?"


def make(tokenizer, template="Question: {prompt}\nAnswer: ", prompt=512, answer=256):
    return Encoder(tokenizer, template=template, max_prompt_tokens=prompt, max_answer_tokens=answer)


def test_the_answer_starts_at_prompt_length_and_ends_with_eos(byte_level):
    encoded = make(byte_level).encode("where?", "Paris is")
    prompt = encoded.input_ids[: encoded.prompt_length]
    answer = encoded.input_ids[encoded.prompt_length :]
    assert byte_level.decode(prompt) == "<s>Question: where?\nAnswer:"
    assert byte_level.decode(answer) == " Paris is</s>"
    assert not encoded.prompt_truncated
    assert not encoded.answer_truncated


def test_the_prompts_tokens_do_not_depend_on_the_answer(byte_level):
    encoder = make(byte_level)
    one, two = encoder.encode("x", "Paris"), encoder.encode("x", "\nab")
    assert one.prompt_length == two.prompt_length
    assert one.input_ids[: one.prompt_length] == two.input_ids[: two.prompt_length]


@pytest.mark.parametrize("family", ["byte_level", "metaspace"])
def test_what_stands_around_every_prompt(family, request):
    tokenizer = request.getfixturevalue(family)
    for template, text, after in (
        ("Question: {prompt}\nAnswer: ", "<s>Question:", "Answer:"),
        ("{prompt} ", "<s>", ""),
    ):
        encoder = make(tokenizer, template)
        before, behind = encoder.around_prompt()
        assert tokenizer.decode(before).replace(" ", "").rstrip("\u2581") == text
        assert tokenizer.decode(behind).strip() == after
        assert encoder.prompt_ids("where is Paris")[0][: len(before)] == before


def test_a_long_answer_keeps_its_start_and_loses_eos(byte_level):
    whole = make(byte_level).encode("x", "Paris is in France")
    length = len(whole.input_ids) - whole.prompt_length
    cut = make(byte_level, answer=length - 2).encode("x", "Paris is in France")
    assert cut.answer_truncated
    assert cut.input_ids == whole.input_ids[:-2]
    assert byte_level.eos_token_id not in cut.input_ids


@pytest.mark.parametrize("limit", [4, 5, 6, 256])
def test_an_opening_loses_no_token_to_the_eos_that_it_lacks(byte_level, limit):
    whole = make(byte_level).answer_ids("Sure, here is how")[0][:-1]
    assert len(whole) > 6
    for most in (limit, len(whole)):
        opening = make(byte_level, answer=most).opening_ids("Sure, here is how")
        assert opening == whole[:most]


def test_eos_counts_in_the_answers_length(byte_level):
    whole = make(byte_level).encode("x", "Paris is")
    length = len(whole.input_ids) - whole.prompt_length
    assert make(byte_level, answer=length).encode("x", "Paris is") == whole
    assert make(byte_level).answer_length("Paris is") == length
    assert make(byte_level, answer=length - 1).encode("x", "Paris is").answer_truncated


@pytest.mark.parametrize("template", [None, "Question: {prompt}\nAnswer: "])
@pytest.mark.parametrize("family", ["byte_level", "metaspace"])
@pytest.mark.parametrize("limit", [24, 30, 37])
def test_a_long_prompt_keeps_the_frame_and_the_end_of_its_text(family, template, limit, request):
    tokenizer = request.getfixturevalue(family)
    encoder = make(tokenizer, template, prompt=limit)
    ids, truncated = encoder.prompt_ids(LONG)
    assert truncated
    assert limit - 3 <= len(ids) <= limit
    before, after = (
        ("<|user|>", "</s>\n<|assistant|>\n")
        if template is None
        else (
            "Question:",
            "\nAnswer:",
        )
    )
    text = tokenizer.decode(ids).replace("> \n", ">\n")
    assert before in text
    assert text.endswith("where is Paris?" + after)
    assert encoder.prompt_length(LONG) > limit


def test_a_prompt_of_exactly_the_limit_is_left_alone(byte_level):
    length = make(byte_level).prompt_length(LONG)
    ids, truncated = make(byte_level, prompt=length).prompt_ids(LONG)
    assert (len(ids), truncated) == (length, False)
    ids, truncated = make(byte_level, prompt=length - 1).prompt_ids(LONG)
    assert (len(ids), truncated) == (length - 1, True)


def test_a_cut_never_falls_inside_a_character(byte_level):
    for limit in range(18, 30):
        ids, truncated = make(byte_level, prompt=limit).prompt_ids("é€😀" * 9)
        assert truncated
        assert "\ufffd" not in byte_level.decode(ids)


def test_a_frame_that_leaves_no_room_is_refused_with_its_length(byte_level):
    encoder = make(byte_level, prompt=2)
    frame = make(byte_level).prompt_length("")
    with pytest.raises(DataError, match=f"template alone takes {frame} tokens") as caught:
        encoder.encode("where?", "Paris")
    assert caught.value.where == "data.max_prompt_tokens"


def test_a_tokenizer_without_eos_is_refused():
    tokenizer = make_byte_level()
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no EOS"):
        make(tokenizer)


def test_padding_falls_back_on_eos_where_there_is_no_pad_token():
    tokenizer = make_byte_level()
    assert make(tokenizer).pad_id == tokenizer.pad_token_id
    tokenizer.pad_token = None
    assert make(tokenizer).pad_id == tokenizer.eos_token_id


# Behind an answer that has begun


@pytest.mark.parametrize("template", [None, "Question: {prompt}\nAnswer: "])
@pytest.mark.parametrize("family", ["byte_level", "metaspace", "prepending"])
def test_what_has_begun_is_given_and_the_answer_behind_it_is_not(family, template, request):
    tokenizer = request.getfixturevalue(family)
    encoder = make(tokenizer, template)
    plain = encoder.encode("where?", "Paris is in France")
    encoded = encoder.encode("where?", "in France", "Paris is")
    # The very tokens of the whole answer, with a border within it.
    assert encoded.input_ids == plain.input_ids
    assert encoded.prompt_length == plain.prompt_length
    assert plain.begun == 0 < encoded.begun
    assert encoded.given_length == encoded.prompt_length + encoded.begun
    assert encoded.answer_length == len(encoded.input_ids) - encoded.given_length
    answer = encoded.input_ids[encoded.given_length :]
    assert tokenizer.decode(answer).strip() == "in France</s>"
    begun = encoded.input_ids[encoded.prompt_length : encoded.given_length]
    assert tokenizer.decode(begun).strip() == "Paris is"


def test_the_limit_counts_the_answer_and_not_what_has_begun(byte_level):
    whole = make(byte_level).encode("where?", "in France", "Paris is the capital")
    assert not whole.answer_truncated
    exact = make(byte_level, answer=whole.answer_length)
    assert exact.encode("where?", "in France", "Paris is the capital") == whole
    cut = make(byte_level, answer=2).encode("where?", "in France", "Paris is the capital")
    assert cut.answer_truncated
    assert cut.answer_length == 2
    assert cut.begun == whole.begun
    assert cut.input_ids == whole.input_ids[: cut.given_length + 2]


def test_nothing_begun_is_the_plain_encoding(byte_level):
    encoder = make(byte_level)
    assert encoder.encode("where?", "Paris", "") == encoder.encode("where?", "Paris")
