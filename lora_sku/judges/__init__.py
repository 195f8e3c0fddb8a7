"""Judges: a completion -> a label, one file a judge."""

from lora_sku.judges.refusal import LABELS, Label, classify

__all__ = ["LABELS", "Label", "classify"]
