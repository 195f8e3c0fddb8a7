"""The forget and retain sets: read, check, split by prompt, tokenize, batch, sample."""

from lora_sku.data.audit import DataAudit, SideAudit, TokenCounts, audit
from lora_sku.data.batches import Batch, Layout, collate, pack
from lora_sku.data.encoding import Encoded, Encoder
from lora_sku.data.formats import FORMATS, Pair, Side
from lora_sku.data.further import load_further
from lora_sku.data.rows import LoadedRows, Row, load_rows
from lora_sku.data.rows import normalised as same_prompt
from lora_sku.data.sampling import Response, SafeResponses, StepDraw, StepSampler
from lora_sku.data.sets import DataSets, Screened, fingerprint, load_data, screen
from lora_sku.data.splits import Splits, split_by_prompt

__all__ = [
    "FORMATS",
    "Batch",
    "DataAudit",
    "DataSets",
    "Encoded",
    "Encoder",
    "Layout",
    "LoadedRows",
    "Pair",
    "Response",
    "Row",
    "SafeResponses",
    "Screened",
    "Side",
    "SideAudit",
    "Splits",
    "StepDraw",
    "StepSampler",
    "TokenCounts",
    "audit",
    "collate",
    "fingerprint",
    "load_data",
    "load_further",
    "load_rows",
    "pack",
    "same_prompt",
    "screen",
    "split_by_prompt",
]
