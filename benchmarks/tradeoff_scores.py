"""What one model is worth: forgetting and cost on prompts that nothing was chosen by."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from benchmarks.tradeoff_data import TradeoffData
from lora_sku.data import Encoder, Row
from lora_sku.generation import generate
from lora_sku.judges import Case, Rates
from lora_sku.judges.base_likelihood import BaseLikelihood
from lora_sku.judges.compliance import ComplianceJudge
from lora_sku.likelihood import AnswerScorer
from lora_sku.model import AdaptedModel
from lora_sku.recipe import EvaluationSection

_FACT_TOKENS = 20


@dataclass(frozen=True)
class AnswerCounts:
    """Greedy answers to one kind of prompts, judged.

    Attributes:
        total: Prompts.
        complying: Do what the prompt asks.
        refusal: Refuse.
        degenerate: Blank, looping or no language.
        by_prompt: Which of them comply, in the order of the prompts; an older report has none.
    """

    total: int
    complying: int
    refusal: int
    degenerate: int
    by_prompt: tuple[bool, ...] = ()

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Self:
        """What `dataclasses.asdict` gave, from JSON."""
        return cls(**kept | {"by_prompt": tuple(kept.get("by_prompt", ()))})


@dataclass(frozen=True)
class Scores:
    """One model on the unseen prompts; NLL and KL in nats per token.

    Attributes:
        forget_nll: Of the given harmful answers.
        normal_nll: Of the given normal answers.
        general_nll: Of the general texts' answers.
        own_harmful_kl: KL(base || model) on the base's own answers to harmful prompts.
        own_normal_kl: The same on normal prompts.
        harmful: Answers to harmful prompts.
        normal: Answers to normal prompts.
        facts: Questions answered right.
    """

    forget_nll: float
    normal_nll: float
    general_nll: float
    own_harmful_kl: float
    own_normal_kl: float
    harmful: AnswerCounts
    normal: AnswerCounts
    facts: int

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Self:
        """What `as_dict` gave."""
        counts = {name: AnswerCounts.from_dict(kept[name]) for name in ("harmful", "normal")}
        return cls(**(kept | counts))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Answers:
    """Greedy answers, in the order of the prompts."""

    harmful: tuple[str, ...]
    normal: tuple[str, ...]
    facts: tuple[str, ...]

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Self:
        """What `dataclasses.asdict` gave."""
        return cls(**{name: tuple(answers) for name, answers in kept.items()})


class Rulers:
    """Measures whatever adapter is active on one model; theta_o is run once for all of them.

    Args:
        model: In evaluation mode.
        encoder: Tokenizes.
        data: The unseen splits and the facts are measured on; the judge's
            borders are set on the other normal prompts.
        settings: Tokens of an answer, prompts at once, the judge's settings.
        own: theta_o's answers; None has them generated.
        precise: Carries the same adapter and computes in float32, for the KLs on own answers: of a
            delta that hardly moves them bf16 tells its own rounding. None is ``model``.
    """

    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        data: TradeoffData,
        settings: EvaluationSection,
        own: Answers | None = None,
        precise: AdaptedModel | None = None,
    ) -> None:
        self._model, self._encoder, self._data, self._settings = model, encoder, data, settings
        if own is None:
            with model.reference_mode():
                own = self.answers()
        self.own = own
        size = settings.per_device_eval_batch_size

        def scorer(of: AdaptedModel, rows: Sequence[Row]) -> AnswerScorer:
            return AnswerScorer(of, encoder, rows, pairs_at_once=size)

        self._forget = scorer(model, data.forget.unseen)
        self._normal = scorer(model, data.normal.unseen)
        self._general = scorer(model, data.general.unseen)
        for_kl = model if precise is None else precise
        self._own_harmful = scorer(for_kl, _answered(data.forget.unseen, own.harmful))
        self._own_normal = scorer(for_kl, _answered(data.normal.unseen, own.normal))
        likelihood = BaseLikelihood(model, encoder, batch_size=size)
        self._judge = ComplianceJudge.calibrated(
            likelihood, data.normal, settings.compliance, max_new_tokens=settings.max_new_tokens
        )
        self.judge_settings = self._judge.describe()

    def base_scores(self) -> Scores:
        """theta_o's."""
        nlls = (self._forget.base_nll, self._normal.base_nll, self._general.base_nll)
        return Scores(*nlls, 0.0, 0.0, *self._judged(self.own))

    def score(self, answers: Answers) -> Scores:
        """The active adapter's.

        Args:
            answers: What `answers` gave with the same adapter.
        """
        return Scores(
            self._forget.score().nll,
            self._normal.score().nll,
            self._general.score().nll,
            self._own_harmful.score().kl,
            self._own_normal.score().kl,
            *self._judged(answers),
        )

    def judged_again(self, scores: Scores, answers: Answers) -> Scores:
        """The same scores with what this judge says of the answers that they are of."""
        harmful, normal, facts = self._judged(answers)
        return replace(scores, harmful=harmful, normal=normal, facts=facts)

    def answers(self) -> Answers:
        """Greedy answers of the active adapter, or of theta_o inside `reference_mode`."""
        data, tokens = self._data, self._settings.max_new_tokens
        return Answers(
            self._generate([row.prompt for row in data.forget.unseen], tokens),
            self._generate([row.prompt for row in data.normal.unseen], tokens),
            self._generate([fact.question for fact in data.facts], _FACT_TOKENS),
        )

    def _generate(self, prompts: Sequence[str], tokens: int) -> tuple[str, ...]:
        completions = generate(
            self._model,
            [self._encoder.prompt_ids(prompt)[0] for prompt in prompts],
            max_new_tokens=tokens,
            batch_size=self._settings.per_device_eval_batch_size,
        )
        return tuple(completions)

    def _judged(self, answers: Answers) -> tuple[AnswerCounts, AnswerCounts, int]:
        data = self._data
        facts = zip(data.facts, answers.facts, strict=True)
        return (
            self._counts(data.forget.unseen, answers.harmful, harmful=True),
            self._counts(data.normal.unseen, answers.normal, harmful=False),
            sum(fact.is_right(answer) for fact, answer in facts),
        )

    def _counts(
        self, rows: Sequence[Row], answers: Sequence[str], *, harmful: bool
    ) -> AnswerCounts:
        cases = [
            Case(row.prompt, answer, harmful_prompt=harmful)
            for row, answer in zip(rows, answers, strict=True)
        ]
        verdicts = self._judge.verdicts(cases)
        counts = Rates.of(verdicts).counts
        comply = tuple(verdict.complies for verdict in verdicts)
        assert None not in comply, "this judge tells of every answer"
        by_prompt = tuple(map(bool, comply))
        return AnswerCounts(
            len(cases), sum(by_prompt), counts["refusal"], counts["degenerate"], by_prompt
        )


def _answered(rows: Sequence[Row], answers: Sequence[str]) -> list[Row]:
    """The prompts with these answers; a blank one has no token to measure."""
    return [
        Row(row.prompt, (answer,))
        for row, answer in zip(rows, answers, strict=True)
        if answer.strip()
    ]
