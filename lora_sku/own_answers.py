"""What theta_o itself says to a prompt: several drawn completions, kept on disk.

They depend on the base, the prompt's token ids (template and cut included), the way of drawing and
a seed, and on nothing else: not on which other prompts are asked, nor on the batch. So one file for
each base and way of drawing serves all runs, and a resumed run finds the answers it began with.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_sku.data import Encoder
from lora_sku.errors import StorageError
from lora_sku.generation import Completion, complete
from lora_sku.model import AdaptedModel
from lora_sku.recipe import OwnAnswersSection
from lora_sku.reference_states import base_key
from lora_sku.storage import write_text
from lora_sku.token_sampling import Sampling

# Prompts between two writes: a killed run loses no more.
_PROMPTS_AT_ONCE = 64

# Not behind a digit, which may be the number of a list's item; with what closes behind it.
_SENTENCE_END = re.compile(r"(?<!\d)[.!?\u3002\uff01\uff1f](?!\w)[\"')\]\u201d\u2019\u00bb]*")

Ids = tuple[int, ...]


@dataclass(frozen=True)
class OwnAnswers:
    """Asks theta_o, or remembers.

    Attributes:
        model: Its adapters are off meanwhile.
        encoder: Tokenizes.
        section: How to draw, and how many for each prompt.
        seed: Another seed, other answers.
        batch_size: Completions at once.
        cache: Folder of the files.
        on_progress: Called with (prompts done, all that had to be asked).
    """

    model: AdaptedModel
    encoder: Encoder
    section: OwnAnswersSection
    seed: int
    batch_size: int
    cache: Path
    on_progress: Callable[[int, int], None]

    def to(self, prompts: Sequence[str], *, prefix: str | None) -> list[tuple[str, ...]]:
        """The completions of each prompt, each once, unfinished sentences cut off, none blank.

        Args:
            prompts: As the recipe's sets have them.
            prefix: Put in the model's mouth, and part of what it is taken to have said.

        Raises:
            StorageError: if the file of a former run cannot be read.
        """
        start = () if prefix is None else self.encoder.opening_ids(prefix.strip())
        asked = [self.encoder.prompt_ids(prompt)[0] + start for prompt in prompts]
        said = "" if prefix is None else f"{prefix.strip()} "
        return [
            tuple(dict.fromkeys(f"{said}{whole(found)}" for found in completions if found.text))
            for completions in self.after(asked)
        ]

    def after(self, asked: Sequence[Ids], stop_ids: Sequence[int] = ()) -> list[list[Completion]]:
        """The completions of token ids, as they were drawn.

        Args:
            asked: Token ids to go on from.
            stop_ids: Tokens that end a completion, beside the model's own.

        Raises:
            StorageError: if the file of a former run cannot be read.
        """
        file = self.cache / self._file_name(stop_ids)
        known = _read(file)
        missing = [ids for ids in dict.fromkeys(asked) if _key(ids) not in known]
        for at in range(0, len(missing), _PROMPTS_AT_ONCE):
            piece = missing[at : at + _PROMPTS_AT_ONCE]
            fresh = dict(zip(map(_key, piece), self._draw(piece, stop_ids), strict=True))
            # Another run may have written meanwhile, without what was read or drawn here.
            known = _read(file) | known | fresh
            write_text(file, "".join(_lines(known)))
            self.on_progress(min(at + _PROMPTS_AT_ONCE, len(missing)), len(missing))
        return [known[_key(ids)] for ids in asked]

    def _draw(self, prompts: Sequence[Ids], stop_ids: Sequence[int]) -> list[list[Completion]]:
        per_prompt = self.section.per_prompt
        repeated = [ids for ids in prompts for _ in range(per_prompt)]
        seeds = tuple(_seed(self.seed, ids, n) for ids in prompts for n in range(per_prompt))
        self.model.peft_model.eval()  # a fresh adapter's layers are in training mode
        with self.model.reference_mode():
            drawn = complete(
                self.model.base,
                repeated,
                max_new_tokens=self.section.max_new_tokens,
                batch_size=self.batch_size,
                sampling=Sampling(self.section.temperature, self.section.top_p, seeds),
                stop_ids=stop_ids,
            )
        return [drawn[at : at + per_prompt] for at in range(0, len(drawn), per_prompt)]

    def _file_name(self, stop_ids: Sequence[int]) -> str:
        # The prefix is in the ids; who asks for more completions draws them all again.
        drawn: dict[str, Any] = self.section.model_dump(exclude={"prefix"})
        drawn |= {"seed": self.seed, "stop_ids": list(stop_ids)}
        settings = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:16]
        return f"{base_key(self.model.base)}-{settings}.jsonl"


def whole(completion: Completion) -> str:
    """All of it if it came to its end, else up to the end of its last sentence.

    A completion that was stopped at its longest ends anywhere, and a model that is taught to end
    there learns to break off.
    """
    return completion.text if completion.ended else whole_sentences(completion.text)


def whole_sentences(text: str) -> str:
    """The text up to the end of its last sentence; all of it if no sentence ends in it."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text


def _read(file: Path) -> dict[str, list[Completion]]:
    if not file.exists():
        return {}
    try:
        entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return {
            entry["prompt"]: [Completion(**said) for said in entry["completions"]]
            for entry in entries
        }
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            "this file of a model's own answers is damaged",
            where=str(file),
            remedy="Delete it: the answers are drawn again.",
        ) from error


def _lines(known: dict[str, list[Completion]]) -> Iterator[str]:
    for key, completions in known.items():
        yield json.dumps({"prompt": key, "completions": list(map(asdict, completions))}) + "\n"


def _key(ids: Ids) -> str:
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def _seed(seed: int, ids: Ids, number: int) -> int:
    digest = hashlib.sha256(f"{seed} {number} {_key(ids)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits
