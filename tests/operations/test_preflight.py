"""A cluster is tried as it is: what is right says so, and what is wrong says what to mend."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import make_checkpoint

from agescale.cataloging.driver import build_catalog
from agescale.commands import preflight as command
from agescale.config import CatalogConfig, PreflightConfig
from agescale.operations import preflight as rooms
from agescale.operations.preflight import Check, Node, preflight
from agescale.runtime import nodes
from agescale.runtime.versions import installed_versions


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, drawn_faces: Path, local_ray: None) -> Path:
    folder = tmp_path_factory.mktemp("preflight")
    build_catalog(CatalogConfig(str(drawn_faces / "unlabelled"), str(folder / "catalog")))
    make_checkpoint(folder / "model")
    return folder


def tried(made: Path, **settings: object) -> dict[str, Check]:
    given = {"catalog": str(made / "catalog"), "checkpoint": str(made / "model"), "out": (str(made / "ages"),)}
    config = PreflightConfig(**{**given, "device": "cpu", **settings})  # type: ignore[arg-type]
    return {check.name: check for check in preflight(config)}


def test_what_is_right_is_told_with_speed_time_and_price(made: Path) -> None:
    checks = tried(made, price_per_hour=3.6)
    assert {name for name, check in checks.items() if check.remedy} <= {"/dev/shm", "free disk"}, "of this machine"
    assert {"cluster", "answers", "ray", "python", "clocks", "rights", "shared", "weights"} < checks.keys()
    assert checks["answers"].found == "1 of 1 nodes"
    assert " images/s with 4 processes" in checks["time"].found
    assert checks["cost"].found.endswith("in all")


@pytest.mark.parametrize(
    ("settings", "name", "remedy"),
    [
        ({"device": "cuda"}, "cluster", "no GPU is there"),
        ({"num_workers": 100}, "cluster", "100 workers need as many CPUs"),
        ({"catalog": "/nowhere", "checkpoint": ""}, "rights", "/nowhere: nothing is there"),
        ({"catalog": "", "checkpoint": "/nowhere"}, "weights", "/nowhere"),
        ({"catalog": "", "checkpoint": "", "out": ("/proc/ages",)}, "rights", "/proc/ages"),
    ],
)
def test_what_is_wrong_says_what_to_mend(made: Path, settings: dict[str, object], name: str, remedy: str) -> None:
    config = {"device": "cpu", **settings}
    given = {"catalog": "", "checkpoint": "", "out": ()}
    checks = {each.name: each for each in preflight(PreflightConfig(**{**given, **config}))}  # type: ignore[arg-type]
    assert remedy in checks[name].remedy


def test_nodes_that_differ_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = dict.fromkeys(installed_versions(), "1")
    monkeypatch.setattr(nodes, "alive", lambda: {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"})
    monkeypatch.setattr(rooms, "installed_versions", lambda: mine)
    big = 2**40
    answers = {
        "a": Node(mine, big, big, 100.0, {}),
        "b": Node({**mine, "ray": "2"}, 64 * 2**20, big, 500.0, {"s3://x": "s3://x: access refused"}),
    }
    told = {check.name: check.remedy for check in rooms._nodes(answers, 99.0, 101.0)}
    assert told["answers"] == "no answer from 10.0.0.3"
    assert told["ray"] == "10.0.0.2 has 2: use one image everywhere"
    assert told["/dev/shm"] == "10.0.0.2 needs at least 0.2 GiB"
    assert told["clocks"] == "the clock of 10.0.0.2 is wrong: set it"
    assert told["rights"] == "10.0.0.2: s3://x: access refused"
    assert not told["free disk"]
    assert not told["torch"]


def test_a_job_that_would_cost_more_than_it_may_is_a_thing_to_mend() -> None:
    assert rooms._cost(12.5, None) == rooms._cost(12.5, 12.5) == rooms.Check("cost", "about 12.50 in all")
    assert rooms._cost(12.5, 10).remedy.startswith("about 12.50, over --max-cost 10.00")
    with pytest.raises(ValueError, match="--max-cost: give --price-per-hour"):
        PreflightConfig(max_cost=10)


def test_the_first_thing_to_mend_ends_it_with_code_2(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(PreflightConfig(device="cuda"))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: cluster: no GPU is there")
