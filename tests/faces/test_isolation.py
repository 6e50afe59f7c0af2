"""Pictures that crash their decoder: one row each, whoever else is decoded beside them."""

from __future__ import annotations

import io
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from crashing_decoder import install, poisoned
from PIL import Image

from agescale.faces import images, isolation
from agescale.faces.images import ImageError
from agescale.faces.isolation import IsolatedImages
from agescale.runtime import work


def jpeg(seed: int = 0, side: int = 64) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def _crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path / "crashing")))


def test_what_comes_out_is_what_images_would_make_of_it() -> None:
    data, png = jpeg(side=300), io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGBA").save(png, "PNG")
    with IsolatedImages() as isolated:
        for picture in (data, png.getvalue(), np.asarray(Image.open(io.BytesIO(data)))):
            ours, theirs = isolated.load_face(picture, 32, 0.9), images.load_face(picture, 32, 0.9)
            assert (ours.width, ours.height) == (theirs.width, theirs.height)
            np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        assert isolated.inspect(data)[:2] == (300, 300)
        assert isolated.pack(data, 100) == images.pack(data, 100)
        assert isolated.upright_thumbnail(data, 50).tobytes() == images.upright_thumbnail(data, 50).tobytes()
        with pytest.raises(ImageError, match="not an image") as caught:
            isolated.load_face(b"nonsense", 32)
        assert caught.value.status == "unreadable"


@pytest.mark.usefixtures("_crashing")
def test_a_picture_that_crashes_its_decoder_is_unreadable_and_the_others_are_not() -> None:
    pictures = [jpeg(seed) for seed in range(20)]
    pictures[3] = poisoned(pictures[3], "SEGFAULT")
    pictures[11] = poisoned(pictures[11], "TOO MUCH MEMORY")

    def load(picture: bytes) -> str:
        try:
            return f"{isolated.load_face(picture, 32).pixels.mean():.3f}"
        except ImageError as error:
            return f"{error.status}: {error}"

    with IsolatedImages() as isolated, ThreadPoolExecutor(8) as pool:
        said = list(pool.map(load, pictures))
    expected = [f"{images.load_face(picture, 32).pixels.mean():.3f}" for picture in pictures]
    expected[3] = "unreadable: its decoder crashed (SIGSEGV)"
    expected[11] = "unreadable: its decoder crashed (SIGKILL)"
    assert said == expected


@pytest.mark.usefixtures("_crashing")
def test_a_picture_that_is_never_decoded_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "TIMEOUT_S", 0.5)
    with IsolatedImages() as isolated:
        with pytest.raises(ImageError, match=r"not decoded within 0\.5 s"):
            isolated.inspect(poisoned(jpeg(), "FOR EVER"))
        monkeypatch.setattr(isolation, "TIMEOUT_S", 300)
        assert isolated.inspect(jpeg())[:2] == (64, 64)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "agescale.faces.isolation" in child.cmdline()]


def test_a_process_that_ended_between_two_pictures_is_nobodys_fault() -> None:
    with IsolatedImages() as isolated:
        assert isolated.inspect(jpeg())[:2] == (64, 64)
        (child,) = children()
        os.kill(child.pid, signal.SIGKILL)
        assert isolated.inspect(jpeg())[:2] == (64, 64)
    assert children() == []


def test_a_process_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation.sys, "executable", shutil.which("false"))
    with IsolatedImages() as isolated, pytest.raises(RuntimeError, match="did not start: exit code 1"):
        isolated.inspect(jpeg())


def test_work_that_has_ended_its_process_twice_is_decoded_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = SimpleNamespace(get_temp_dir=lambda: str(tmp_path), get_session_name=lambda: "session")
    monkeypatch.setattr(work.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(work.ray, "get_runtime_context", lambda: context)
    (tmp_path / "session").mkdir()
    died = [work.decoder("a unit") for _ in range(3)]  # none of these ends
    used = [each.__enter__() for each in died]
    assert used[:2] == [images, images]
    assert isinstance(used[2], IsolatedImages)
    with work.decoder("another unit") as decoder:
        assert decoder is images
    died += [work.decoder("a unit") for _ in range(work.HOPELESS_DEATHS - 3)]
    for each in died[3:]:
        each.__enter__()
    with pytest.raises(ValueError, match="a unit: the process that makes it has died 10 times"), work.decoder("a unit"):
        pass
    with work.decoder("a unit") as decoder:
        assert decoder is images, "the note went with the work's end"
    assert list((tmp_path / "session" / "agescale").iterdir()) == []


def test_a_full_disk_keeps_nobody_from_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(get_temp_dir=lambda: "/proc/nowhere", get_session_name=lambda: "session")
    monkeypatch.setattr(work.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(work.ray, "get_runtime_context", lambda: context)
    with work.decoder("a unit") as decoder:
        assert decoder is images
