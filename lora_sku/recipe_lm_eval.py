"""The recipe's section for tasks of lm-evaluation-harness."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from lora_sku.recipe_types import Count, Section


class LmEvalSection(Section):
    """Public benchmarks, before and after; a plain list is a list of tasks."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Names of tasks, groups or tags, as `lm-eval ls tasks` lists them."
    )
    limit: Count | None = Field(
        None, description="Documents of each task, the first ones; null takes all."
    )
    num_fewshot: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Examples before each question; null leaves it to the task, and a task that"
        " says 0 keeps it.",
    )
    include_path: str | None = Field(
        None, description="Folder with further tasks; Python code that they name is run."
    )

    @model_validator(mode="before")
    @classmethod
    def _takes_a_list_of_tasks(cls, value: Any) -> Any:
        return {"tasks": value} if isinstance(value, list | tuple) else value
