"""Directions that tell harmful from normal texts by their sign, one for each stretch of a text.

The directions of `subspace` have much energy on forget inputs and little on retain inputs, in
whichever sign. What an answer begins with is decided at the end of the prompt, by states whose
means differ: a delta that reads Fisher's linear discriminant there pushes harmful prompts one way
and leaves normal ones where they are. So a row of A is, for each stretch of a text,

    w = M^-1 (mu_f - mu_n),   M = C_n + S_f + C + rho 1

C_n is the second moment of the stretch's normal inputs, not centred, because a LoRA has no bias: a
normal text of the usual kind shall get no answer. S_f is the forget inputs' covariance, halved;
C the second moment of normal inputs anywhere, since A reads every position and an answer elsewhere
is a cost.

Source: Fisher 1936, 'The Use of Multiple Measurements in Taxonomic Problems', Annals of Eugenics
7(2). That refusing is decided by few directions: Arditi et al. 2024 (arXiv 2406.11717).

Shape suffixes: I in features, P drawn positions, C a chunk of either.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_sku.activations import Position, Texts, a_factors, sample_inputs
from lora_sku.data import Encoder, Row, draw_pairs
from lora_sku.model import AdaptedModel

# rho: shares of the variance of the stretch's normal inputs, and of all normal inputs' energy.
RIDGE, FLOOR = 0.3, 1e-4
# Of a text: where the answer is decided, its beginning, the rest of it, the prompt's end before.
# Where ranks are few, the first ones get a row.
STRETCHES = 4
# Positions drawn of each stretch, and of the rest of the prompt, which only C takes in.
_DRAWN = (1, 2, 3, 2, 2)
POSITIONS = sum(_DRAWN)  # of a text
_NEAR = 4  # tokens
# Of (mu_f - mu_n) M^-1 (mu_f - mu_n): below it the inputs are the same but for rounding.
_LEAST = 1e-6
_CHUNK = 1024


def discriminant_rows(rank: int) -> int:
    """How many of A's ``rank`` rows they take."""
    return min(STRETCHES, rank)


@dataclass(frozen=True)
class StretchTexts:
    """Texts, and of every drawn position the stretch it lies in; `STRETCHES` is the rest."""

    texts: Texts
    stretch_P: Tensor


def add_discriminants(
    model: AdaptedModel,
    name: str,
    forget: Sequence[Row],
    normal: Sequence[Sequence[Row]],
    encoder: Encoder,
    *,
    prompts: int,
    rows: int,
    seed: int,
) -> None:
    """Put the discriminants into the last rows of every A, the first stretch's last of all.

    Where a stretch has no texts on a side, or its inputs are the same in all texts, the row is 0
    and reads nothing. Sets weigh by their texts.

    Args:
        model: Carries the adapter.
        name: The adapter's.
        forget: Training rows.
        normal: Training rows of every normal set.
        encoder: Tokenizes them.
        prompts: At most so many of each set.
        rows: Texts in the model at once.
        seed: Decides which prompts, answers and positions are drawn.

    Raises:
        AdapterError: if an adapted layer does not read every token (a routed expert).
    """
    rng = random.Random(f"{seed} stretches")
    harmful = draw_stretches([forget], encoder, prompts, rng)
    usual = draw_stretches(normal, encoder, prompts, rng)
    device = model.base.device
    for sample in sample_inputs(model, harmful.texts, usual.texts, rows=rows):
        factors = a_factors(model, name, sample.modules)
        forget_PI, normal_PI = sample.forget_PI.to(device), sample.retain_PI.to(device)
        for number in range(discriminant_rows(len(factors[0]))):
            found_I = discriminant(
                forget_PI[harmful.stretch_P.to(device) == number],
                normal_PI,
                usual.stretch_P.to(device) == number,
            )
            for a_RI in factors:
                a_RI.data[-1 - number].copy_(found_I)


def draw_stretches(
    sets: Sequence[Sequence[Row]], encoder: Encoder, prompts: int, rng: random.Random
) -> StretchTexts:
    """Prompts of every set, each with one of its answers, and some positions of every stretch."""
    ids: list[tuple[int, ...]] = []
    drawn: list[tuple[Position, int]] = []
    for rows in sets:
        for pair in draw_pairs(rows, prompts, rng):
            encoded = encoder.encode(*pair)
            text = encoded.input_ids[:-1]  # the last token is a target and never read
            places = _stretches(encoded.prompt_length, len(text))
            for number, (stretch, most) in enumerate(zip(places, _DRAWN, strict=True)):
                for place in rng.sample(stretch, min(most, len(stretch))):
                    drawn.append(((len(ids), place), number))
            ids.append(text)
    texts = Texts(tuple(ids), tuple(position for position, _ in drawn))
    return StretchTexts(texts, torch.tensor([number for _, number in drawn]))


