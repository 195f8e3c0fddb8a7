"""A run directory -> pages for people: report.html for one run, compare.html for several.

The pages need nothing beside them: no script, no network, no model. Reading a run needs no torch.
"""

from lora_sku.report.compare import Comparison, compare_runs, write_comparison
from lora_sku.report.page import write_report
from lora_sku.report.read import RunEvidence, read_run

__all__ = [
    "Comparison",
    "RunEvidence",
    "compare_runs",
    "read_run",
    "write_comparison",
    "write_report",
]
