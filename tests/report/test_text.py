"""Texts as a reader may see them."""

import math

import pytest

from lora_sku.report.text import change, number, percent, short, visible


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\x00b\x1b[31m", "a\u2400b\u241b[31m"),
        ("line\nline\ttab", "line\nline\ttab"),
        ("a\r\nb\rc", "a\nb\u240dc"),
        ("\x7f\x9b", "\u2421\ufffd"),
        ("\ud800", "\ufffd"),
        ("\u202etxt", "\u27e8U+202E\u27e9txt"),
        ("\u0645\u200c\u0627 \U0001f600", "\u0645\u200c\u0627 \U0001f600"),
    ],
)
def test_what_would_be_obeyed_is_shown(text: str, seen: str) -> None:
    assert visible(text) == seen


def test_figures() -> None:
    assert number(1.23456) == "1.235"
    assert number(-0.5, 1) == "\u22120.5"
    assert change(0.25, 2) == "+0.25"
    assert [number(x) for x in (None, math.nan, math.inf)] == ["\u2013"] * 3
    assert percent(0.125) == "12 %"
    assert [short(x) for x in (30.0, 0.5, 1.41421)] == ["30", "0.5", "1.41"]
