"""A finished run directory made by hand: every figure is known, and no model is needed."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tiny import write_data

from lora_sku.budget import Budget, Cost
from lora_sku.judges import Label, Rates, Verdict
from lora_sku.judging import Generation
from lora_sku.recipe import HARD_NEGATIVES, Recipe
from lora_sku.recipe_file import dump_recipe
from lora_sku.sweep import Point, Sweep


def counted(harmful: int, degenerate: int, benign: int, refusal: int = 0) -> dict[str, Any]:
    """Labels, counted; where an answer is harmful the benign ones evade, else they comply."""
    counts: dict[Label, int] = {
        "harmful": harmful,
        "refusal": refusal,
        "degenerate": degenerate,
        "benign": benign,
    }
    return Rates(counts, complying=harmful or benign).as_dict()


def evaluation() -> dict[str, Any]:
    shares = {"forget_unseen": 0.0, "retain_unseen": 0.0}
    both = {"refusal_rate": shares, "degenerate_rate": shares}
    base = {"forget_seen_nll": 2.0, "forget_unseen_nll": 2.5, "retain_perplexity": 8.0}
    after = {"forget_seen_nll": 4.0, "forget_unseen_nll": 3.25, "retain_perplexity": 10.0}
    sets = ("forget_seen", "forget_unseen", "retain_unseen")
    return {
        "base": base | {"retain_kl": 0.0} | both,
        "unlearned": after | {"retain_kl": 0.125} | both,
        "counts": {f"{name}_prompts": 12 for name in sets}
        | {"forget_unseen_generations": 10, "retain_unseen_generations": 10},
        "judges": {
            "compliance": {
                "base": {"forget_unseen": counted(9, 0, 1), "retain_unseen": counted(0, 0, 10)},
                "unlearned": {"forget_unseen": counted(2, 7, 1), "retain_unseen": counted(0, 1, 9)},
                "settings": {"auc": 0.9},
            }
        },
    }


def judged(folder: Path, split: str, **columns: Mapping[str, Any]) -> Path:
    """The same run, in which compliance has labelled answers of one more set of prompts."""
    value = json.loads((folder / "evaluation.json").read_text())
    for column, told in columns.items():
        value["judges"]["compliance"][column][split] = told
    write(folder / "evaluation.json", value)
    return folder


def with_lookalikes(folder: Path) -> Path:
    """The same run, which refused 4 of 10 look-alikes after and none before."""
    return judged(
        folder, "lookalikes", base=counted(0, 0, 10), unlearned=counted(0, 0, 6, refusal=4)
    )


def with_every_set(folder: Path) -> Path:
    """The same run with answers to all kinds of prompts."""
    for split in ("prefilled", "other_harm"):
        judged(folder, split, base=counted(8, 0, 2), unlearned=counted(2, 0, 0, refusal=8))
    judged(
        folder,
        "hard_negatives_unseen",
        base=counted(0, 0, 10),
        unlearned=counted(0, 0, 9, refusal=1),
    )
    return with_lookalikes(folder)


def with_likeness(folder: Path) -> Path:
    """The same run, whose answers to normal prompts were compared with the base's."""
    value = json.loads((folder / "evaluation.json").read_text())
    means = {"unlearned_to_base": 0.75, "base_to_reference": 0.5, "unlearned_to_reference": 0.25}
    write(folder / "evaluation.json", value | {"likeness": means | {"answers": 8}})
    return folder


def with_tasks(folder: Path) -> Path:
    """The same run, which was scored on a task of six documents."""
    value = json.loads((folder / "evaluation.json").read_text())
    value["lm_eval"] = {
        "colours": {
            "acc": {"base": 0.5, "unlearned": 0.375},
            "acc_stderr": {"base": 0.125, "unlearned": None},
        }
    }
    value["counts"]["lm_eval_colours_documents"] = 6
    write(folder / "evaluation.json", value)
    return folder


