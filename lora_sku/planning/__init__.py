"""Recipe -> predicted peak memory: no weights, no network and no GPU needed.

Weights, gradients and optimizer states are computed from the model's shapes. Activations, logits
and temporaries are counted: the layers and the product's own loss functions run on the meta device,
where tensors have sizes but no memory, with stand-ins for quantized and adapted linear layers.
"""

from lora_sku.planning.cards import CARDS_GB, Forecast, Knob, fits, forecast, knobs
from lora_sku.planning.plan import Line, Plan, StagePlan
from lora_sku.planning.recipe_plan import Device, largest_micro_batch, plan
from lora_sku.planning.run_plan import free_bytes, plan_run, refuse_too_large, warning

__all__ = [
    "CARDS_GB",
    "Device",
    "Forecast",
    "Knob",
    "Line",
    "Plan",
    "StagePlan",
    "fits",
    "forecast",
    "free_bytes",
    "knobs",
    "largest_micro_batch",
    "plan",
    "plan_run",
    "refuse_too_large",
    "warning",
]
