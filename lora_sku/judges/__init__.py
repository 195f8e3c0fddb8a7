"""Judges: a completion -> exactly one of four labels, one file a judge."""

from lora_sku.judges.phrases import classify
from lora_sku.judges.rates import Rates
from lora_sku.judges.verdicts import LABELS, Case, Judge, Label, Verdict
from lora_sku.recipe_judges import JudgeName as JudgeName

__all__ = ["LABELS", "Case", "Judge", "JudgeName", "Label", "Rates", "Verdict", "classify"]
