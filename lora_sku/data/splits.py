"""Train, validation and unseen rows: cut by prompt, by hash, never by position in the file."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_sku.data.rows import Row, hash_order, normalised
from lora_sku.errors import DataError

SPLIT_NAMES = ("unseen", "validation", "train")


@dataclass(frozen=True)
class Splits:
    """Rows by use; no prompt (case and white space apart) stands in two of them."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    unseen: tuple[Row, ...]

    def named(self) -> dict[str, tuple[Row, ...]]:
        """The splits under their names."""
        return {"train": self.train, "validation": self.validation, "unseen": self.unseen}


def split_by_prompt(
    rows: Sequence[Row],
    *,
    validation_fraction: float,
    unseen_fraction: float,
    seed: int,
    follow: Splits | None = None,
) -> Splits:
    """Cut rows into splits of exact sizes, the same for any order of the rows.

    Sizes count prompts that differ in more than case and white space; each fraction above 0 gives
    at least one prompt.

    Args:
        rows: One for each prompt.
        validation_fraction: Share of the prompts for validation.
        unseen_fraction: Share of the prompts held back for the evaluation.
        seed: Another seed, another cut.
        follow: Splits of another set: a prompt that stands there goes to the split it has there,
            so that what one set holds back the other does not train on. The sizes then are exact
            as far as the remaining prompts allow.

    Raises:
        DataError: too few prompts to fill each split.
    """
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (hash_order(f"split {seed}", row.prompt), row.prompt)):
        groups.setdefault(normalised(row.prompt), []).append(row)
    taken = _split_of_prompt(follow)
    free = [key for key in groups if key not in taken]
    split_of = {key: taken[key] for key in groups if key in taken}
    fractions = {"unseen": unseen_fraction, "validation": validation_fraction}
    for name, fraction in fractions.items():
        wanted = max(1, round(fraction * len(groups))) if fraction > 0 else 0
        missing = max(0, wanted - sum(split == name for split in split_of.values()))
        split_of.update(dict.fromkeys(free[:missing], name))
        free = free[missing:]
    split_of.update(dict.fromkeys(free, "train"))
    filled = set(split_of.values())
    if "train" not in filled or any(f > 0 and name not in filled for name, f in fractions.items()):
        raise DataError(
            f"{len(groups)} different prompts are too few for train"
            + "".join(f", {name} ({f:g})" for name, f in fractions.items() if f > 0),
            where="data",
            remedy="Add prompts, or set data.validation_fraction to 0.",
        )
    parts: dict[str, list[Row]] = {name: [] for name in SPLIT_NAMES}
    for key, members in groups.items():
        parts[split_of[key]].extend(members)
    return Splits(**{name: tuple(members) for name, members in parts.items()})


def _split_of_prompt(splits: Splits | None) -> dict[str, str]:
    named = {} if splits is None else splits.named()
    return {normalised(row.prompt): name for name, rows in named.items() for row in rows}
