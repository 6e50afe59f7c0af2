"""Every kind of picture, good and bad, through the one preprocessing path."""

from __future__ import annotations

import ast
import gzip
import io
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mutations
import numpy as np
import pytest
from mutations import lossless_jpeg
from PIL import Image

from agescale.faces import images


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    """Red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 80)], axis=2).astype(np.uint8))


def color_at_corners(pixels: np.ndarray) -> list[tuple[bool, bool]]:
    """(is red high, is green high) at the four corners: top left, top right, bottom left, bottom right."""
    return [(bool(pixels[y, x, 0] > 128), bool(pixels[y, x, 1] > 128)) for y in (2, -3) for x in (2, -3)]


UPRIGHT = [(False, False), (True, False), (False, True), (True, True)]


HEIF = pytest.param("HEIF", marks=pytest.mark.skipif("HEIF" not in images.FORMATS, reason="without the extra heif"))
AVIF = pytest.param("AVIF", marks=pytest.mark.skipif("AVIF" not in images.FORMATS, reason="Pillow before 11.3"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", AVIF, HEIF])
def test_every_format_decodes_to_the_same_upright_picture(format: str) -> None:
    face = images.load_face(encode(gradient(), format), 32)
    assert face.pixels.shape == (32, 32, 3)
    assert face.pixels.dtype == np.uint8
    assert (face.width, face.height) == (60, 40)
    assert color_at_corners(images.load_face(encode(gradient(40, 40), format), 40).pixels) == UPRIGHT


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", AVIF])
def test_exif_orientation_is_undone(orientation: int, format: str) -> None:
    undo = {1: [], 2: [0], 3: [3], 4: [1], 5: [5], 6: [4], 7: [6], 8: [2]}[orientation]
    inverse = {0: 0, 1: 1, 2: 4, 3: 3, 4: 2, 5: 5, 6: 6}
    stored = gradient(64, 48)
    for method in undo:  # turn the upright picture into what a camera with this orientation stores
        stored = stored.transpose(Image.Transpose(inverse[method]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, format, exif=exif)
    assert images.inspect(data)[:2] == (64, 48)
    assert color_at_corners(images.load_face(data, 48).pixels) == UPRIGHT


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    data = encode(gradient().convert(mode), "JPEG" if mode in ("L", "CMYK") else "PNG")
    pixels = images.load_face(data, 24).pixels
    assert pixels.shape == (24, 24, 3)
    assert pixels.std() > 10


def test_sixteen_bit_grey_keeps_its_range() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = images.load_face(encode(Image.fromarray(ramp), "PNG"), 64).pixels
    assert pixels[0, 0, 0] < 3
    assert 120 < pixels[32, 0, 0] < 136
    assert pixels[-1, -1, 0] > 252


def test_transparent_pixels_are_white_and_not_what_hides_below() -> None:
    hidden = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert images.load_face(encode(hidden, "PNG"), 16).pixels.min() == 255


def test_the_first_frame_of_a_gif_is_taken() -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(images.load_face(data, 16).pixels[8, 8]) == (255, 0, 0)  # red on every decoder


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing: a decompression bomb's first bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8))
JPEG = encode(NOISE, "JPEG")

BAD = {
    "zero bytes": (b"", "unreadable", "empty"),
    "packed": (
        gzip.compress(b"whatever"),
        "unreadable",
        "compressed by gzip, perhaps by its Content-Encoding",
    ),
    "text named .jpg": (b"this is no picture at all", "unreadable", "not an image"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "unreadable", "truncated"),
    "JPEG header alone": (JPEG[:20], "unreadable", "."),
    "truncated PNG": (encode(NOISE, "PNG")[:9000], "unreadable", "truncated"),
    "decompression bomb": (png_header(50_000, 50_000), "too_large", "50000x50000"),
    "PNG without pixels": (png_header(50, 50), "unreadable", "."),
    "one pixel": (encode(Image.new("RGB", (1, 1)), "PNG"), "too_small", "1x1"),
    "thin": (encode(Image.new("RGB", (300, 7)), "PNG"), "too_small", "300x7"),
    "PPM": (encode(gradient(), "PPM"), "unsupported", "PPM"),
    "JPEG XL": (b"\xff\x0a" + bytes(50), "unsupported", "JPEG XL"),
    "JPEG 2000": (encode(gradient(), "JPEG2000"), "unsupported", "JPEG 2000"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("read", [lambda d: images.load_face(d, 32), images.inspect, lambda d: images.pack(d, 32)])
def test_bad_images_say_why(kind: str, read: object) -> None:
    data, status, words = BAD[kind]
    with pytest.raises(images.ImageError, match=words) as caught:
        read(data)  # type: ignore[operator]
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


def test_the_smallest_and_odd_sizes_of_real_data_sets_are_taken() -> None:
    for width, height in ((8, 11), (9, 400), (1, 1)):
        if min(width, height) >= 8:
            assert images.load_face(encode(gradient(width, height), "PNG"), 64).pixels.shape == (64, 64, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_pillow_image_comes_out_as_its_file_does(mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(gradient(64, 48).convert(mode), "JPEG" if mode == "CMYK" else "PNG", exif=exif)
    ours, theirs = (images.load_face(picture, 24, 0.8) for picture in (Image.open(io.BytesIO(data)), data))
    assert (ours.width, ours.height) == (theirs.width, theirs.height)
    np.testing.assert_array_equal(ours.pixels, theirs.pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA"])
def test_an_array_comes_out_as_its_picture_does(mode: str) -> None:
    picture = gradient(64, 48).convert(mode)
    pixels = np.asarray(picture)
    assert not pixels.flags.writeable
    ours, theirs = images.load_face(pixels, 24), images.load_face(encode(picture, "PNG"), 24)
    assert (ours.width, ours.height) == (64, 48)
    np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    with pytest.raises(images.ImageError, match=r"shape \(48, 64, 5\)") as caught:
        images.load_face(np.zeros((48, 64, 5), np.uint8), 24)
    assert caught.value.status == "unsupported"


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_one_pillow_image_may_be_given_to_many_threads(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(gradient(640, 480), format, exif=exif)
    expected = images.load_face(Image.open(io.BytesIO(data)), 64).pixels
    for _ in range(5):
        lazy = Image.open(io.BytesIO(data))
        with ThreadPoolExecutor(8) as pool:
            faces = list(pool.map(lambda image: images.load_face(image, 64), [lazy] * 16))
        assert all(np.array_equal(face.pixels, expected) for face in faces)


@pytest.mark.parametrize("kind", ["truncated JPEG", "truncated PNG", "one pixel", "thin"])
def test_bad_pillow_images_say_why(kind: str) -> None:
    data, status, words = BAD[kind]
    image = Image.open(io.BytesIO(data))
    for _ in range(2):  # the second time as the first
        with pytest.raises(images.ImageError, match=words) as caught:
            images.load_face(image, 32)
        assert caught.value.status == status


def test_large_jpegs_decoded_at_reduced_scale_look_like_pillows_resize() -> None:
    data = encode(gradient(1600, 1600), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).resize((100, 100), Image.Resampling.BILINEAR)).astype(int)
    difference = np.abs(images.load_face(data, 100).pixels.astype(int) - expected)
    assert difference.mean() < 1.5
    assert difference.max() <= 6


def test_resizing_equals_pillows_within_one_grey_level() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "PNG")
    expected = np.asarray(Image.fromarray(noise).resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(images.load_face(data, 64).pixels.astype(int) - expected).max() <= 1


def test_center_crop_keeps_the_middle() -> None:
    picture = Image.new("RGB", (100, 100), "black")
    picture.paste((255, 255, 255), (25, 25, 75, 75))
    data = encode(picture, "PNG")
    assert images.load_face(data, 40, center_crop=0.5).pixels.min() == 255
    assert images.load_face(data, 40).pixels.min() == 0


def test_wide_images_are_cropped_to_their_central_square_not_squashed() -> None:
    picture = Image.new("RGB", (120, 40), "black")
    picture.paste((255, 255, 255), (40, 0, 80, 40))
    assert images.load_face(encode(picture, "PNG"), 40).pixels.min() == 255


def test_packing_keeps_small_jpegs_bit_for_bit_and_shrinks_large_ones() -> None:
    small = encode(gradient(60, 40), "JPEG")
    assert images.pack(small, 40) is small
    large = images.pack(encode(gradient(600, 400), "JPEG"), 100)
    assert Image.open(io.BytesIO(large)).size == (150, 100)
    png = images.pack(encode(gradient(60, 40), "PNG"), 100)
    assert Image.open(io.BytesIO(png)).format == "JPEG"
    assert Image.open(io.BytesIO(png)).size == (60, 40)


def test_packing_turns_the_picture_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = gradient(64, 48).transpose(Image.Transpose.ROTATE_90)
    packed = images.pack(encode(stored, "JPEG", exif=exif), 200)
    assert images.inspect(packed)[:2] == (64, 48)
    assert color_at_corners(images.load_face(packed, 48).pixels) == UPRIGHT


def test_a_thumbnail_is_whole_and_small() -> None:
    assert images.upright_thumbnail(encode(gradient(600, 300), "JPEG"), 100).size == (100, 50)


@pytest.mark.parametrize("side", [64, 2000])
def test_a_lossless_jpeg_is_a_picture_and_not_the_end_of_the_process(side: int) -> None:
    assert not images._is_lossy_jpeg(lossless_jpeg(side)), "scaling it would corrupt the memory"
    face = images.load_face(lossless_jpeg(side), 32)
    assert (face.pixels == 128).all()


def test_no_spoiled_picture_ends_the_process_or_raises_what_is_foreign() -> None:
    command = [sys.executable, mutations.__file__, "1500", "0"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    counts = ast.literal_eval(ended.stdout)
    assert sum(counts.values()) == 2 * 1500
    assert 300 < counts["ok"] < 2700, "some are pictures still, and some are none"


@pytest.mark.parametrize("marker", [0xC3, 0xC7, 0xC9, 0xCB])
def test_of_jpegs_only_those_of_the_usual_coding_go_to_the_fast_decoder(marker: int) -> None:
    data = encode(gradient(), "JPEG")
    assert images._is_lossy_jpeg(data)
    frame = data.index(b"\xff\xc0\x00")
    assert not images._is_lossy_jpeg(data[: frame + 1] + bytes([marker]) + data[frame + 2 :])
    assert not images._is_lossy_jpeg(data[:frame])
    assert not images._is_lossy_jpeg(data[: frame + 4] + b"\x0c" + data[frame + 5 :]), "12 bits"


def chunk(name: bytes, payload: bytes, is_right: bool = True) -> bytes:
    checksum = zlib.crc32(name + payload) ^ (not is_right)
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", checksum)


@pytest.mark.parametrize(
    "broken",
    [
        chunk(b"tEXt", b"Comment\0x", is_right=False),
        chunk(b"gAMA", struct.pack(">I", 45455), is_right=False),
        chunk(b"iCCP", b"profile\0\1nonsense"),
        chunk(b"eXIf", b"not exif"),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 8\nnonsense")),
    ],
)
def test_a_png_whose_metadata_are_broken_is_the_picture_that_it_is(broken: bytes) -> None:
    png = encode(gradient(), "PNG")
    header_end = 8 + 12 + 13
    face = images.load_face(png[:header_end] + broken + png[header_end:], 32)
    assert (face.pixels == images.load_face(png, 32).pixels).all()


def test_a_png_whose_pixels_are_broken_is_none() -> None:
    png = encode(gradient(), "PNG")
    start = png.index(b"IDAT") + 12
    with pytest.raises(images.ImageError):
        images.load_face(png[:start] + bytes(20) + png[start + 20 :], 32)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("num_missing", [1, 2])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_whole(options: dict[str, bool], num_missing: int) -> None:
    data = encode(gradient(), "JPEG", **options)
    face = images.load_face(data[:-num_missing], 32)
    assert (face.pixels == images.load_face(data, 32).pixels).all()


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 4}])
def test_a_hole_in_the_middle_of_a_jpeg_is_damage_and_no_picture(options: dict[str, int]) -> None:
    data = encode(gradient(240, 180), "JPEG", **options)
    middle = len(data) // 2
    with pytest.raises(images.ImageError, match="Corrupt JPEG data"):
        images.load_face(data[:middle] + bytes(1000) + data[middle + 1000 :], 32)


def test_a_bitmap_whose_alpha_nobody_set_is_opaque() -> None:
    pixels = np.dstack([np.asarray(gradient())[::-1, :, ::-1], np.zeros((40, 60), np.uint8)]).tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, 60, 40, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks + bytes(52)
    head = struct.pack("<2sIHHI", b"BM", 14 + len(info) + len(pixels), 0, 0, 14 + len(info))
    face = images.load_face(head + info + pixels, 32)
    assert (face.pixels == images.load_face(encode(gradient(), "BMP"), 32).pixels).all()


def test_want_of_memory_is_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", no_room)
    with pytest.raises(MemoryError):
        images.load_face(encode(gradient(), "JPEG"), 32)


def test_xmp_alone_turns_no_picture() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert images.inspect(encode(gradient(64, 48), "JPEG", xmp=xmp))[:2] == (64, 48)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_blanks_before_a_file_are_no_harm(format: str) -> None:
    data = encode(gradient(), format)
    face = images.load_face(b"\xef\xbb\xbf\r\n" + data, 32)
    assert (face.pixels == images.load_face(data, 32).pixels).all()


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt"])
@pytest.mark.parametrize("is_before", [True, False])
def test_a_png_may_have_any_length_of_text(name: bytes, is_before: bool) -> None:
    text = b"x" * 2_000_000
    starts = {b"tEXt": b"c\0", b"zTXt": b"c\0\0", b"iTXt": b"c\0\1\0\0\0"}
    texts = chunk(name, starts[name] + (text if name == b"tEXt" else zlib.compress(text))) * 40
    png = encode(gradient(), "PNG")
    at = 8 + 12 + 13 if is_before else len(png) - 12
    face = images.load_face(png[:at] + texts + png[at:], 32)
    assert (face.pixels == images.load_face(png, 32).pixels).all()


def test_a_jpeg_of_which_much_is_left_over_is_damaged_and_some_padding_is_no_harm() -> None:
    data = encode(gradient(240, 180), "JPEG")
    end = len(data) - 2
    for rest in (b"ab", bytes(100), b"\xff" * 100):
        assert images.inspect(data[:end] + rest + data[end:])[:2] == (240, 180)
    with pytest.raises(images.ImageError, match=r"9\d extraneous bytes"):
        images.inspect(data[:end] + b"x" * 100 + data[end:])


def test_a_progressive_jpeg_cut_between_two_scans_is_truncated() -> None:
    data = encode(gradient(240, 180), "JPEG", progressive=True)
    scans = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    assert len(scans) > 5
    for scan in scans[1:]:
        with pytest.raises(images.ImageError, match="truncated"):
            images.inspect(data[:scan])
    assert images.inspect(data[:-2])[:2] == (240, 180)


def test_scans_without_end_cost_no_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(gradient(240, 180), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert images.inspect(data[:-2] + 100 * data[last:-2] + data[-2:])[:2] == (240, 180)
    monkeypatch.setattr(images, "MAX_SCANNED_PIXELS", 100 * 240 * 180)
    with pytest.raises(images.ImageError, match=r"240x180 pixels, coded in 1\d\d scans") as caught:
        images.inspect(data[:-2] + 100 * data[last:-2] + data[-2:])
    assert caught.value.status == "too_large"


@pytest.mark.parametrize("size", [(70_000, 20), (200_000, 200)])
def test_what_no_jpeg_can_hold_is_not_packed_and_says_so(size: tuple[int, int]) -> None:
    data = encode(Image.new("L", size), "PNG")
    assert images.inspect(data)[:2] == size
    with pytest.raises(images.ImageError, match="no JPEG may") as caught:
        images.pack(data, 128)
    assert caught.value.status == "too_large"


def test_the_budget_is_never_overdrawn_and_nobody_is_passed_for_ever() -> None:
    budget, order = images.Budget(10), []

    def work(name: str, num_bytes: int) -> None:
        with budget.take(num_bytes):
            order.append(name)

    with ThreadPoolExecutor(2) as pool:
        with budget.take(8):
            large = pool.submit(work, "larger than all", 99)
            while not budget._turn.locked():
                pass
            small = pool.submit(work, "small", 1)
            order.append("first")
        large.result()
        small.result()
    assert order == ["first", "larger than all", "small"]


def test_pictures_in_flight_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    take = images.Budget.take

    def noted(self: images.Budget, num_bytes: int) -> object:
        taken.append(num_bytes)
        return take(self, num_bytes)

    monkeypatch.setattr(images.Budget, "take", noted)
    for data in (encode(gradient(800, 800), "JPEG"), encode(gradient(800, 800), "JPEG", progressive=True)):
        images.load_face(data, 100)
    images.load_face(encode(gradient(800, 800), "PNG"), 100)
    num_pixels = 800 * 800
    assert taken == [3 * num_pixels // 64, 3 * num_pixels // 64 + 6 * num_pixels, images.PIXEL_BYTES * num_pixels]


MEMORY = """
import resource, sys
import numpy as np
from agescale.faces import images

images.load_face(np.zeros((64, 64, 3), np.uint8), 32)  # loads torch
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images.load_face(data, 32)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_a_picture_with_alpha_takes_the_memory_that_the_budget_counts(tmp_path: Path) -> None:
    side = 6000
    (tmp_path / "large.png").write_bytes(encode(Image.new("RGBA", (side, side), (10, 20, 30, 128)), "PNG"))
    ended = subprocess.run([sys.executable, "-c", MEMORY, tmp_path / "large.png"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 1.3 * images.PIXEL_BYTES * side**2  # the square is copied once more, by torch
