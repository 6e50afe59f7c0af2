"""What limited a job: seconds divided without overlap, and one line to act on."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from agescale.runtime import bottleneck
from agescale.runtime.bottleneck import Bottleneck, Meter, Took
from agescale.scoring.result import REMEDIES


class Clock:
    """Both clocks of a thread, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s = self.cpu_s = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.wall_s)
        monkeypatch.setattr(time, "thread_time", lambda: self.cpu_s)

    def pass_by(self, wall_s: float, cpu_s: float) -> None:
        self.wall_s += wall_s
        self.cpu_s += cpu_s


def test_a_stage_within_another_interrupts_it_and_every_second_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def loaded() -> Iterator[int]:
        for number in range(2):
            clock.pass_by(5, 0)  # waits
            yield number

    def found(images: Iterator[int]) -> Iterator[int]:
        for image in images:
            clock.pass_by(2, 1)
            yield image

    def break_down() -> None:
        clock.pass_by(3, 3)
        raise ValueError("broken")

    meter = Meter(base="write")
    for _ in meter.each("decode", found(meter.each("images", loaded()))):
        with meter.stage("model"):
            clock.pass_by(10, 8)
        clock.pass_by(1, 1)
    with pytest.raises(ValueError, match="broken"), meter.stage("model"):
        break_down()
    clock.pass_by(1, 0)
    took = meter.end()
    assert took == {"images": Took(10, 0), "decode": Took(4, 2), "model": Took(23, 19), "write": Took(3, 2)}
    meter.begin()
    assert meter.end() == {"write": Took(0, 0)}


@pytest.mark.parametrize("on_cpu", [True, False])
def test_all_seconds_are_divided_and_none_is_made_up(on_cpu: bool) -> None:
    took = {"model": Took(20, 12), "images": Took(10, 0), "decode": Took(5, 4), "write": Took(2, 1)}
    seconds = bottleneck.divided(took, on_cpu, read_s=30, decode_s=10, decode_cpu_s=3)
    assert sum(seconds.values()) == pytest.approx(37)
    assert seconds["read"] == 7.5, "three quarters of what was waited for"
    assert seconds["model"] == (12 if on_cpu else 20), "a GPU computes while the thread waits for it"
    assert seconds["decode"] == (4 + 2.5 + 3 if on_cpu else 5 + 2.5)
    assert seconds.get("waiting", 0) == (6 if on_cpu else 0), "processors that decoding did not have either"


def test_the_line_names_the_limit_the_shares_and_what_to_change() -> None:
    found = Bottleneck({"model": 120.0, "decode": 60.0, "start": 19.2, "read": 0.8, "transfer": 0.0}, 2)
    assert found.line(REMEDIES) == (
        "limited by model: model 60%, decoding 30%, starting 10% of the time, "
        f"60% of the speed of the model alone; {REMEDIES['model']}"
    )
    assert found.to_dict() == {
        "limited_by": "model",
        "share_of_model_ceiling": 0.6,
        "shares": {"start": 0.096, "read": 0.004, "decode": 0.3, "model": 0.6},
        "seconds": {"start": 19.2, "read": 0.8, "decode": 60.0, "model": 120.0},
        "num_processes": 2,
    }


def test_nothing_done_has_no_limit() -> None:
    nothing = Bottleneck({}, 0)
    assert nothing.line(REMEDIES) == ""
    assert nothing.to_dict()["limited_by"] == ""


def test_every_stage_of_a_job_has_a_remedy() -> None:
    from agescale.training import driver

    of_training = {"images", "features", "model", "validation", "write", "waiting"}
    assert REMEDIES.keys() | driver.REMEDIES.keys() == bottleneck.STAGES.keys()
    assert driver.REMEDIES.keys() == of_training
