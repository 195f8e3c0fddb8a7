"""The house: every import points to a lower floor, and nothing heavy loads before its time."""

import ast
import graphlib
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import lora_sku

PACKAGE = Path(lora_sku.__file__).parent

# A module may import from its own floor and from those below; circles are refused apart from that.
FLOORS = (
    (
        *("errors", "head", "heap", "losses", "memory", "metrics", "negatable", "storage"),
        "threads",
    ),
    (
        "recipe",
        "recipe_data",
        "recipe_faults",
        "recipe_file",
        "recipe_judges",
        "recipe_lm_eval",
        "recipe_training",
        "recipe_types",
        "sources",
    ),
    (
        *(
            "data",
            "devices",
            "gguf_base",
            "attention",
            "int8_linear",
            "lora_forward",
            "base_checks",
            "base_weights",
            "model",
        ),
        "architectures",
        *("adapters", "negation", "checkpoints", "artifacts", "environment"),
        *("live_factors", "frozen_trunk", "likelihood", "budget", "sweep"),
    ),
    (
        "reference_states",
        "step",
        "optimization",
        "acquisition",
        "token_sampling",
        "generation",
        "judges",
        "confirmation",
    ),
    (
        "own_answers",
        "own_prompts",
        "elicitation",
        "judging",
        "likeness",
        "task_scores",
        "harness",
        "scores",
        "evaluation",
        "model_card",
        "progress",
        "console",
        "report",
    ),
    ("planning",),
    ("stages",),
    ("session",),
    ("pipeline",),
    ("cli", "cli_options", "cli_recipes", "cli_report", "quiet", ""),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Rooms that know no recipe, no base and no files of a run: values in, values out.
PURE = ("head", "losses", "memory", "heap", "metrics", "errors")
# Everything else receives its section, never the whole recipe.
SEES_THE_WHOLE_RECIPE = {
    "recipe",
    "recipe_file",
    "recipe_faults",
    "stages",
    "session",
    "pipeline",
    "model_card",
    "report.read",
    "planning.recipe_passes",
    "planning.recipe_plan",
    "planning.cards",
    "planning.run_plan",
    "",
}


def modules() -> dict[str, Path]:
    """Dotted name below lora_sku ("" for the package itself) -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imports_of(path: Path) -> dict[str, set[str]]:
    """Module below lora_sku -> names taken from it; imports inside functions count too."""
    taken: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            named = {alias.name for alias in node.names}
            if node.module == "lora_sku":
                for name in named:
                    taken.setdefault(name, set())
            elif (node.module or "").startswith("lora_sku."):
                taken.setdefault(str(node.module).removeprefix("lora_sku."), set()).update(named)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith("lora_sku"), f"{path}: import {alias.name}"
    return taken


IMPORTS = {name: imports_of(path) for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_the_parser_sees_the_imports() -> None:
    assert "errors" in IMPORTS["sources"]
    assert "pipeline" in IMPORTS["cli"]  # inside a function
    assert "Recipe" in IMPORTS["pipeline"]["recipe"]
    assert sum(map(len, IMPORTS.values())) > 80


def test_every_room_has_its_floor_and_every_floor_its_rooms() -> None:
    assert {room(module) for module in MODULES} == FLOOR.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    above = [other for other in IMPORTS[module] if FLOOR[room(other)] > FLOOR[room(module)]]
    assert above == []


def test_there_are_no_circles() -> None:
    inner = {name: [o for o in taken if o in MODULES] for name, taken in IMPORTS.items()}
    order = list(graphlib.TopologicalSorter(inner).static_order())
    assert set(order) == MODULES.keys()
    rooms: dict[str, set[str]] = {}
    for name, taken in IMPORTS.items():
        rooms.setdefault(room(name), set()).update(room(o) for o in taken)
    for name, others in rooms.items():
        others.discard(name)
    assert set(graphlib.TopologicalSorter(rooms).static_order()) == FLOOR.keys()


@pytest.mark.parametrize("module", PURE)
def test_the_ground_floor_stands_alone(module: str) -> None:
    known = {"head"} if module == "losses" else set()  # the output projection, as pure itself
    assert IMPORTS[module].keys() == known


@pytest.mark.parametrize("module", sorted(set(MODULES) - SEES_THE_WHOLE_RECIPE))
def test_a_stage_receives_its_section(module: str) -> None:
    assert "Recipe" not in IMPORTS[module].get("recipe", set())


def test_only_the_command_line_and_the_public_names_import_the_pipeline() -> None:
    assert {name for name, taken in IMPORTS.items() if "pipeline" in taken} == {"cli", ""}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_long(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 300


def test_every_public_name_resolves() -> None:
    assert lora_sku.__all__ == sorted(lora_sku.__all__)
    for name in lora_sku.__all__:
        value = getattr(lora_sku, name)
        assert value.__name__ == name
        assert value.__doc__
        assert name in dir(lora_sku)
    # What a type checker is told is what is there.
    told = {name: module for module, names in IMPORTS[""].items() for name in names}
    assert sorted(told) == lora_sku.__all__
    for name, module in told.items():
        assert getattr(import_module(f"lora_sku.{module}"), name) is getattr(lora_sku, name)
    with pytest.raises(AttributeError, match="nosuch"):
        _ = lora_sku.nosuch


@pytest.mark.parametrize(
    ("code", "rc"),
    [
        ("import lora_sku; lora_sku.load_recipe('smollm2-135m'); lora_sku.UserError", 0),
        ("from lora_sku.cli import main; sys.argv[1:] = ['--help']; main()", 0),
        ("from lora_sku.cli import main; sys.argv[1:] = ['run', '--help']; main()", 0),
        ("from lora_sku.cli import main; sys.argv[1:] = ['recipes']; main()", 0),
        ("from lora_sku.cli import main; sys.argv[1:] = ['run', 'nosuch']; main()", 2),
        ("from lora_sku.report import read_run, write_report, compare_runs", 0),
        ("from lora_sku.cli import main; sys.argv[1:] = ['report', 'nosuch']; main()", 2),
    ],
    ids=["import", "help", "command help", "recipes", "mistyped recipe", "reading runs", "report"],
)
def test_torch_is_not_loaded_for_a_quick_answer(code: str, rc: int) -> None:
    watch = """
import atexit, sys
heavy = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate")
atexit.register(lambda: print("LOADED", [name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", watch + code], capture_output=True, text=True)
    assert done.returncode == rc, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"
