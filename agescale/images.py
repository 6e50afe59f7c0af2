"""Bytes of an image file in; uint8 RGB pixels out, or the reason why not. The one preprocessing path of every job.

Training, scoring and single photos all call ``load_face``, which takes pictures that are decoded already, too;
normalisation is not here but inside the model. Reads no files: bytes come from ``storage``.
"""

from __future__ import annotations

import io
import re
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from agescale.schema import MIN_SIDE

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif")
"""Names that end so (in any case) are images; everything else in a folder is ignored and counted."""

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "GIF")

MAX_PIXELS = 100_000_000
"""An image that claims more is `too_large`: four bytes a pixel of it would have to be held at once."""

PACK_QUALITY = 95

FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG's frame header, by the kind of its coding."""
LOSSY_FRAMES = (0xC0, 0xC1, 0xC2)
"""Of these baseline, extended sequential and progressive DCT, Huffman coded."""

Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS takes its place: Pillow's limit speaks through warnings, which threads lose
Image.init()  # loads the format plugins once, before threads race for them

_PILLOW_LOCK = threading.Lock()
"""Pillow decodes an image when it is first asked for pixels, and the same one may be given to several threads."""

Pixels = npt.NDArray[np.uint8]


class ImageError(ValueError):
    """Why there are no pixels. ``status`` is one of schema.STATUSES: unreadable, unsupported, too_small, too_large."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Face:
    """Pixels ``(size, size, 3)`` uint8 RGB, and the width and height of the upright image that they came from."""

    pixels: Pixels
    width: int
    height: int


def is_image_name(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


Picture = bytes | Image.Image | Pixels
"""An image file, an image of Pillow's, or pixels: (H, W) grey, (H, W, 3) RGB, (H, W, 4) with alpha."""


def load_face(picture: Picture, size: int, center_crop: float = 1.0) -> Face:
    """Decodes, keeps the central square of ``center_crop`` times the shorter side, and scales it to ``size`` pixels.

    Raises ImageError. First frames of GIFs, EXIF orientation, grey, palette, alpha (over white), CMYK and 16-bit images
    all come out as upright RGB.
    """
    header = _open(picture) if isinstance(picture, bytes) else _load(picture)
    # the scaled JPEG decoder may stop at the least size that still has `size` pixels in the crop
    pixels = _decode(header, min_side=int(np.ceil(size / center_crop)))
    side = max(1, round(min(pixels.shape[:2]) * center_crop))
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return Face(_resize(pixels[top : top + side, left : left + side], size, size), header.width, header.height)


def inspect(data: bytes) -> tuple[int, int]:
    """Width and height of the upright image, after decoding all of it. Raises ImageError where that fails."""
    header = _open(data)
    _decode(header, min_side=None)
    return header.width, header.height


def pack(data: bytes, short_side: int) -> bytes:
    """A JPEG whose shorter side is at most ``short_side`` pixels, aspect kept; an upright RGB JPEG that is no larger
    stays as it is, bit for bit. Raises ImageError."""
    header = _open(data)
    is_small = min(header.width, header.height) <= short_side
    if is_small and header.plain_jpeg and header.image.mode == "RGB" and header.orientation == 1:
        _decode(header, min_side=None)
        return data
    pixels = _decode(header, min_side=short_side)
    scale = short_side / min(pixels.shape[:2])
    if scale < 1:
        height, width = (max(short_side, round(side * scale)) for side in pixels.shape[:2])
        pixels = _resize(pixels, height, width)
    return encode_jpeg(pixels)


def encode_jpeg(pixels: Pixels, quality: int = PACK_QUALITY) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorspace="RGB"))


@dataclass(frozen=True)
class _Header:
    image: Image.Image
    width: int  # upright
    height: int
    orientation: int  # EXIF, 1..8
    plain_jpeg: bytes | None  # the file, where it is one for the fast decoder