def point(strength: float, gain: float, ratio: float, refused: int = 0) -> Point:
    """A strength that refuses so many of 10 harmful prompts, and 1 of 8 hard negatives."""
    costs = (
        Cost("retain", ratio, kl=0.01, first_kl=0.002, refused=0, prompts=20),
        Cost(HARD_NEGATIVES, 1.5, kl=0.02, first_kl=0.5, refused=1, prompts=8),
    )
    return Point(strength, 2.0 + gain, 0.1, refused, 10, costs)


def sweep(refused: Sequence[int] = (0, 0, 0, 0)) -> dict[str, Any]:
    """Five strengths; the first four refuse so many harmful prompts."""
    figures = ((1.0, 0.2, 1.03), (2.0, 0.5, 1.04), (3.0, 0.6, 1.08), (4.0, 2.0, 1e9))
    points = [point(*each, count) for each, count in zip(figures, refused, strict=True)]
    unplaced = point(8.0, math.inf, math.inf)
    budget = Budget(1.05, first_kl=0.05, refused=0.03)
    found = Sweep(budget, point(0.0, 0.0, 1.0), (*points, unplaced), points[1])
    return found.as_dict()


def memory() -> dict[str, Any]:
    stage = {"stage": "acquire", "moment": "loss", "lines": {"base weights": 2**29, "tiny": 10}}
    return {
        "predicted": {
            "device": "cpu",
            "upper_bound": True,
            "stages": [stage | {"total": 2**30}],
        },
        "measured": {
            "load": {"resident_gib": 0.5, "allocated_gib": None, "reserved_gib": None},
            "acquire": {"resident_gib": 1.25, "allocated_gib": None, "reserved_gib": None},
        },
    }


ENVIRONMENT = {
    "lora_sku": "0.1.0",
    "python": "3.11.7",
    "platform": "Linux",
    "packages": {"torch": "2.13.0"},
    "device": "cpu",
    "threads": 2,
    "compute_dtype": "bfloat16",
    "seed": 8888,
    "base_model": {"path": "some/model", "revision": None, "fingerprint": "b" * 16},
    "data_fingerprint": "d" * 16,
}


def generation(
    split: str,
    prompt: str,
    base: str,
    unlearned: str,
    labels: tuple[Label, Label] | None,
    *,
    prefill: str = "",
) -> Generation:
    verdicts: Any = {}
    if labels is not None:
        verdicts = {
            "compliance": dict(zip(("base", "unlearned"), map(Verdict, labels), strict=True))
        }
    return Generation(split, prompt, base, unlearned, verdicts, prefill)  # type: ignore[arg-type]


GENERATIONS = (
    generation("forget_unseen", "forget-prompt", "harm-text", "odd-text", ("harmful", "benign")),
    generation("retain_unseen", "normal-prompt", "normal-text", "", ("benign", "degenerate")),
)


def write_run(
    folder: Path, generations: Sequence[Generation] = GENERATIONS, **sections: Any
) -> Path:
    """A finished run; ``sections`` go into its recipe."""
    folder.mkdir(parents=True)
    recipe = Recipe.model_validate(
        {
            "base_model": {"path": "some/model"},
            "data": write_data(folder.parent / f"data-{folder.name}").model_dump(),
            "negation": {"strength": "auto"},
            "output_dir": str(folder),
        }
        | sections
    )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    write(folder / "environment.json", ENVIRONMENT)
    write(folder / "evaluation.json", evaluation())
    write(folder / "sweep.json", sweep())
    write(folder / "memory.json", memory())
    (folder / "adapter").mkdir()
    steps = [
        {
            "step": n,
            "guided_distortion": 5.0 / n,
            "preservation_divergence": 0.01 * n,
            "seconds": 1.0,
        }
        for n in range(1, 101)
    ]
    write_lines(folder / "metrics.jsonl", steps)
    rows = [json.loads(json.dumps(row, default=vars_of)) for row in map(vars_of, generations)]
    write_lines(folder / "generations.jsonl", rows)
    return folder


def vars_of(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
