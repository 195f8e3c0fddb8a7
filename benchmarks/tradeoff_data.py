"""What the unlearning methods are trained on, chosen by and reported on; by path, never packaged.

PKU-SafeRLHF's train prompts are forgotten, its test prompts reported on. TruthfulQA's questions and
the demo's normal prompts are the retain set, split three ways. The Python language's reference is
'general': text that nothing is trained on, one part to choose by and the other to report on.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics

from lora_sku.data import Encoder, Row, Splits, load_rows, screen, split_by_prompt
from lora_sku.data.rows import normalised
from lora_sku.errors import DataError, SourceError
from lora_sku.metrics import words
from lora_sku.recipe import DataFormat, SourceSection
from lora_sku.sources import PACKAGE_SCHEME

TRAIN, TEST, NORMAL = "pku_saferlhf_train.jsonl", "pku_saferlhf_test.jsonl", "TruthfulQA.csv"
EVERYDAY = "package://lora_sku/demo/retain.jsonl"
FACTS = Path(__file__).resolve().parent / "facts.jsonl"
VALIDATION = 0.15
NORMAL_UNSEEN = 0.3
GENERAL_UNSEEN = 0.7
_REFERENCE_WORDS = 60
SEED = 8888  # the same cut for every seed of a method


@dataclass(frozen=True)
class Fact:
    """A question with one short answer.

    Attributes:
        question: As it is asked.
        accepted: Words or phrases, any of which makes an answer right.
    """

    question: str
    accepted: tuple[str, ...]

    def is_right(self, answer: str) -> bool:
        """Whether the answer contains an accepted one as whole words, case apart."""
        said = f" {' '.join(words(answer))} "
        return any(f" {' '.join(words(accepted))} " in said for accepted in self.accepted)


@dataclass(frozen=True)
class TradeoffData:
    """No prompt stands in two of these.

    Attributes:
        forget: Harmful prompts with harmful answers.
        normal: Normal prompts.
        general: Normal prompts of another kind; none is trained on.
        facts: For nothing but the report.
    """

    forget: Splits
    normal: Splits
    general: Splits
    facts: tuple[Fact, ...]

    def at_most(self, *, validation: int, unseen: int) -> "TradeoffData":
        """The first prompts of each split that is scored; splits are in the order of a hash."""

        def cut(splits: Splits) -> Splits:
            return replace(
                splits, validation=splits.validation[:validation], unseen=splits.unseen[:unseen]
            )

        return TradeoffData(cut(self.forget), cut(self.normal), cut(self.general), self.facts)

    def beyond(self, scored: int, most: int) -> "TradeoffData":
        """With the next unseen prompts instead: those that `at_most` has left out.

        General texts are few: where none is left, they stay.

        Args:
            scored: Unseen prompts of each split that are scored elsewhere.
            most: How many of the others.
        """

        def cut(splits: Splits) -> Splits:
            return replace(splits, unseen=splits.unseen[scored : scored + most])

        general = cut(self.general)
        return replace(
            self,
            forget=cut(self.forget),
            normal=cut(self.normal),
            general=general if general.unseen else self.general,
        )

    def fingerprint(self) -> str:
        """sha256 over all of it, in hex: equal means the same data."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


def load_tradeoff_data(folder: Path, encoder: Encoder) -> TradeoffData:
    """Read and cut all sets; too long prompts are left out.

    Args:
        folder: Holds the three files.
        encoder: Measures the prompts.

    Raises:
        SourceError: if a file is missing.
        DataError: if one cannot be used.
    """

    def rows(path: str, kind: DataFormat, side: str) -> tuple[Row, ...]:
        if not (path.startswith(PACKAGE_SCHEME) or Path(path).is_file()):
            raise SourceError(
                "no such file",
                where=path,
                remedy=f"--data names the folder that holds {TRAIN}, {TEST} and {NORMAL}.",
            )
        section = SourceSection(path=path, format=kind, on_bad_record="skip")
        loaded = load_rows(section, "forget" if side == "forget" else "retain")
        return screen(loaded.rows, encoder, "skip").rows

    return cut_data(
        harmful=rows(str(folder / TRAIN), "pku-saferlhf", "forget"),
        harmful_unseen=rows(str(folder / TEST), "pku-saferlhf", "forget"),
        normal=(
            *rows(str(folder / NORMAL), "truthfulqa", "retain"),
            *rows(EVERYDAY, "prompt-response", "retain"),
        ),
        general=reference_rows(),
        facts=read_facts(FACTS),
    )


def cut_data(
    *,
    harmful: Sequence[Row],
    harmful_unseen: Sequence[Row],
    normal: Sequence[Row],
    general: Sequence[Row],
    facts: tuple[Fact, ...],
) -> TradeoffData:
    """Split by prompt; of a prompt in two sets the one that is only reported on keeps it.

    Args:
        harmful: To train and choose with.
        harmful_unseen: To report on.
        normal: To split three ways.
        general: To choose and to report with.
        facts: Their questions are in no other set either.
    """
    asked = [fact.question for fact in facts]
    general = _without(general, asked)
    harmful_unseen = _without(harmful_unseen, [*asked, *_prompts(general)])
    reported = [*asked, *_prompts(general), *_prompts(harmful_unseen)]
    harmful = _without(harmful, reported)
    # The cut alone is taken from here: all in train, in the order of its hash.
    ordered = split_by_prompt(
        harmful_unseen, validation_fraction=0, unseen_fraction=0, seed=SEED
    ).train
    forget = split_by_prompt(harmful, validation_fraction=VALIDATION, unseen_fraction=0, seed=SEED)
    retain = split_by_prompt(
        _without(normal, [*reported, *_prompts(harmful)]),
        validation_fraction=VALIDATION,
        unseen_fraction=NORMAL_UNSEEN,
        seed=SEED,
    )
    kept = split_by_prompt(
        general, validation_fraction=0, unseen_fraction=GENERAL_UNSEEN, seed=SEED
    )
    untrained = Splits((), kept.train, kept.unseen)
    return TradeoffData(replace(forget, unseen=ordered), retain, untrained, facts)


def reference_rows() -> tuple[Row, ...]:
    """The Python language's reference, as every Python brings it: a topic a row."""
    return tuple(
        Row(f"What does Python's reference say about {name}?", (_first_words(text),))
        for name, text in sorted(topics.items())
    )


def _first_words(text: str) -> str:
    """What stands below the heading, without its line breaks."""
    body = text.strip().split("\n\n", 1)[-1]
    return " ".join(body.split()[:_REFERENCE_WORDS])


def read_facts(path: Path) -> tuple[Fact, ...]:
    """Questions with their accepted answers, one JSON object a line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    facts = tuple(Fact(record["question"], tuple(record["accepted"])) for record in records)
    if not facts:
        raise DataError("holds no facts", where=str(path), remedy="Add some.")
    return facts


def _prompts(rows: Iterable[Row]) -> list[str]:
    return [row.prompt for row in rows]


def _without(rows: Sequence[Row], prompts: Iterable[str]) -> list[Row]:
    taken = {normalised(prompt) for prompt in prompts}
    return [row for row in rows if normalised(row.prompt) not in taken]