def _open(data: bytes) -> _Header:
    if not data:
        raise ImageError("unreadable", "the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if (pixels_only := _without_metadata(data)) != data:
            return _open(pixels_only)
        raise _unidentified(data) from None
    except Exception as error:  # the border: plugins raise whatever a broken file makes them raise
        raise ImageError("unreadable", _reason(error)) from error
    is_plain_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L") and _is_lossy_jpeg(data)
    return _describe(image, data if is_plain_jpeg else None)


def _is_lossy_jpeg(data: bytes) -> bool:
    """Whether a JPEG is of the kind that the fast decoder is made for: LOSSY_FRAMES of 8 bits, in 1 or 3 colours.

    Scaling another kind, a lossless one, corrupts its memory and ends the process. Markers are looked for as libjpeg
    does, up to the first frame header, so that both see the same one.
    """
    position = 2
    while True:
        position = data.find(b"\xff", position)
        while 0 <= position < len(data) and data[position] == 0xFF:
            position += 1
        if not 0 <= position < len(data):
            return False
        marker, position = data[position], position + 1
        if marker in FRAMES:
            bits, colours = data[position + 2 : position + 3], data[position + 7 : position + 8]
            return marker in LOSSY_FRAMES and bits == b"\x08" and colours in (b"\x01", b"\x03")
        if marker == 0xDA:  # pixels, and no frame before them
            return False
        if marker not in (0x00, 0x01, *range(0xD0, 0xDA)):  # those have no length
            position += int.from_bytes(data[position : position + 2])


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _without_metadata(data: bytes) -> bytes:
    """A PNG without the chunks that its pixels do not need: one of them that is broken makes no picture unreadable."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    kept, position = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4])
        name = data[position + 4 : position + 8]
        if name[:1].isupper() or name == b"tRNS":
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


def _load(picture: Image.Image | Pixels) -> _Header:
    image = _from_array(picture) if isinstance(picture, np.ndarray) else picture
    with _PILLOW_LOCK:
        header = _describe(image, None)
        try:
            image.load()
        except Exception as error:  # the border
            raise ImageError("unreadable", _reason(error)) from error
    return header


def _from_array(pixels: Pixels) -> Image.Image:
    try:
        return Image.fromarray(pixels)
    except TypeError:
        raise ImageError("unsupported", f"an array of the shape {pixels.shape} is no image") from None


def _describe(image: Image.Image, plain_jpeg: bytes | None) -> _Header:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError("too_large", f"{width}x{height} pixels, more than {MAX_PIXELS // 1_000_000} million")
    if min(width, height) < MIN_SIDE:
        raise ImageError("too_small", f"{width}x{height} pixels, a side under {MIN_SIDE}")
    try:
        if not plain_jpeg:
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # the border
        raise ImageError("unreadable", _reason(error)) from error
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - the border: of pixels that are whole, with a nonsense for their EXIF data
        orientation = 1
    if orientation not in range(1, 9):
        orientation = 1
    if orientation >= 5:
        width, height = height, width
    return _Header(image, width, height, orientation, plain_jpeg)


def _unidentified(data: bytes) -> ImageError:
    try:
        name = Image.open(io.BytesIO(data)).format
    except Exception:  # noqa: BLE001 - the border again
        return ImageError("unreadable", "not an image")
    return ImageError("unsupported", f"{name} images are not taken; {', '.join(FORMATS)} are")


DAMAGE = re.compile("premature end of data segment|bad Huffman code|found marker|before marker 0xd[0-7]")
"""What libjpeg says where pixels are missing or guessed. Its other warnings tell of pictures that may well be whole."""


def _decode(header: _Header, min_side: int | None) -> Pixels:
    """Upright RGB pixels (H, W, 3); a JPEG may come at half, quarter, ... scale with both sides at least min_side."""
    try:
        if header.plain_jpeg:
            try:
                return _upright(_decode_jpeg(header.plain_jpeg, min_side or 0), header.orientation)
            except ValueError as error:  # strict about every irregularity
                if DAMAGE.search(str(error)):
                    raise
        return _to_rgb(header.image, header.orientation)
    except MemoryError:
        raise
    except Exception as error:  # the border: the reason is recorded
        raise ImageError("unreadable", _reason(error)) from error


def _decode_jpeg(data: bytes, min_side: int) -> Pixels:
    """By the fast decoder, also where nothing but the end marker is missing. Raises ValueError."""
    options = {"colorspace": "RGB", "min_height": min_side, "min_width": min_side, "min_factor": 1}
    try:
        return simplejpeg.decode_jpeg(data, **options)
    except ValueError as error:
        if "Premature end of JPEG file" not in str(error):
            raise
    try:
        return simplejpeg.decode_jpeg(data + b"\xff\xd9", **options)
    except ValueError as error:
        raise ValueError(f"image file is truncated ({error})") from error


def _to_rgb(image: Image.Image, orientation: int) -> Pixels:
    if image.mode.startswith("I"):  # 16 bits a pixel, in 16 or 32: keep the high byte, where Pillow would clip
        grey = np.asarray(image).astype(np.int64)
        grey = grey >> 8 if grey.max(initial=0) > 255 else grey
        pixels = np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
        return _upright(pixels, orientation)
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image = image.convert("RGB")  # who wrote it knew of no transparency
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return _upright(np.asarray(image.convert("RGB")), orientation)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undoes the EXIF orientation (1..8)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Bilinear with antialiasing, as Pillow's, on uint8; torch's kernel is about twice as fast."""
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    import torch  # takes a second, and most who import this module decode nothing

    # a copy where the view is read-only or has negative strides, neither of which torch takes
    image_1HWC = torch.from_numpy(np.array(pixels, copy=True, order="C"))[None]
    image_1CHW = image_1HWC.permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(image_1CHW, (height, width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def _reason(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def upright_thumbnail(data: bytes, size: int) -> Image.Image:
    """A small picture for people to look at, whole, not cropped. Raises ImageError."""
    header = _open(data)
    image = Image.fromarray(_decode(header, min_side=size))
    return ImageOps.contain(image, (size, size))
