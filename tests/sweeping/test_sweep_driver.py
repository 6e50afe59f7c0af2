"""What a sweep asks of Ray Tune."""

from __future__ import annotations

import pytest
from ray.tune.execution.class_cache import _ActorClassCache

from agescale.sweeping.driver import keep_credentials


def test_the_description_of_a_trials_actor_has_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"the {name}")
    keep_credentials()
    described = _ActorClassCache().get(type("Trainable", (), {}))._default_options["runtime_env"]
    assert described["env_vars"]
    assert not [name for name in described["env_vars"] if name.startswith("AWS_")]