def _stretches(prompt: int, length: int) -> tuple[range, ...]:
    """Places of each stretch, and of the rest of the prompt, in a text of so many tokens."""
    begun, near = min(prompt + _NEAR, length), max(prompt - 1 - _NEAR, 0)
    return (
        range(prompt - 1, prompt),
        range(prompt, begun),
        range(begun, length),
        range(near, prompt - 1),
        range(near),
    )


@torch.no_grad()
def discriminant(forget_PI: Tensor, normal_PI: Tensor, stretch_P: Tensor) -> Tensor:
    """Fisher's linear discriminant of one stretch.

    Args:
        forget_PI: Forget inputs of the stretch, any floating dtype.
        normal_PI: Normal inputs everywhere.
        stretch_P: bool (P,), which of those lie in the stretch.

    Returns:
        float64 (I,); forget inputs answer with the larger mean, and with the energy that PEFT's
        random A would have there. 0 if a side has no inputs, or none but the template's.
    """
    forget_PI, normal_PI = forget_PI.float(), normal_PI.float()
    of_stretch_PI = normal_PI[stretch_P]
    if not (len(forget_PI) and len(of_stretch_PI)) or _is_template(of_stretch_PI):
        return torch.zeros(forget_PI.shape[1], dtype=torch.float64, device=forget_PI.device)
    mean_f, mean_n = forget_PI.mean(0), of_stretch_PI.mean(0)
    weight_P = stretch_P.float() / len(of_stretch_PI) + 1 / len(normal_PI)
    spread_PI = (forget_PI - mean_f) * (0.5 / len(forget_PI)) ** 0.5
    rows_PI = torch.cat([normal_PI * weight_P.sqrt()[:, None], spread_PI])
    variance, energy = (of_stretch_PI - mean_n).square().mean(), normal_PI.square().mean()
    apart_I = (mean_f - mean_n).double()
    found_I = ridge_solve(rows_PI, float(RIDGE * variance + FLOOR * energy), apart_I)
    if float(apart_I @ found_I) < _LEAST:
        return torch.zeros_like(found_I)
    usual = (
        forget_PI.square().mean() / 3
    )  # Kaiming's uniform A with a = sqrt(5): variance 1 / (3 I)
    response = (forget_PI @ found_I.to(forget_PI)).square().mean()
    return found_I * float((usual / response).sqrt())


def _is_template(inputs_PI: Tensor) -> bool:
    """Whether these are a few tokens' inputs again and again, before any layer saw the prompt."""
    different = len(set(inputs_PI.sum(1).tolist()))
    return different < len(inputs_PI) and different <= _NEAR


def discriminant_bytes(features: int, positions: int) -> int:
    """At most at work on one input of all these positions: fp32 copies, X X^T and its factor."""
    return 4 * 4 * positions * features + 2 * 8 * min(features, positions) ** 2


def ridge_solve(rows_PI: Tensor, rho: float, target_I: Tensor) -> Tensor:
    """(X^T X + rho 1)^-1 t in float64, by features or by tokens, whichever are fewer.

    Args:
        rows_PI: X.
        rho: Above 0.
        target_I: t, float64.
    """
    tokens, features = rows_PI.shape
    if features <= tokens:
        m_II = _gram(rows_PI.T, rho)
        solved_I: Tensor = _solved(m_II, target_I)
        return solved_I
    m_PP = _gram(rows_PI, rho)
    seen_P = torch.cat([part_CI.double() @ target_I for part_CI in _chunks(rows_PI)])
    back_I = _solved(m_PP, seen_P).to(rows_PI) @ rows_PI
    return (target_I - back_I.double()) / rho


def _gram(rows_NK: Tensor, rho: float) -> Tensor:
    """X X^T + rho 1 in float64; columns go by in chunks."""
    gram = torch.zeros(len(rows_NK), len(rows_NK), dtype=torch.float64, device=rows_NK.device)
    for part_CN in _chunks(rows_NK.T):
        wide_CN = part_CN.double()
        gram.addmm_(wide_CN.T, wide_CN)
    gram.diagonal().add_(rho)
    return gram


def _chunks(rows: Tensor) -> Iterator[Tensor]:
    yield from torch.split(rows, _CHUNK)


def _solved(matrix: Tensor, target: Tensor) -> Tensor:
    lower = torch.linalg.cholesky(matrix)
    return torch.cholesky_solve(target[:, None], lower)[:, 0]
