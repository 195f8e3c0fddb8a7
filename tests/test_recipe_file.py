"""Recipes as YAML: line numbers, every fault at once, overrides, and the way back."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_sku.errors import RecipeError
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import dump_recipe, load_recipe, shipped_recipes

SMALLEST = """\
base_model:
  path: org/model
data:
  forget: {path: forget.jsonl, format: prompt-response}
  retain: {path: retain.jsonl, format: prompt-response}
output_dir: runs/x
"""
# What a test appends to it stands in line 7 and on.

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write x.yaml into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write_text(text: str) -> Path:
        Path("x.yaml").write_text(text, encoding="utf-8")
        return Path("x.yaml")

    return write_text


def refusal(path: str | Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


# ---- reading


def test_a_file_is_read_with_its_values_and_the_defaults(write: Write) -> None:
    recipe = load_recipe(write(SMALLEST + "training: {max_steps: 7}\n"))
    assert recipe.base_model.path == "org/model"
    assert recipe.training.max_steps == 7
    assert recipe.training.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("written", "value"),
    [("2e-4", 2e-4), ("2E-4", 2e-4), ("1e3", 1e3), ("+.5e-3", 5e-4), ("2.5e-1", 0.25), ("1", 1.0)],
)
def test_a_number_may_be_written_with_an_exponent(write: Write, written: str, value: float) -> None:
    recipe = load_recipe(write(SMALLEST + f"training: {{learning_rate: {written}}}\n"))
    assert recipe.training.learning_rate == value


def test_an_exponent_makes_a_float_and_not_a_text_that_pydantic_forgives(write: Write) -> None:
    # Were 1e5 read as text, a text field would take it without a word.
    said = refusal(write(SMALLEST.replace("org/model", "1e5")))
    assert "base_model.path: must be text (put it in quotes), got 100000.0" in said


def test_what_only_resembles_an_exponent_stays_text(write: Write) -> None:
    recipe = load_recipe(write(SMALLEST.replace("org/model", "e5-base-1e")))
    assert recipe.base_model.path == "e5-base-1e"


def test_a_byte_order_mark_and_other_scripts_are_read(write: Write) -> None:
    recipe = load_recipe(write("\ufeff" + SMALLEST.replace("runs/x", "runs/κλμ")))
    assert recipe.output_dir == "runs/κλμ"


def test_an_anchor_may_be_reused(write: Write) -> None:
    text = SMALLEST.replace("forget: {", "forget: &rows {")
    text = text.replace("retain: {path: retain.jsonl, format: prompt-response}", "retain: *rows")
    assert load_recipe(write(text)).data.retain.path == "forget.jsonl"


# ---- files that are no recipe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALLEST + "training: {max_steps: 1\n", "x.yaml:8: not valid YAML"),
        (SMALLEST + "training:\n\tmax_steps: 1\n", "x.yaml:8: not valid YAML"),
        (SMALLEST + "training: *nowhere\n", "x.yaml:7: not valid YAML"),
        (SMALLEST + "training: !!python/name:os.system x\n", "x.yaml:7: not valid YAML"),
        (SMALLEST + "x: \x07\n", "x.yaml:7: not valid YAML"),
        ("", "x.yaml: is not a recipe"),
        ("- base_model\n", "x.yaml: is not a recipe"),
        ("base_model\n", "x.yaml: is not a recipe"),
        (SMALLEST + "---\na: 1\n", "x.yaml:7: not valid YAML"),
        (SMALLEST + "7: x\n", "x.yaml:7: the key 7 is not text"),
        (SMALLEST + "training: &loop {max_steps: *loop}\n", "x.yaml:7: an alias contains itself"),
    ],
)
def test_what_is_no_recipe_is_refused_at_its_line(write: Write, text: str, said: str) -> None:
    assert refusal(write(text)).startswith(said)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(SMALLEST.encode() + b"# \xe9\n")
    assert "cannot be read" in refusal(tmp_path / "x.yaml")


def test_a_key_that_stands_twice_is_refused_with_both_lines(write: Write) -> None:
    said = refusal(write(SMALLEST + "training:\n  seed: 1\n  max_steps: 2\n  seed: 3\n"))
    assert said.startswith("x.yaml:10: training.seed stands twice, first in line 8.")


def test_the_same_key_in_two_sections_is_fine(write: Write) -> None:
    recipe = load_recipe(
        write(SMALLEST.replace("data:\n", "data:\n  seed: 1\n")), ["training.seed=2"]
    )
    assert (recipe.data.seed, recipe.training.seed) == (1, 2)


# ---- faults


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "training:\n  learning_rat: 1",
            "x.yaml:8: training.learning_rat: unknown key; did you mean learning_rate?",
        ),
        ("training: {max_steps: 0}", "x.yaml:7: training.max_steps: must be >= 1, got 0."),
        (
            "negation: {strength: -1}",
            "x.yaml:7: negation.strength: must be > 0, got -1, or must be auto, got -1.",
        ),
        (
            "losses: {random_disassociation: {response: 3}}",
            "x.yaml:7: losses.random_disassociation.response: unknown key; did you mean responses?",
        ),
        (
            "losses: {preservation_divergence: {prompts: 0}}",
            "x.yaml:7: losses.preservation_divergence.prompts: must be >= 1",
        ),
        ("adapter: {lora_dropout: 1}", "x.yaml:7: adapter.lora_dropout: must be < 1, got 1."),
        (
            "training: {weight: 1}",
            "unknown key; weight belongs to losses.guided_distortion, losses.random_disassociation,"
            " losses.preservation_divergence, losses.safe_response, losses.held_responses; did you"
            " mean weight_decay?",
        ),
        ("training: {output_dir: x}", "unknown key; output_dir belongs to the top level"),
        ("negation: {zzz: x}", "the keys here are strength, retain_budget, kl_budget"),
        ("trainin: {seed: 1}", "x.yaml:7: trainin: unknown key; did you mean training?"),
        (
            "training: {optim: adamw_8bits}",
            "must be one of auto, adamw_torch, adamw_8bit, paged_adamw_8bit, got 'adamw_8bits';"
            " did you mean adamw_8bit?",
        ),
        (
            "evaluation: {judges: [refusals]}",
            "evaluation.judges.0: must be one of compliance, refusal, similarity, classifier,"
            " openai, got 'refusals'; did you mean refusal?",
        ),
        ("evaluation: {judge: refusal}", "evaluation.judge: unknown key; did you mean judges?"),
        ("evaluation: {judges: null}", "evaluation.judges: must be a list, got nothing"),
        ("training: {seed: ten}", "training.seed: must be a whole number, got 'ten'"),
        ("training: {seed: 1.5}", "training.seed: must be a whole number, got 1.5"),
        ("training: {learning_rate: fast}", "must be a number, got 'fast'"),
        ("training: {learning_rate: .inf}", "must be a finite number, got inf"),
        ("training: {gradient_checkpointing: 3}", "must be true or false, got 3"),
        ("training: {report_to: wandb}", "training.report_to: must be a list, got 'wandb'"),
        ("training: {report_to: [wanb]}", "training.report_to.0: must be one of"),
        ("training:", "x.yaml:7: training: must be a section of its own"),
        (
            "training: fast",
            "training: must be a section of its own, with keys below it, got 'fast'",
        ),
        ("adapter: {target_modules: 3}", "must be all-linear, got 3, or must be a list, got 3"),
        ("adapter: {target_modules: [q, 3]}", "adapter.target_modules.1: must be text"),
        ("adapter:\n  bias: all", "x.yaml:7: adapter: bias is 'all', which cannot be negated"),
        (
            "losses:\n  guided_distortion: {weight: 0}\n  random_disassociation: {weight: 0}",
            "x.yaml:7: losses: guided_distortion, random_disassociation and safe_response cannot"
            " all weigh 0.",
        ),
        (
            "losses: {preservation_divergence: {side: shipped}}",
            "losses.preservation_divergence.side: must be one of negated, acquired, both, got",
        ),
        (
            "losses: {safe_response: {answers: []}}",
            "x.yaml:7: losses.safe_response.answers: must list at least 1, got []",
        ),
    ],
)
def test_a_fault_is_told_with_its_place(write: Write, lines: str, said: str) -> None:
    assert said in refusal(write(SMALLEST + lines + "\n"))


def test_a_missing_key_is_told_at_its_section_with_what_it_is_for(write: Write) -> None:
    text = SMALLEST.replace("  path: org/model", "  quantization: nf4")
    assert refusal(write(text)).startswith("x.yaml:1: base_model.path: missing; Hub id,")
    text = SMALLEST.replace("forget.jsonl, format: prompt-response", "forget.jsonl")
    said = refusal(write(text))
    assert said.startswith("x.yaml:4: data.forget.format: missing; one of pku-saferlhf, truthfulqa")


def test_a_long_value_is_cut_in_the_message(write: Write) -> None:
    said = refusal(write(SMALLEST + f"training: {{seed: {'x' * 500}}}\n"))
    assert len(said) < 200
    assert "..." in said


def test_all_faults_are_told_at_once(write: Write) -> None:
    text = SMALLEST.replace("output_dir: runs/x\n", "training: {max_steps: 0, sed: 1}\n")
    said = refusal(write(text.replace("retain.jsonl, ", "retain.jsonl, split: 5, ")))
    assert said.splitlines() == [
        "x.yaml: 4 faults in the recipe",
        "  x.yaml:5: data.retain.split: must be text (put it in quotes), got 5",
        "  x.yaml:6: training.max_steps: must be >= 1, got 0",
        "  x.yaml:6: training.sed: unknown key; did you mean seed?",
        "  x.yaml: output_dir: missing.",
    ]


# ---- overrides


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.max_steps=3", "training", "max_steps", 3),
        ("training.learning_rate=2e-5", "training", "learning_rate", 2e-5),
        ("training.report_to=[wandb]", "training", "report_to", ("wandb",)),
        ("adapter.target_modules=all-linear", "adapter", "target_modules", "all-linear"),
        ("base_model.revision=refs/pr/3", "base_model", "revision", "refs/pr/3"),
        ("base_model.revision=null", "base_model", "revision", None),
        ("base_model.revision=", "base_model", "revision", None),
        ("base_model.path=a=b", "base_model", "path", "a=b"),
        ('base_model.template="# {prompt}\\n"', "base_model", "template", "# {prompt}\n"),
        ("training={max_steps: 3}", "training", "max_steps", 3),
    ],
)
def test_an_override_is_parsed_as_yaml(
    write: Write, override: str, section: str, key: str, value: Any
) -> None:
    recipe = load_recipe(write(SMALLEST), [override])
    assert getattr(getattr(recipe, section), key) == value


def test_an_override_creates_the_sections_that_lead_to_it(write: Write) -> None:
    recipe = load_recipe(write(SMALLEST), ["losses.guided_distortion.weight=1.5"])
    assert recipe.losses.guided_distortion.weight == 1.5
    assert recipe.losses.random_disassociation.weight == 2.5


def test_an_override_keeps_the_rest_of_its_section(write: Write) -> None:
    path = write(SMALLEST + "training: {seed: 5, max_steps: 9}\n")
    training = load_recipe(path, ["training.seed=6"]).training
    assert (training.seed, training.max_steps) == (6, 9)


def test_the_last_override_wins(write: Write) -> None:
    recipe = load_recipe(write(SMALLEST), ["training.seed=1", "training.seed=2"])
    assert recipe.training.seed == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.max_steps", "--set: 'training.max_steps' is not of the form section.key=value"),
        ("=3", "not of the form section.key=value"),
        ("training..seed=3", "not of the form section.key=value"),
        ("training.seed=[1", "--set training.seed:1: not valid YAML"),
        ("base_model.template=### {prompt}", "YAML takes the value for a comment"),
        ("base_model.path.x=3", "--set base_model.path.x: base_model.path is not a section"),
        ("training.max_steps=0", "--set training.max_steps: must be >= 1, got 0."),
        ("training.learning_rat=1", "--set training.learning_rat: unknown key; did you mean"),
        ("training={seed: x}", "--set training: training.seed: must be a whole number"),
        ("trainin.seed=1", "--set trainin.seed: trainin: unknown key; did you mean training?"),
    ],
)
def test_a_bad_override_is_told_as_such(write: Write, override: str, said: str) -> None:
    assert said in refusal(write(SMALLEST), override)


def test_an_override_that_mends_the_file_is_enough(write: Write) -> None:
    path = write(SMALLEST + "training: {max_steps: 0}\n")
    assert load_recipe(path, ["training.max_steps=1"]).training.max_steps == 1


def test_a_section_replaced_by_an_override_forgets_the_lines_of_the_file(write: Write) -> None:
    said = refusal(write(SMALLEST + "training: {seed: 1}\n"), "training={seed: x}")
    assert "x.yaml:7" not in said


# ---- shipped recipes


def test_a_shipped_recipe_is_loaded_by_name() -> None:
    name, path = next(iter(shipped_recipes().items()))
    assert load_recipe(name) == load_recipe(path)
    assert path.is_absolute()


def test_recipes_in_subfolders_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a wheel: the recipes lie inside the package.
    (tmp_path / "recipes" / "lab").mkdir(parents=True)
    for name in ("a.yaml", "lab/b-v0.3.yaml"):
        (tmp_path / "recipes" / name).write_text(SMALLEST)
    monkeypatch.setattr("lora_sku.recipe_file.__file__", str(tmp_path / "recipe_file.py"))
    assert list(shipped_recipes()) == ["a", "lab/b-v0.3"]
    assert load_recipe("lab/b-v0.3").output_dir == "runs/x"


def test_an_unknown_recipe_names_the_nearest() -> None:
    said = refusal("llama2-7")
    assert said.startswith("llama2-7: no such recipe.")
    assert "llama2-7b" in said
    assert refusal("qwen2.5-7b").partition("recipe: ")[2].startswith("qwen2.5-7b-instruct")
    assert "smollm2-135m" in refusal("qqq")  # nothing is near: all are named


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    assert "is a folder, not a recipe" in refusal(tmp_path)


# ---- the way back


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_dumped_recipe_loads_back_equal(write: Write, name: str) -> None:
    recipe = load_recipe(name)
    assert load_recipe(write(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(
    "text",
    [
        "1e5",
        "2E-4",
        ".5e3",
        "null",
        "true",
        "017",
        " x ",
        "a: b",
        "# x",
        "é\n\tü",
        "",
        "\x85",
        "\u2028x",
    ],
)
def test_a_text_that_looks_like_something_else_survives(write: Write, text: str) -> None:
    source = {"path": text, "format": "alpaca", "columns": {text: text}}
    recipe = Recipe.model_validate(
        {
            "base_model": {"path": text, "revision": text, "template": f"{text}{{prompt}}\n "},
            "data": {"forget": source, "retain": source},
            "adapter": {"target_modules": [text], "layers_to_transform": [0, 3]},
            "training": {"learning_rate": 1e-7, "weight_decay": 1e22, "report_to": ["wandb"]},
            "output_dir": text,
        }
    )
    assert load_recipe(write(dump_recipe(recipe))) == recipe


def test_a_dump_keeps_the_order_of_the_sections() -> None:
    tops = [line for line in dump_recipe(load_recipe("llama2-7b")).splitlines() if line[0] != " "]
    assert [top.partition(":")[0] for top in tops] == list(Recipe.model_fields)


# ---- cost


def test_reading_recipes_imports_no_heavy_library() -> None:
    code = (
        "import sys, lora_sku.recipe_file;"
        "print([m for m in ('torch', 'transformers', 'peft', 'datasets') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
