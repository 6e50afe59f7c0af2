"""Write a checkpoint as one ONNX or torch file, for programs without agescale.

python jobs/export.py --checkpoint s3://bucket/runs/fast/best --out age.onnx
"""

from __future__ import annotations

from agescale.config import ExportConfig
from agescale.models import included
from agescale.models.export import export


def main(config: ExportConfig) -> None:
    if not config.checkpoint:
        print(included.NOTE, flush=True)
    done = export(config)
    apart = "" if done.error_years is None else f", at most {done.error_years:.1g} years from the checkpoint"
    print(f"exported: {done.uri} ({done.format}, {done.size_bytes:,} bytes{apart}; gives {', '.join(done.outputs)})")
