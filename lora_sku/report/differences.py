"""What runs were told that differs, and what makes their figures hard to compare."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_sku.report.read import RunEvidence

ABSENT = "\u2013"


def differing_settings(runs: Sequence[RunEvidence]) -> dict[str, tuple[str, ...]]:
    """Dotted recipe key -> each run's value, for the keys whose values are not all the same."""
    flat = [
        dict(_flattened(run.recipe.model_dump(mode="json", exclude={"output_dir"}))) for run in runs
    ]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    table = {key: tuple(values.get(key, ABSENT) for values in flat) for key in keys}
    return {key: values for key, values in table.items() if len(set(values)) > 1}


def differing_surroundings(runs: Sequence[RunEvidence]) -> dict[str, tuple[str, ...]]:
    """The same for device, versions and fingerprints."""
    flat = [dict(_flattened(run.environment.model_dump(mode="json"))) for run in runs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    table = {key: tuple(values.get(key, ABSENT) for values in flat) for key in keys}
    return {key: values for key, values in table.items() if len(set(values)) > 1}


def warnings(runs: Sequence[RunEvidence]) -> Iterator[str]:
    """Why a difference of figures may not come from the settings."""
    if len({run.environment.data_fingerprint for run in runs}) > 1:
        yield (
            "The runs have different data, so their figures are taken on different prompts and"
            " cannot be compared."
        )
    if len({run.environment.base_model.fingerprint for run in runs}) > 1:
        yield "The runs have different bases: compare changes, not absolute figures."
    counts = {tuple(run.evaluation.counts.items()) for run in runs if run.evaluation is not None}
    if len(counts) > 1:
        yield "The runs were scored on different numbers of prompts."
    for judge in _judged_otherwise(runs):
        yield f"{judge} labelled each run by other settings, so its rates cannot be compared."
    for run in runs:
        if run.missing:
            yield f"{run.name} is not finished: {' '.join(run.missing)}"


def _judged_otherwise(runs: Sequence[RunEvidence]) -> Iterator[str]:
    """The judges of several runs whose thresholds or other settings are not all the same."""
    judged = [run.evaluation.judges for run in runs if run.evaluation is not None]
    for judge in dict.fromkeys(name for judges in judged for name in judges):
        first, *others = (judges[judge].settings for judges in judged if judge in judges)
        if any(settings != first for settings in others):
            yield judge


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _written(value)


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
