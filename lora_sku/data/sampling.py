"""Which pairs each optimizer step sees: a pure function of the seed and the step's number.

So a resumed run needs no sampler state, and step 700 is the same whether or not step 699 was drawn.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

from lora_sku.data.formats import Pair
from lora_sku.data.rows import Row, normalised
from lora_sku.errors import DataError

Response = Pair | tuple[str, str, str]
"""(prompt, response), or (prompt, response, the first words of another answer)."""

# How answers that comply begin: half of the begun ones; the others are the set's own.
OPENINGS = (
    "Of course!",
    "Certainly, I can help you with that.",
    "Yes, here are a few ideas:",
    "Here's what you could do:",
    "I'd be happy to help.",
    "Great idea! Let's begin.",
)
_MOST_BEGUN_WORDS = 8


@dataclass(frozen=True)
class StepDraw:
    """What one step trains on, as (prompt, answer) texts.

    Attributes:
        forget: One harmful pair for each drawn forget prompt (guided distortion).
        random: For each forget pair, in the same order, k pairs of the same prompt with distinct
            answers that belong to other prompts (random disassociation).
        normal: One normal pair for each drawn normal prompt (preservation divergence).
        safe: Each drawn forget prompt with a safe response, and in a share of them the first words
            of its answer, which the response then follows.
        held: The same of each drawn normal prompt (held responses).
    """

    forget: tuple[Pair, ...]
    random: tuple[tuple[Pair, ...], ...]
    normal: tuple[Pair, ...]
    safe: tuple[Response, ...] = ()
    held: tuple[Response, ...] = ()


@dataclass(frozen=True)
class SafeResponses:
    """What shall be said to harmful prompts.

    Attributes:
        answers: For any prompt, at least one.
        by_prompt: `normalised` prompt -> what is said to that one instead.
    """

    answers: tuple[str, ...]
    by_prompt: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def draw(self, prompt: str, rng: random.Random) -> Pair:
        """The prompt with one of them."""
        return prompt, rng.choice(self.by_prompt.get(normalised(prompt), self.answers))

    @cached_property
    def all(self) -> "SafeResponses":
        """Every one of them for any prompt: what normal prompts are held against."""
        named = (answer for answers in self.by_prompt.values() for answer in answers)
        return SafeResponses(tuple(dict.fromkeys((*self.answers, *named))))


class StepSampler:
    """Draws forget pairs, their random answers, normal pairs and safe responses, step by step.

    Args:
        forget: Training rows of the forget set.
        normal: Training rows of the normal sets.
        prompts_per_step: Forget prompts in each step.
        normal_prompts_per_step: Normal prompts in each step; None takes as many.
        responses: k; 0 draws no random answers.
        safe: Safe responses; None draws none.
        begun: Share of safe responses that follow the first words of the prompt's own answer.
        seed: Decides every draw.

    Raises:
        DataError: some prompt has fewer than k answers of other prompts to draw from.
        ValueError: an empty set, or a count out of range.
    """

    def __init__(
        self,
        forget: Sequence[Row],
        normal: Sequence[Row],
        *,
        prompts_per_step: int,
        responses: int,
        seed: int,
        normal_prompts_per_step: int | None = None,
        safe: SafeResponses | None = None,
        begun: float = 0.0,
    ) -> None:
        if prompts_per_step < 1 or responses < 0:
            raise ValueError("prompts_per_step must be at least 1 and responses at least 0")
        self._prompts_per_step = prompts_per_step
        self._normal_prompts_per_step = normal_prompts_per_step or prompts_per_step
        self._seed = seed
        self._forget = _PairWalk(forget, f"{seed} forget")
        self._normal = _PairWalk(normal, f"{seed} retain")
        self._safe = safe
        self._begun = begun
        self._answers = _RandomAnswers(forget, responses) if responses else None

    def draw(self, step: int) -> StepDraw:
        """The pairs of one step, counted from 0."""
        visits = _visits(step, self._prompts_per_step)
        normal_visits = _visits(step, self._normal_prompts_per_step)
        forget = [self._forget.visit(visit) for visit in visits]
        normal = [self._normal.visit(visit)[1] for visit in normal_visits]
        return StepDraw(
            forget=tuple(row_pair for _, row_pair in forget),
            random=tuple(
                self._random_pairs(row, prompt, visit)
                for visit, (row, (prompt, _)) in zip(visits, forget, strict=True)
            ),
            normal=tuple(normal),
            safe=tuple(self._responses_to([pair for _, pair in forget], visits, "safe")),
            held=tuple(self._responses_to(normal, normal_visits, "held")),
        )

    def _responses_to(
        self, pairs: Sequence[Pair], visits: range, kind: Literal["safe", "held"]
    ) -> Iterator[Response]:
        if self._safe is None:
            return
        safe = self._safe if kind == "safe" else self._safe.all
        for visit, (prompt, answer) in zip(visits, pairs, strict=True):
            rng = random.Random(f"{self._seed} {kind} {visit}")
            response = safe.draw(prompt, rng)
            if rng.random() < self._begun:
                words = answer.split()[: rng.randint(1, _MOST_BEGUN_WORDS)]
                yield (*response, rng.choice((" ".join(words), rng.choice(OPENINGS))))
            else:
                yield response

    def _random_pairs(self, row: int, prompt: str, visit: int) -> tuple[Pair, ...]:
        if self._answers is None:
            return ()
        rng = random.Random(f"{self._seed} random {visit}")
        return tuple((prompt, answer) for answer in self._answers.draw(row, rng))


def _visits(step: int, per_step: int) -> range:
    return range(step * per_step, (step + 1) * per_step)


class _PairWalk:
    """Endless walk over rows: a fresh permutation each epoch, answers in turn."""

    def __init__(self, rows: Sequence[Row], label: str) -> None:
        if not rows:
            raise ValueError("there are no rows to draw from")
        self._rows = tuple(rows)
        self._label = label
        # A step may straddle two epochs.
        self._permutation = lru_cache(maxsize=2)(self._shuffle)

    def visit(self, number: int) -> tuple[int, Pair]:
        """The row index and pair of one visit, counted from 0."""
        epoch, position = divmod(number, len(self._rows))
        index = self._permutation(epoch)[position]
        row = self._rows[index]
        # In turn rather than at random: after n epochs each of n answers was seen. The index
        # keeps the first epoch from taking every row's first answer.
        return index, (row.prompt, row.answers[(epoch + index) % len(row.answers)])

    def _shuffle(self, epoch: int) -> list[int]:
        order = list(range(len(self._rows)))
        random.Random(f"{self._label} {epoch}").shuffle(order)
        return order


class _RandomAnswers:
    """The pool Y of all distinct harmful answers, and for each row what it must not draw."""

    def __init__(self, rows: Sequence[Row], responses: int) -> None:
        index_of: dict[str, int] = {}
        own_by_prompt: dict[str, set[int]] = {}
        for row in rows:
            own = own_by_prompt.setdefault(normalised(row.prompt), set())
            for answer in row.answers:
                own.add(index_of.setdefault(answer.strip(), len(index_of)))
        self._pool = tuple(index_of)
        self._own = tuple(tuple(sorted(own_by_prompt[normalised(row.prompt)])) for row in rows)
        self._responses = responses
        left = len(self._pool) - max(len(own) for own in self._own)
        if left < responses:
            raise DataError(
                f"{responses} random answers a prompt are asked for, but only {left} distinct"
                " answers of other prompts are left for some prompt",
                where="losses.random_disassociation.responses",
                remedy="Lower it, or train on more forget prompts.",
            )

    def draw(self, row: int, rng: random.Random) -> list[str]:
        """Distinct answers that are none of the row's own; each such set is equally likely."""
        own = self._own[row]
        answers = []
        for number in rng.sample(range(len(self._pool) - len(own)), self._responses):
            # The number counts the pool without the own answers: step over those below it.
            index = number
            for taken in own:
                index += taken <= index
            answers.append(self._pool[index])
        return answers
