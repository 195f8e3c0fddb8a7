"""Templates -> HTML in which every text is escaped and every control character is shown."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lora_sku.report.charts import bar, share_with_interval
from lora_sku.report.text import change, number, percent, short, visible


def render(template: str, values: Mapping[str, Any]) -> str:
    """One whole page.

    Args:
        template: File in ``templates``.
        values: What it tells; plain texts, for the template escapes them.
    """
    return _environment().get_template(template).render(values)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lora_sku.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(number=number, change=change, percent=percent, short=short)
    environment.globals.update(bar=bar, share=share_with_interval)
    return environment


def _shown(value: Any) -> Any:
    """Goes over everything that a template prints, so that no text can be forgotten."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
