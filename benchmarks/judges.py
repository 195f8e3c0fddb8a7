"""`python -m benchmarks.judges`: each judge's labels beside a person's, as Markdown tables."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.command import run_command

if TYPE_CHECKING:
    from lora_sku.judges import Judge
    from lora_sku.recipe import Recipe

LABELLED = Path(__file__).resolve().parent.parent / "tests" / "judges" / "labelled.jsonl"
# Harmful answers that the compliance judge is tried on beside the table.
CARRIED_OVER = 64


@click.command()
@click.option("--recipe", "recipe_name", default="smollm2-135m", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE")
@click.option(
    "--labelled",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=LABELLED,
    show_default="the tests' own table",
    help=".jsonl with prompt, completion, harmful_prompt, references and label a line.",
)
@click.option("--embedding-model", help="Encoder for a second run of the similarity judge.")
def main(
    recipe_name: str, overrides: tuple[str, ...], labelled: Path, embedding_model: str | None
) -> None:
    """Judge the labelled completions offline and print where each judge is wrong."""
    from benchmarks.judges_table import confusion, facts, mistakes
    from benchmarks.labelled import read_labelled
    from lora_sku.quiet import quiet_models
    from lora_sku.recipe_file import load_recipe

    quiet_models()
    recipe = load_recipe(recipe_name, overrides)
    rows = read_labelled(labelled)
    for title, judge in _judges(recipe, embedding_model):
        verdicts = judge.verdicts([row.case for row in rows])
        click.echo(f"\n### {title}\n")
        for harmful, kind in ((True, "Harmful prompts"), (False, "Normal prompts")):
            click.echo(confusion(rows, verdicts, harmful_prompt=harmful, title=kind))
        click.echo(facts(rows, verdicts))
        click.echo(f"\nRests on: `{judge.describe()}`\n")
        if judge.name == "compliance":
            click.echo(_carried_over(recipe, judge))
        click.echo(mistakes(rows, verdicts))


def _judges(recipe: "Recipe", embedding_model: str | None) -> Iterator[tuple[str, "Judge"]]:
    """(title, judge), each loaded when its turn comes."""
    import torch

    from lora_sku.judges.embeddings import SentenceEncoder
    from lora_sku.judges.refusal import RefusalJudge
    from lora_sku.judges.similarity import SimilarityJudge
    from lora_sku.recipe_judges import SimilaritySection

    yield "refusal", RefusalJudge()
    yield "compliance", _compliance(recipe)
    yield "similarity, ROUGE-L alone", SimilarityJudge(recipe.evaluation.similarity)
    if embedding_model is not None:
        settings = recipe.evaluation.similarity.model_dump() | {"embedding_model": embedding_model}
        encoder = SentenceEncoder(embedding_model, revision=None, device=torch.device("cpu"))
        yield (
            "similarity, ROUGE-L and embeddings",
            SimilarityJudge(SimilaritySection(**settings), encoder),
        )


def _carried_over(recipe: "Recipe", judge: "Judge") -> str:
    """The forget set's harmful answers, none reported on, behind their own prompts and others.

    The judge's borders are set on normal pairs: here is what they do to harmful ones.
    """
    from benchmarks.judges_table import carried_over
    from lora_sku.data import load_data
    from lora_sku.judges import Case
    from lora_sku.stages import load_encoder

    forget = load_data(recipe.data, load_encoder(recipe)).forget
    most = min(CARRIED_OVER, len(forget.validation) + len(forget.train))
    rows = random.Random(0).sample([*forget.validation, *forget.train], most)
    own, others = (
        judge.verdicts(
            [
                Case(asked.prompt, row.answers[0], harmful_prompt=True)
                for row, asked in zip(rows, prompts, strict=True)
            ]
        )
        for prompts in (rows, [*rows[1:], rows[0]])
    )
    return carried_over(own, others)


def _compliance(recipe: "Recipe") -> "Judge":
    """Calibrated as a run of this recipe would: on its retain set's validation split."""
    from lora_sku.data import load_data
    from lora_sku.judges.base_likelihood import BaseLikelihood
    from lora_sku.judges.compliance import ComplianceJudge
    from lora_sku.model import AdaptedModel, load_base
    from lora_sku.stages import load_encoder

    encoder = load_encoder(recipe)
    retain = load_data(recipe.data, encoder).retain
    base = load_base(recipe.base_model)
    model = AdaptedModel.with_new_adapter(base, recipe.adapter, seed=recipe.training.seed)
    model.peft_model.eval()
    size = recipe.evaluation.per_device_eval_batch_size
    likelihood = BaseLikelihood(model, encoder, batch_size=size)
    settings = recipe.evaluation
    return ComplianceJudge.calibrated(
        likelihood, retain, settings.compliance, max_new_tokens=settings.max_new_tokens
    )


if __name__ == "__main__":
    run_command(main)
