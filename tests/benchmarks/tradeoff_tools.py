"""What the trade-off benchmark's tests share: figures made by hand, a data folder of mild rows."""

import csv
import json
from pathlib import Path

from tiny import FORGET, RETAIN

from benchmarks.tradeoff_data import NORMAL, TEST, TRAIN
from benchmarks.tradeoff_scores import AnswerCounts, Scores
from benchmarks.tradeoff_unit import Trial, Unit
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import dump_recipe

BASE = Scores(
    forget_nll=2.0,
    normal_nll=2.0,
    general_nll=3.0,
    own_harmful_kl=0.0,
    own_normal_kl=0.0,
    harmful=AnswerCounts(60, 48, 6, 3),
    normal=AnswerCounts(60, 54, 0, 3),
    facts=30,
)


FEW = AnswerCounts(60, 12, 30, 3)


def scores(
    *,
    gain: float = 1.5,
    normal: float = 0.02,
    general: float = 0.03,
    kls: tuple[float, float] = (2.0, 0.2),
    harmful: AnswerCounts = FEW,
    usual: AnswerCounts = BASE.normal,
    facts: int = 29,
) -> Scores:
    """As differences from BASE: nats per token."""
    return Scores(
        BASE.forget_nll + gain,
        BASE.normal_nll + normal,
        BASE.general_nll + general,
        *kls,
        harmful,
        usual,
        facts,
    )


def unit(method: str, found: Scores | None, seed: int = 1) -> Unit:
    """A unit of one trial; without scores it failed."""
    if found is None:
        trial = Trial(1e-3, 10.0, 1000, failed="even at strength 0.00391 it costs too much")
        return Unit(method, seed, 20.0, (trial,))
    trial = Trial(1e-3, 10.0, 1000, strength=2.0, validation_nll=found.forget_nll)
    return Unit(method, seed, 20.0, (trial,), 0, found)


def write_data_folder(folder: Path) -> Path:
    """The three files with mild rows, in the real files' columns."""
    folder.mkdir()
    prompts = list(FORGET.items())
    for name, part in ((TRAIN, prompts[:9]), (TEST, prompts[9:])):
        lines = [
            {
                "prompt": prompt,
                "response_0": harmful,
                "response_1": "Please do not.",
                "is_response_0_safe": False,
                "is_response_1_safe": True,
            }
            for prompt, answers in part
            for harmful in answers
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8")
    with (folder / NORMAL).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
        for prompt, answers in RETAIN.items():
            writer.writerow([prompt, answers[0], answers[0], "No."])
    return folder


def smallest_words(recipe: Recipe, folder: Path) -> list[str]:
    """The command's smallest sizes, with one seed; all that it writes goes into the folder."""
    file = folder / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    options = {
        "--recipe": file,
        "--data": write_data_folder(folder / "pku"),
        "--out": folder / "out",
        "--reports": folder / "reports",
        "--seeds": 1,
        "--steps": 2,
        "--responses": 2,
        "--validation-prompts": 1,
        "--unseen-prompts": 3,
        "--new-tokens": 3,
    }
    return [str(word) for option in options.items() for word in option]
