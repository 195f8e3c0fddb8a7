import pytest
from data_tools import make_byte_level, make_metaspace

from lora_sku.data.framing import AnswerTokenizer, make_frame
from lora_sku.errors import DataError

QUESTION = "What is the capital of France?"
TEMPLATES = [
    "### Question: {prompt}\n ### Answer: ",
    "Question: {prompt}\nAnswer:",
    "Question: {prompt}\nAnswer:\n",
    "{prompt}",
    "{prompt}  ",
    None,
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", ["byte_level", "metaspace", "prepending"])
def test_prompt_and_answer_decode_to_the_text_of_the_template(family, template, request):
    tokenizer = request.getfixturevalue(family)
    frame = make_frame(tokenizer, template)
    prompt = frame.ids(QUESTION)
    decoded = tokenizer.decode(prompt + AnswerTokenizer(tokenizer, frame).ids("Paris ab"))
    if template is None:
        expected = f"<|user|>\n{QUESTION}</s>\n<|assistant|>\nParis ab"
    else:
        expected = "<s>" + template.format(prompt=QUESTION) + "Paris ab"
    # Metaspace's decoder shows its own space behind a special token: the prompt's, not ours.
    assert decoded.replace("> ", ">") == expected


def test_a_trailing_blank_is_encoded_with_the_answers_first_word(byte_level):
    frame = make_frame(byte_level, "Answer: {prompt}: ")
    ids = AnswerTokenizer(byte_level, frame).ids("Paris")
    assert byte_level.convert_ids_to_tokens(ids) == ["ĠParis"]
    assert byte_level.decode(frame.ids("x")).endswith("x:")


def test_a_trailing_line_break_stays_with_the_prompt(byte_level):
    frame = make_frame(byte_level, "{prompt}\n ")
    assert frame.lead == " "
    assert byte_level.decode(frame.ids("x")) == "<s>x\n"


@pytest.mark.parametrize("family", ["metaspace", "prepending"])
def test_the_tokenizers_own_space_is_not_doubled(family, request):
    tokenizer = request.getfixturevalue(family)
    frame = make_frame(tokenizer, "Answer: {prompt}: ")
    ids = AnswerTokenizer(tokenizer, frame).ids("Paris")
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁Paris"]


def test_the_tokenizers_own_space_is_taken_away_where_the_template_has_none(metaspace):
    frame = make_frame(metaspace, "Answer: {prompt}\n")
    ids = AnswerTokenizer(metaspace, frame).ids("Paris ab")
    assert metaspace.convert_ids_to_tokens(ids)[0].startswith("P")


def test_an_answer_that_joins_with_a_line_break_is_not_cut_short():
    tokenizer = make_metaspace(joins_lines=True)
    assert tokenizer.tokenize("\nParis") == ["▁", "\nParis"]
    frame = make_frame(tokenizer, "{prompt}\n")
    ids = AnswerTokenizer(tokenizer, frame).ids("Paris ab")
    assert tokenizer.decode(frame.ids("where") + ids).endswith("where\nParis ab")


def test_special_tokens_stand_in_front_but_never_behind(byte_level):
    assert byte_level("x")["input_ids"][-1] == byte_level.eos_token_id
    ids = make_frame(byte_level, "{prompt}").ids("x")
    assert ids[0] == byte_level.bos_token_id
    assert byte_level.eos_token_id not in ids


def test_a_template_that_writes_bos_itself_does_not_get_a_second_one(byte_level):
    ids = make_frame(byte_level, "<s>{prompt}").ids("x")
    assert ids.count(byte_level.bos_token_id) == 1


def test_braces_in_the_template_and_the_prompt_stay(byte_level):
    frame = make_frame(byte_level, "{x} {prompt} {}")
    assert byte_level.decode(frame.ids("{prompt}{0}")) == "<s>{x} {prompt}{0} {}"


def test_the_chat_template_writes_the_special_tokens(byte_level):
    ids = make_frame(byte_level, None).ids("x")
    assert byte_level.decode(ids) == "<|user|>\nx</s>\n<|assistant|>\n"


INST = (
    "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("make", [make_byte_level, make_metaspace])
def test_a_blank_that_the_chat_template_puts_before_answers_is_kept(make):
    tokenizer = make(chat_template=INST)
    frame = make_frame(tokenizer, None)
    (token,) = tokenizer.convert_ids_to_tokens(AnswerTokenizer(tokenizer, frame).ids("Paris"))
    assert token in ("ĠParis", "▁Paris")


def test_a_chat_template_that_frames_answers_in_more_than_blanks_has_no_lead():
    think = INST.replace("{% else %} ", "{% else %}<think></think>")
    assert make_frame(make_byte_level(chat_template=think), None).lead == ""


def test_a_base_model_needs_a_template():
    with pytest.raises(DataError, match="no chat template") as caught:
        make_frame(make_byte_level(chat_template=None), None)
    assert caught.value.where == "base_model.template"


@pytest.mark.parametrize("template", ["no place", "{prompt}{prompt}"])
def test_a_template_names_the_prompt_once(byte_level, template):
    with pytest.raises(DataError, match="exactly once"):
        make_frame(byte_level, template)
