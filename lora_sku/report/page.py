"""report.html: a run's evidence on one page that needs nothing beside it."""

from pathlib import Path

from lora_sku.report.curves import loss_figures, tradeoff_figure
from lora_sku.report.examples import example_sets, first_examples
from lora_sku.report.headline import caveats, headline, spent
from lora_sku.report.html import render
from lora_sku.report.labels import judge_tables
from lora_sku.report.peaks import highest, stage_memory
from lora_sku.report.provenance import commands, facts, negation
from lora_sku.report.read import RunEvidence, read_run
from lora_sku.report.strengths import HEADER, bounds, strength_rows
from lora_sku.storage import write_text


def write_report(folder: Path | str, output: Path | None = None) -> Path:
    """Build the page from a run directory alone; replaces an older one.

    Args:
        folder: The run directory.
        output: File to write; None is report.html in the run directory.

    Returns:
        The file.

    Raises:
        RunDirectoryError: if there is no run, or if its files are damaged.
        StorageError: if the file cannot be written.
    """
    run = read_run(folder)
    target = output or run.folder / "report.html"
    write_text(target, report_html(run))
    return target


def report_html(run: RunEvidence) -> str:
    """The page."""
    memory = () if run.memory is None else stage_memory(run.memory)
    evaluation = run.evaluation
    judges = {} if evaluation is None else evaluation.judges
    return render(
        "report.html.j2",
        {
            "run": run,
            "negation": negation(run),
            "headline": None if evaluation is None else headline(evaluation),
            "spent": spent(run),
            "first_examples": first_examples(run.generations),
            "caveats": tuple(caveats(run)),
            "evaluation": evaluation,
            "judge_tables": [
                table for name, record in judges.items() for table in judge_tables(name, record)
            ],
            "judge_settings": {name: record.settings for name, record in judges.items()},
            "tradeoff": None if run.sweep is None else tradeoff_figure(run.sweep),
            "strength_header": HEADER,
            "strengths": () if run.sweep is None else tuple(strength_rows(run.sweep)),
            "bounds": "" if run.sweep is None else bounds(run.sweep.budget),
            "losses": tuple(loss_figures(run.steps)),
            "memory": memory,
            "most_memory": highest(memory),
            "on_cpu": run.memory is not None and run.memory.predicted.device == "cpu",
            "example_sets": example_sets(run.generations),
            "commands": commands(run),
            "facts": facts(run),
        },
    )
