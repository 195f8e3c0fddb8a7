import dataclasses
import json

import pytest
from data_tools import pairs

from lora_sku.data.audit import audit
from lora_sku.data.encoding import Encoder
from lora_sku.data.sets import load_data
from lora_sku.recipe import DataSection

TEMPLATE = "Question: {prompt}\nAnswer: "


@pytest.fixture
def datasets(write_jsonl):
    forget = pairs(*(f"f{i}/SECRET{i}" for i in range(8)), "f0/SECRETx", "f0/SECRETx", "r0/SECRET")
    retain = [{}, *pairs(*(f"r{i}/Paris is" for i in range(9)), f"r9/{'ab ' * 30}")]
    section = DataSection(
        forget=write_jsonl(forget, "forget.jsonl"),
        retain=write_jsonl(retain, "retain.jsonl", on_bad_record="skip"),
    )
    return load_data(section, None)


@pytest.fixture
def encoder(byte_level):
    return Encoder(byte_level, template=TEMPLATE, max_prompt_tokens=99, max_answer_tokens=20)


def test_counts_say_what_became_of_the_records(datasets):
    report = audit(datasets, None)
    forget, retain = report.forget, report.retain
    assert (forget.records, forget.prompts, forget.pairs, forget.duplicate_pairs) == (11, 9, 10, 1)
    assert forget.prompts_by_split == {"train": 6, "validation": 1, "unseen": 2}
    assert sum(forget.pairs_by_split.values()) == 10
    assert (retain.records, retain.prompts, len(retain.skipped)) == (11, 10, 1)
    assert report.shared_prompts == 1
    assert report.fingerprint == datasets.fingerprint


def test_lengths_are_percentiles_before_any_cut(datasets, encoder):
    retain = audit(datasets, encoder).retain
    short = encoder.answer_length("Paris is")
    long = encoder.answer_length("ab " * 29 + "ab")
    assert long > 20 > short
    counts = retain.answer_tokens
    assert (counts.p50, counts.p90, counts.p99, counts.max) == (short, short, long, long)
    assert counts.truncated == 1
    assert retain.prompt_tokens.max == encoder.prompt_length("r9")
    assert retain.prompt_tokens.truncated == 0


def test_the_example_marks_each_trained_token_of_a_retain_answer(datasets, encoder):
    row = datasets.retain.train[0]
    assert row.answers == ("Paris is",)
    assert audit(datasets, encoder).example == (
        f"<s>Question: {row.prompt}\nAnswer:[[ Paris]][[ is]][[</s>]]"
    )


def test_the_report_is_json_and_text_without_harmful_answers(datasets, encoder):
    report = audit(datasets, encoder)
    assert json.loads(json.dumps(report.to_dict()))["forget"]["prompts"] == 9
    text = report.render()
    assert "SECRET" not in text + json.dumps(report.to_dict())
    assert "forget: 11 records -> 9 prompts, 10 pairs (1 duplicates dropped" in text
    assert "[[ Paris]]" in text
    assert "skipped" in text
    assert "no column 'prompt'" in text


def test_without_a_tokenizer_the_token_parts_are_absent_and_said_to_be(datasets):
    report = audit(datasets, None)
    assert report.example is None
    assert report.forget.prompt_tokens is None
    assert "the tokenizer is not on this machine" in report.render()
    assert "tokens:" not in report.render()
    assert "long prompts" not in report.render()


def test_long_prompts_are_counted(datasets, encoder):
    long_prompts = dataclasses.replace(datasets.long_prompts, dropped=3, truncated=4)
    report = audit(dataclasses.replace(datasets, long_prompts=long_prompts), encoder)
    assert "long prompts: 3 left out, 4 cut" in report.render()
    assert report.to_dict()["long_prompts"] == {"dropped": 3, "truncated": 4}


def test_protected_sets_are_counted_and_their_overlap_is_told(write_jsonl):
    forget = pairs(*(f"f{i}/SECRET{i}" for i in range(8)))
    section = DataSection(
        forget=write_jsonl(forget, "forget.jsonl"),
        retain=write_jsonl(pairs(*(f"r{i}/a" for i in range(9))), "retain.jsonl"),
        protect={"shop": write_jsonl(pairs("F1/b", *(f"s{i}/a" for i in range(9))), "s.jsonl")},
    )
    report = audit(load_data(section, None), None)
    assert report.protect["shop"].prompts == 10
    assert report.protect_shared_prompts == {"shop": 1}
    assert json.loads(json.dumps(report.to_dict()))["protect"]["shop"]["records"] == 10
    assert "protected, shop: 10 records" in report.render()
    assert "also in the forget set: 1 prompts" in report.render()
