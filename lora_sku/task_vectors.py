"""Other ways to weaken a task vector before it is negated: pure functions of its factors.

Both are alternatives to `projection` and need no inputs: what they cannot know is which part of the
vector normal prompts feel.

Shape suffixes: I in features, O out features, R rank, K kept rank.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Module path -> (A of shape (R, I), B of shape (O, R))."""

_LAYER_INDEX = re.compile(r"\.(\d+)\.")


def leading_part(a_RI: Tensor, b_OR: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The ``kept`` leading singular directions of B A, as factors (K, I) and (O, K).

    The singular values come from the R x R core between two QR decompositions, so B A is never
    formed. The square root of each goes to either side. After Ethos (arXiv 2403.08994), which
    filters a task vector by its singular directions.

    Raises:
        ValueError: if ``kept`` is not between 1 and R.
    """
    if not 1 <= kept <= len(a_RI):
        raise ValueError(f"a product of rank {len(a_RI)} has no {kept} leading directions")
    q_OR, core_b_RR = torch.linalg.qr(b_OR.double())
    q_IR, core_a_RR = torch.linalg.qr(a_RI.double().T)
    u_RR, s_R, v_RR = torch.linalg.svd(core_b_RR @ core_a_RR.T)
    root_K = s_R[:kept].sqrt()
    a_KI = root_K[:, None] * (v_RR[:kept] @ q_IR.T)
    b_OK = (q_OR @ u_RR[:, :kept]) * root_K
    return a_KI.to(a_RI), b_OK.to(b_OR)


def with_layer_strengths(
    factors: Factors, strengths: Mapping[int, float]
) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors with each decoder layer's delta multiplied by its own strength.

    After LATA (arXiv 2502.20186), which weighs a task vector layer by layer.

    Args:
        factors: Of every adapted module.
        strengths: Index of the decoder layer -> multiple of its delta; layers not named keep it.
    """
    return {
        module: (a_RI, b_OR * strengths.get(layer_index(module), 1.0))
        for module, (a_RI, b_OR) in factors.items()
    }


def layer_index(module: str) -> int:
    """Index of the decoder layer in a module's path: the first number in it.

    Raises:
        ValueError: if the module is in no numbered layer.
    """
    found = _LAYER_INDEX.search(module)
    if found is None:
        raise ValueError(f"{module} is in no numbered layer")
    return int(found[1])
