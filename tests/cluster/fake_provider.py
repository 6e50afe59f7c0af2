"""Ray's provider of nodes that are processes of this machine, for the autoscaler.

Ray's own takes no "memory" of a node type, and without it no node would seem to have what a model needs.
"""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class Provider(FakeMultiNodeProvider):
    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: dict[str, float], labels: Any
    ) -> None:
        found_by_itself = {kind: amount for kind, amount in resources.items() if kind != "memory"}
        super().create_node_with_resources_and_labels(node_config, tags, count, found_by_itself, labels)
