"""A language model's output projection, as losses in chunks need it.

Shape suffixes: C tokens of a chunk, D hidden size, V vocabulary size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Head:
    """The frozen map from final hidden states to logits.

    ``logits = softcap * tanh(z / softcap)`` with ``z = scale * (hidden W^T + bias)``.

    Attributes:
        weight_VD: Projection, any floating dtype.
        bias_V: Bias or None.
        scale: Factor on the logits (Cohere's ``logit_scale``, the inverse of Granite's
            ``logits_scaling``).
        softcap: Bound of the logits (Gemma's ``final_logit_softcapping``) or None.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_CD: Tensor) -> Tensor:
        """Logits of a chunk, float32 (C, V)."""
        weight_VD, bias_V = self.weight_VD, self.bias_V
        logits_CV = torch.nn.functional.linear(hidden_CD.to(weight_VD.dtype), weight_VD, bias_V)
        logits_CV = logits_CV.float()
        if self.scale != 1.0:
            logits_CV = logits_CV * self.scale
        if self.softcap is not None:
            logits_CV = torch.tanh(logits_CV / self.softcap) * self.softcap
        return logits_CV

    def slope(self, logits_CV: Tensor) -> Tensor | None:
        """Derivative of the softcap at what `logits` returned (C, V); None without one."""
        return None if self.softcap is None else 1 - (logits_CV / self.softcap).square()

    def pull_back(self, grad_CV: Tensor, slope_CV: Tensor | None) -> Tensor:
        """Gradient towards the hidden states, in the weight's dtype (C, D).

        Args:
            grad_CV: Gradient towards the logits, float32; overwritten.
            slope_CV: What `slope` returned.
        """
        if slope_CV is not None:
            grad_CV.mul_(slope_CV)
        if self.scale != 1.0:
            grad_CV.mul_(self.scale)
        return grad_CV.to(self.weight_VD.dtype) @ self.weight_VD
