"""Figures and foreign texts as a reader may see them."""

import math
import re

# What a browser or a terminal would obey instead of showing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")
MINUS = "\u2212"


def visible(text: str) -> str:
    """The text with every control character shown instead of obeyed.

    Letters of any script, line breaks and tabs stay as they are.
    """
    text = text.replace("\r\n", "\n")
    text = _CONTROL.sub(_picture, text)
    text = _LONE_SURROGATE.sub("\ufffd", text)
    return _DIRECTION.sub(lambda found: f"\u27e8U+{ord(found[0]):04X}\u27e9", text)


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code == 0x7F:
        return "\u2421"
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"


def number(value: float | None, digits: int = 3) -> str:
    """With so many decimals; a dash for what is no finite number."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    return _with_minus(f"{value:.{digits}f}")


def change(value: float, digits: int = 3) -> str:
    """The same with its sign."""
    return _with_minus(f"{value:+.{digits}f}")


def short(value: float) -> str:
    """As few digits as tell it: 30, 0.5, 1.41."""
    return _with_minus(f"{value:.3g}")


def percent(share: float) -> str:
    """A share of 1 as whole percent."""
    return f"{100 * share:.0f} %"


def _with_minus(text: str) -> str:
    return text.replace("-", MINUS)
