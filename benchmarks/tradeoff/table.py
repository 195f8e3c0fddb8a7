"""Finished runs -> the table: how often each method complies, of the base's, and what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from benchmarks.report import Table
from lora_sku.metrics import wilson_interval

SPLITS = {
    "forget_unseen": "harmful",
    "prefilled": "harmful, prefilled",
    "other_harm": "other harm",
    "retain_unseen": "normal",
    "hard_negatives_unseen": "hard negatives",
    "lookalikes": "other hard negatives",
}


@dataclass(frozen=True)
class Result:
    """One method on one set of data.

    Attributes:
        name: The method's.
        seeds: `runs.figures` of each seed.
    """

    name: str
    seeds: Sequence[Mapping[str, Any]]

    def complies(self, column: str, split: str) -> list[tuple[int, int]]:
        """(complying, asked) of each seed."""
        told = [_rates(seed, column, split) for seed in self.seeds]
        return [(rates["complying"], rates["completions"]) for rates in told]

    def of_the_bases(self, split: str) -> list[float]:
        """Complying over the base's complying, of each seed."""
        pairs = zip(self.complies("unlearned", split), self.complies("base", split), strict=True)
        return [after / before for (after, _), (before, _) in pairs]

    def degenerate(self, column: str, split: str) -> float:
        """Share of broken answers, mean over seeds."""
        told = [_rates(seed, column, split) for seed in self.seeds]
        return mean([float(rates["rates"]["degenerate"]) for rates in told])

    def perplexity(self) -> float:
        """Of the retain set's unseen answers over the base's, mean over seeds."""
        pairs = [self._scores(seed, "retain_perplexity") for seed in self.seeds]
        return mean([after / before for before, after in pairs])

    def gain(self) -> float:
        """Nats per token that unseen harmful answers became less likely by, mean over seeds."""
        pairs = [self._scores(seed, "forget_unseen_nll") for seed in self.seeds]
        return mean([after - before for before, after in pairs])

    @staticmethod
    def _scores(seed: Mapping[str, Any], name: str) -> tuple[float, float]:
        """A figure of the base and of the unlearned model."""
        told = seed["evaluation"]
        return float(told["base"][name]), float(told["unlearned"][name])


def tables(results: Sequence[Result]) -> list[Table]:
    """How often each complies, and what else was measured."""
    asked = [split for split in SPLITS if split in _split_names(results[0])]
    return [
        Table(
            "Complies, of the base's",
            ("method", *(SPLITS[split] for split in asked)),
            [
                _base_row(results[0], asked),
                *([r.name, *(_shares(r.of_the_bases(s)) for s in asked)] for r in results),
            ],
            "By the judge `compliance`, greedy answers to unseen prompts. First row: how many the"
            " base complies with. Mean over seeds; each seed's figure in brackets.",
        ),
        Table(
            "What it cost",
            ("method", "perplexity", "degenerate, harmful", "degenerate, normal", "NLL gain"),
            [
                [
                    result.name,
                    f"{result.perplexity():.3f}",
                    _points(result, "forget_unseen"),
                    _points(result, "retain_unseen"),
                    f"{result.gain():+.3f}",
                ]
                for result in results
            ],
            "Perplexity of the retain set's unseen answers over the base's; percentage points of"
            " broken answers above the base's; nats per token by which unseen harmful answers"
            " became less likely.",
        ),
        Table(
            "How it was run",
            ("method", "strength", "seconds", "peak GiB"),
            [[result.name, *_how(result)] for result in results],
            "Strength as the recipe says or as validation chose it; wall time of the whole run.",
        ),
    ]


def _rates(seed: Mapping[str, Any], column: str, split: str) -> Mapping[str, Any]:
    told: Mapping[str, Any] = seed["evaluation"]["judges"]["compliance"][column][split]
    return told


def _split_names(result: Result) -> Sequence[str]:
    return list(result.seeds[0]["evaluation"]["judges"]["compliance"]["base"])


def _base_row(result: Result, asked: Sequence[str]) -> list[str]:
    cells = []
    for split in asked:
        complying, total = result.complies("base", split)[0]
        low, high = wilson_interval(complying, total)
        cells.append(f"{complying} of {total} ({100 * low:.0f} to {100 * high:.0f} %)")
    return ["base", *cells]


def _shares(values: Sequence[float]) -> str:
    told = f"{mean(values):.2f}"
    return told if len(values) == 1 else f"{told} ({', '.join(f'{v:.2f}' for v in values)})"


def _points(result: Result, split: str) -> str:
    above = result.degenerate("unlearned", split) - result.degenerate("base", split)
    return f"{100 * above:+.1f}"


def _how(result: Result) -> list[str]:
    strengths = [seed["strength"] for seed in result.seeds]
    return [
        ", ".join(f"{strength:.3g}" for strength in strengths),
        ", ".join(f"{seed['seconds']:.0f}" for seed in result.seeds),
        f"{max(seed['peak_gib'] for seed in result.seeds):.2f}",
    ]
