import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lora_sku.data.records import BadRecord, Record, read_records
from lora_sku.errors import DataError
from lora_sku.recipe import SourceSection


def read(path: Path, **keys):
    section = SourceSection(path=str(path), format="prompt-response", **keys)
    return list(read_records(section, "data.forget"))


def test_jsonl_records_carry_their_line_past_blank_lines_and_a_bom(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": "\xe2\x80\xa8"}\n')
    first, second = read(path)
    assert first == Record({"a": 1}, f"{path}:1")
    assert second == Record({"a": "\u2028"}, f"{path}:3")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"a": }', "not valid JSON at column 7"),
        (b"[1]", "a JSON list where an object is needed"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_jsonl_goes_on_behind_a_bad_line(tmp_path, line, problem):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b'\n{"a": 2}\n')
    bad, good = read(path)
    assert isinstance(bad, BadRecord)
    assert bad.where == f"{path}:1"
    assert problem in bad.problem
    assert good == Record({"a": 2}, f"{path}:2")


def test_csv_line_is_where_the_record_starts_in_spite_of_quoted_newlines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\n"one\ntwo",2\n\nthree,"x ""y"""\n')
    assert read(path) == [
        Record({"a": "one\ntwo", "b": "2"}, f"{path}:2"),
        Record({"a": "three", "b": 'x "y"'}, f"{path}:5"),
    ]


def test_csv_goes_on_behind_a_row_of_the_wrong_width_or_with_bad_quotes(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1\n"x"y,2\n3,4\n')
    wrong_width, bad_quotes, good = read(path)
    assert wrong_width == BadRecord(f"{path}:2", "1 cells under a header of 2")
    assert bad_quotes.where == f"{path}:3"
    assert "not valid CSV" in bad_quotes.problem
    assert good == Record({"a": "3", "b": "4"}, f"{path}:4")


def test_csv_header_with_a_doubled_name_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b,a\n1,2,3\n")
    with pytest.raises(DataError, match="'a' more than once"):
        read(path)


def test_parquet_records_carry_their_row_number(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x", "y"], "b": [["1"], []]}), path)
    assert read(path) == [
        Record({"a": "x", "b": ["1"]}, f"{path} row 1"),
        Record({"a": "y", "b": []}, f"{path} row 2"),
    ]


def test_what_is_no_parquet_file_is_a_data_error(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_text("no")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read(path)


def test_other_file_types_are_refused_with_the_known_ones(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[]")
    with pytest.raises(DataError, match=r"must end in \.jsonl, \.csv, \.parquet, not \.json"):
        read(path)


@pytest.mark.parametrize("keys", [{"name": "x"}, {"split": "test"}])
def test_a_single_file_has_no_other_parts(tmp_path, keys):
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    with pytest.raises(DataError, match="no configurations and no splits"):
        read(path, **keys)
    assert read(path, split="train") == [Record({}, f"{path}:1")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set folder with two configurations, one of them with two splits."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("one-train", "one-test", "two-train"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"a": name}) + "\n")
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: one\n  data_files:\n"
        "  - {split: train, path: one-train.jsonl}\n  - {split: test, path: one-test.jsonl}\n"
        "- config_name: two\n  data_files: two-train.jsonl\n---\n"
    )
    return folder


def test_a_folder_is_read_by_configuration_and_split(folder):
    assert read(folder, name="one") == [Record({"a": "one-train"}, f"{folder} [train] row 1")]
    assert read(folder, name="one", split="test") == [
        Record({"a": "one-test"}, f"{folder} [test] row 1")
    ]


def test_an_unknown_split_is_refused_with_the_available_ones(folder):
    with pytest.raises(DataError, match=r"split 'dev'.*train.*test"):
        read(folder, name="one", split="dev")


@pytest.mark.parametrize(("name", "problem"), [(None, "several"), ("three", "'three'")])
def test_an_unknown_configuration_is_refused_with_the_available_ones(folder, name, problem):
    with pytest.raises(DataError, match=f"configuration.*{problem}|{problem} config") as caught:
        read(folder, name=name)
    assert "one, two" in str(caught.value)


def test_a_folder_without_data_is_a_data_error(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read(empty)
