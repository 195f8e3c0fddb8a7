"""What the JSON files of a run hold, as far as a report tells it; newer keys are left alone."""

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from lora_sku.judges import Rates
from lora_sku.judging import Column, GenerationSplit
from lora_sku.likeness import Likeness
from lora_sku.recipe import HARD_NEGATIVES
from lora_sku.scores import Evaluation, Protected, Scores
from lora_sku.task_scores import BeforeAfter, TaskRow, task_rows

Gib = float
Bytes = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Step(_Record):
    """A line of metrics.jsonl; a term that weighs 0 is not in it."""

    step: int
    guided_distortion: float | None = None
    random_disassociation: float | None = None
    preservation_divergence: float | None = None
    safe_response: float | None = None
    held_responses: float | None = None
    seconds: float


class JudgeRecord(_Record):
    """One judge in evaluation.json."""

    base: dict[GenerationSplit, Rates]
    unlearned: dict[GenerationSplit, Rates]
    settings: dict[str, Any]

    @property
    def splits(self) -> list[GenerationSplit]:
        """Those of which completions were judged."""
        return [split for split, rates in self.base.items() if rates.total]

    def rates(self, column: Column, split: GenerationSplit) -> Rates:
        """One cell; of nothing where no such prompt was asked."""
        found = (self.base if column == "base" else self.unlearned).get(split)
        return Rates.of(()) if found is None else found


class EvaluationRecord(_Record):
    """evaluation.json."""

    base: Scores
    unlearned: Scores
    counts: dict[str, int]
    judges: dict[str, JudgeRecord]
    protected: dict[str, Protected] = Field(default_factory=dict)
    likeness: Likeness | None = None  # an older run has none
    lm_eval: dict[str, dict[str, BeforeAfter]] = Field(default_factory=dict)

    @classmethod
    def of(cls, evaluation: Evaluation) -> Self:
        """The same as if it had been written and read back."""
        return cls.model_validate(evaluation.as_dict())

    @property
    def tasks(self) -> tuple[TaskRow, ...]:
        """lm-evaluation-harness's figures."""
        return tuple(task_rows(self.lm_eval))

    @property
    def gain(self) -> float:
        """Nats per token by which unseen harmful answers became less likely."""
        return self.unlearned.forget_unseen_nll - self.base.forget_unseen_nll

    @property
    def gain_seen(self) -> float:
        """The same for the prompts of stage 1."""
        return self.unlearned.forget_seen_nll - self.base.forget_seen_nll

    @property
    def cost(self) -> float:
        """Perplexity of normal answers over the base's."""
        return self.unlearned.retain_perplexity / self.base.retain_perplexity


class SweepCost(_Record):
    """What a strength does to a normal set; a figure that was no finite number is None."""

    perplexity_ratio: float | None
    kl: float | None
    first_kl: float | None
    refused: int
    prompts: int


def _most(figures: Iterable[float | None]) -> float | None:
    known = list(figures)
    return None if None in known else max(figure for figure in known if figure is not None)


class SweepPoint(_Record):
    """A strength that was tried; a figure that was no finite number is None."""

    strength: float
    forget_nll: float | None
    forget_kl: float | None
    refused: int
    prompts: int
    costs: dict[str, SweepCost]

    @property
    def normal(self) -> tuple[SweepCost, ...]:
        """Of each normal set but the hard negatives."""
        return tuple(cost for name, cost in self.costs.items() if name != HARD_NEGATIVES)

    @property
    def hard_negatives(self) -> SweepCost | None:
        """Of the hard negatives, if there are any."""
        return self.costs.get(HARD_NEGATIVES)

    @property
    def perplexity_ratio(self) -> float | None:
        """Of the normal set that pays most; the bound holds for each."""
        return _most(cost.perplexity_ratio for cost in self.normal)

    @property
    def first_kl(self) -> float | None:
        """The same of the KL at the first three tokens."""
        return _most(cost.first_kl for cost in self.normal)


class SweepBudget(_Record):
    """What normal prompts may lose."""

    perplexity_ratio: float
    first_kl: float | None
    refused: float | None
    hard_negatives_refused: float | None
    confidence: float


class SweepRecord(_Record):
    """sweep.json."""

    budget: SweepBudget
    base: SweepPoint
    choice: SweepPoint
    points: tuple[SweepPoint, ...]


class PlannedStage(_Record):
    """A stage's predicted peak."""

    stage: str
    moment: str
    lines: dict[str, Bytes]
    total: Bytes


class PlanRecord(_Record):
    """What was predicted of the run."""

    device: str
    upper_bound: bool
    stages: tuple[PlannedStage, ...]


class PeakRecord(_Record):
    """A stage's measured peak."""

    resident_gib: Gib
    reserved_gib: Gib | None

    @property
    def working_gib(self) -> Gib:
        """The figure that must fit: reserved on CUDA, resident on CPU."""
        return self.resident_gib if self.reserved_gib is None else self.reserved_gib


class MemoryRecord(_Record):
    """memory.json."""

    predicted: PlanRecord
    measured: dict[str, PeakRecord]


class BaseRecord(_Record):
    """The base in environment.json."""

    path: str
    revision: str | None
    fingerprint: str


class EnvironmentRecord(_Record):
    """environment.json."""

    lora_sku: str
    python: str
    platform: str
    packages: dict[str, str]
    device: str
    threads: int
    compute_dtype: str
    seed: int
    base_model: BaseRecord
    data_fingerprint: str
