"""What a scoring comes to: counts by status, a rate, and what limited it. Without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agescale.runtime.bottleneck import Bottleneck

REMEDIES = {
    "start": "starting Ray and loading the model took longer than the work: score more images at a time",
    "read": "read less often: pack the images into the catalog (jobs/catalog.py --pack) or into shards (jobs/pack.py), "
    "and score near the store",
    "decode": "decode less: pack smaller images and the faces found into the catalog (jobs/catalog.py --pack), or have "
    "more CPUs, on any node (for GPUs they decode by themselves, else with --decode apart)",
    "transfer": "the GPU waits for its images to be copied: a larger --batch-size copies less often",
    "model": "compute faster: a GPU or more CPUs, on CPUs also pip install 'agescale[cpu]', or a smaller model",
    "write": "write less often: more rows a file (--unit-rows), and a store nearby",
    "waiting": "processes waited for one another or for processors that other programs had: smaller --unit-rows share "
    "the work more evenly, and fewer other programs leave more of it",
}
"""What to change where that took longest."""


@dataclass(frozen=True)
class ScoreResult:
    """Counts of the whole table, and of the rows that this run has scored: of images, or of their faces."""

    by_status: dict[str, int]
    scored_now: dict[str, int]  # by status
    images_per_s: float
    bottleneck: Bottleneck = field(default_factory=lambda: Bottleneck({}, 0))  # of what this run has scored

    @property
    def num_rows(self) -> int:
        return sum(self.by_status.values())

    @property
    def num_scored_now(self) -> int:
        return sum(self.scored_now.values())

    @property
    def failed_fraction(self) -> float:
        """Share of the rows scored by this run that should have had an age."""
        return num_failed(self.scored_now) / self.num_scored_now if self.num_scored_now else 0.0


def num_failed(counts: Mapping[str, int]) -> int:
    """Rows, by status, that should have had an age: there is none of a photo without a face."""
    return sum(count for status, count in counts.items() if status not in ("ok", "no_face"))
