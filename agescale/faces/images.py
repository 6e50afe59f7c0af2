"""Bytes of an image file in; uint8 RGB pixels out, or the reason why not. The one preprocessing path of every job.

Training, scoring and single photos all call ``load_face``, which takes pictures that are decoded already, too;
normalisation is not here but inside the model. Reads no files: bytes come from ``store``.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from agescale.faces import perceptual
from agescale.faces.geometry import Box, FoundFace

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".png", ".apng", ".bmp", ".dib", ".webp", ".gif"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif", ".hif"),
)
"""Names that end so (in any case) are images; everything else in a folder is ignored and counted."""
OTHER_EXTENSIONS = (
    *(".jxl", ".jp2", ".j2k", ".psd", ".tga", ".ppm", ".pgm", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw"),
    *(".raf", ".orf", ".rw2"),
)
"""Names of pictures of formats that are not taken."""

Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS takes its place: Pillow's limit speaks through warnings, which threads lose
Image.init()  # loads the format plugins once, before threads race for them
with contextlib.suppress(ImportError):  # the extra "heif"
    import pillow_heif

    pillow_heif.register_heif_opener()
warnings.filterwarnings("ignore", module=r"PIL\.")  # of metadata that are nonsense; what matters is raised

FORMATS = tuple(
    name for name in ("JPEG", "PNG", "BMP", "DIB", "WEBP", "GIF", "TIFF", "AVIF", "HEIF") if name in Image.OPEN
)

MIN_SIDE = 8
"""Pixels; an image with a shorter side is `tiny` (catalog) and `too_small` (predictions)."""
MAX_PIXELS = 100_000_000
"""An image that claims more is `too_large`: four bytes a pixel of it would have to be held at once."""
MAX_SCANNED_PIXELS = 50 * MAX_PIXELS
"""Pixels times scans of a progressive JPEG, each of which goes over all pixels: a small file could take hours."""
MAX_JPEG_SIDE = 65_500
"""Pixels; no JPEG may be larger."""
PIXEL_BYTES = 8
"""What a pixel takes while it is decoded: 4 in Pillow, 3 in the array, and some for the part that is converted."""
STRIP_PIXELS = 2**20
"""So many are converted at once."""

PHOTO_SIDE = 640
"""Pixels that the shorter side of a photo keeps at least, where it has so many, for the faces in it."""
PACK_QUALITY = 95

FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG's frame header, by the kind of its coding."""
LOSSY_FRAMES = (0xC0, 0xC1, 0xC2)
"""Of these baseline, extended sequential and progressive DCT, Huffman coded."""

_PILLOW_LOCK = threading.Lock()
"""Pillow decodes an image when it is first asked for pixels, and the same one may be given to several threads."""

Pixels = npt.NDArray[np.uint8]


class Budget:
    """Bytes that all threads of a process may hold at once while they decode; first come, first served."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._free = num_bytes
        self._turn = threading.Lock()  # held by the one that waits, so that small ones do not pass it for ever
        self._returned = threading.Condition()

    @contextlib.contextmanager
    def take(self, num_bytes: int) -> Iterator[None]:
        """Waits until there are so many; who wants more than there are gets all of them."""
        num_bytes = min(num_bytes, self.num_bytes)
        with self._turn, self._returned:
            self._returned.wait_for(lambda: self._free >= num_bytes)
            self._free -= num_bytes
        try:
            yield
        finally:
            with self._returned:
                self._free += num_bytes
                self._returned.notify_all()


BUDGET = Budget(PIXEL_BYTES * MAX_PIXELS)
"""Room for one of the largest pictures, or for many small ones."""


class ImageError(ValueError):
    """Why there are no pixels of a face. ``status`` is one of schema.STATUSES: unreadable, unsupported, too_small,
    too_large, no_face."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageError, (self.status, str(self))


@dataclass(frozen=True)
class Face:
    """Pixels ``(size, size, 3)`` uint8 RGB, and the width and height of the upright image that they came from."""

    pixels: Pixels
    width: int
    height: int
    place: Place | None = None  # in that image; None: it is its central square


@dataclass(frozen=True)
class TinyFace:
    """A face with too few pixels to be judged, in an image of that width and height."""

    width: int
    height: int
    place: Place


@dataclass(frozen=True)
class Place:
    """Where one of the faces of an image lies, in pixels of the upright image, and how sure its detector is (0..1)."""

    number: int  # from 0 on
    num_faces: int
    x: float
    y: float
    width: float
    height: float
    score: float

    def share_of(self, width: int, height: int) -> Box:
        """x1, y1, x2, y2 as shares of the width and height of the image."""
        x2, y2 = self.x + self.width, self.y + self.height
        return self.x / width, self.y / height, x2 / width, y2 / height


@dataclass(frozen=True)
class Photo:
    """Upright pixels ``(h, w, 3)`` uint8 RGB of a whole image, maybe fewer than the width and height that it has."""

    pixels: Pixels
    width: int
    height: int
    faces: tuple[FoundFace, ...] | None = None  # in these pixels; None: nobody has looked for them


def is_image_name(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


Picture = bytes | Image.Image | Pixels
"""An image file, an image of Pillow's, or pixels: (H, W) grey, (H, W, 3) RGB, (H, W, 4) with alpha."""


def load_face(picture: Picture, size: int, center_crop: float = 1.0) -> Face:
    """Decodes, keeps the central square of ``center_crop`` times the shorter side, and scales it to ``size`` pixels.

    Raises ImageError. First frames of GIFs, EXIF orientation, grey, palette, alpha (over white), CMYK and 16-bit images
    all come out as upright RGB.
    """
    # the scaled JPEG decoder may stop at the least size that still has `size` pixels in the crop
    with _decoded(picture, min_side=int(np.ceil(size / center_crop))) as upright:
        square = central_square(upright.pixels, center_crop)
        return Face(resize(square, size, size), upright.width, upright.height)


def load_square(picture: Picture, size: int, center_crop: float = 1.0) -> Face:
    """As ``load_face``, of as many pixels a side as come, at least ``size`` where there are so many: ``scaled`` is left
    to be done. Does not load torch."""
    with _decoded(picture, min_side=int(np.ceil(size / center_crop))) as upright:
        square = central_square(upright.pixels, center_crop)
        return Face(np.ascontiguousarray(square), upright.width, upright.height)


def scaled(face: Face, size: int) -> Face:
    return Face(resize(face.pixels, size, size), face.width, face.height)


def load_photo(picture: Picture) -> Photo:
    """The whole picture, in which faces are to be looked for; of a large one as many pixels as they need. Raises
    ImageError. Does not load torch."""
    with _decoded(picture, min_side=PHOTO_SIDE) as upright:
        pixels = np.ascontiguousarray(upright.pixels)
        step = min(pixels.shape[:2]) // PHOTO_SIDE
        if step > 1:  # of a decoder that does not scale
            pixels = np.asarray(Image.fromarray(pixels).reduce(step))
        return Photo(pixels, upright.width, upright.height)


def central_square(pixels: Pixels, center_crop: float = 1.0) -> Pixels:
    """A view of the square that a model is shown, of ``center_crop`` times the shorter side."""
    side = max(1, round(min(pixels.shape[:2]) * center_crop))
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


class Inspected(NamedTuple):
    """What is told of an image by all of its pixels: width and height when upright, and how it looks."""

    width: int
    height: int
    perceptual_hash: str | None  # see ``perceptual``


def inspect(data: bytes) -> Inspected:
    """What all of an image's pixels tell, which are decoded for it. Raises ImageError where that fails."""
    with _decoded(data, min_side=None) as upright:
        return Inspected(upright.width, upright.height, perceptual.hash_of(upright.pixels))


def pack(data: bytes, short_side: int) -> bytes:
    """A JPEG whose shorter side is at most ``short_side`` pixels, aspect kept; an upright RGB JPEG that is no larger
    stays as it is, bit for bit. Raises ImageError, also where the longer side is more than a JPEG may have."""
    header = _open(data)
    is_small = min(header.image.size) <= short_side
    if is_small and header.plain_jpeg and header.image.mode == "RGB" and _orientation(header.image) == 1:
        inspect(data)
        return data
    with _decoded(data, min_side=short_side) as upright:
        pixels = upright.pixels
        scale = min(1, short_side / min(pixels.shape[:2]))
        height, width = (max(min(short_side, side), round(side * scale)) for side in pixels.shape[:2])
        if max(height, width) > MAX_JPEG_SIDE:
            raise ImageError("too_large", f"packed it would have {width}x{height} pixels, and no JPEG may")
        return encode_jpeg(resize(pixels, height, width))


def encode_jpeg(pixels: Pixels, quality: int = PACK_QUALITY) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorspace="RGB"))


def to_data_uri(pixels: Pixels, quality: int = PACK_QUALITY) -> str:
    """A picture as a JPEG that stands within a page."""
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(pixels, quality)).decode()}"


@dataclass(frozen=True)
class _Header:
    """An image whose pixels are still to be decoded, of a size that is taken."""

    image: Image.Image
    plain_jpeg: bytes | None = None  # the file, where it is one for the fast decoder


@dataclass(frozen=True)
class _Upright:
    """Pixels (H, W, 3) RGB, maybe at a reduced scale, and the width and height of the whole upright image."""

    pixels: Pixels
    width: int
    height: int


GZIP_SIGNATURE = b"\x1f\x8b"
BLANKS = b"\xef\xbb\xbf \t\r\n"
"""What careless scripts write before a file: the mark of UTF-8, and blanks."""


def _open(data: bytes) -> _Header:
    if not data:
        raise ImageError("unreadable", "the file is empty")
    try:
        image = Image.open(io.BytesIO(_without_texts(data)), formats=FORMATS)
    except UnidentifiedImageError:
        for other in (data.lstrip(BLANKS), _without_metadata(data)):
            if other and other != data:
                return _open(other)
        raise _unidentified(data) from None
    except MemoryError:
        raise
    except Exception as error:  # the border: plugins raise whatever a broken file makes them raise
        raise ImageError("unreadable", _reason(error)) from error
    _check_size(image)
    is_plain_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L") and _is_lossy_jpeg(data)
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        _check_scans(image, data)
    return _Header(image, data if is_plain_jpeg else None)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError("too_large", f"{width}x{height} pixels, more than {MAX_PIXELS // 1_000_000} million")
    if min(width, height) < MIN_SIDE:
        raise ImageError("too_small", f"{width}x{height} pixels, a side under {MIN_SIDE}")


def _check_scans(image: Image.Image, data: bytes) -> None:
    width, height = image.size
    num_scans = data.count(b"\xff\xda")
    if width * height * num_scans > MAX_SCANNED_PIXELS:
        raise ImageError("too_large", f"{width}x{height} pixels, coded in {num_scans:,} scans")


def _is_lossy_jpeg(data: bytes) -> bool:
    """Whether a JPEG is of the kind that the fast decoder is made for: LOSSY_FRAMES of 8 bits, in 1 or 3 colours.

    Scaling another kind, a lossless one, corrupts its memory and ends the process.
    """
    at = _find_frame(data)
    if at + 9 > len(data):
        return False
    return data[at] in LOSSY_FRAMES and data[at + 3] == 8 and data[at + 8] in (1, 3)


def _find_frame(data: bytes) -> int:
    """Where the marker of a JPEG's first frame header stands (one of FRAMES); behind all where there is none.

    Markers are looked for as libjpeg does, so that both see the same one.
    """
    position = 2
    while True:
        position = data.find(b"\xff", position)
        while 0 <= position < len(data) and data[position] == 0xFF:
            position += 1
        if not 0 <= position < len(data):
            return len(data)
        marker, position = data[position], position + 1
        if marker in FRAMES:
            return position - 1
        if marker == 0xDA:  # pixels, and no frame before them
            return len(data)
        if marker not in (0x00, 0x01, *range(0xD0, 0xDA)):  # those have no length
            position += int.from_bytes(data[position : position + 2])


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


TEXTS = (b"tEXt", b"zTXt", b"iTXt")


def _without_texts(data: bytes) -> bytes:
    """A PNG without texts, of which Pillow takes some only; one of them may be EXIF data."""
    return _select_chunks(data, lambda name, body: name not in TEXTS or body.startswith(b"Raw profile type exif"))


def _without_metadata(data: bytes) -> bytes:
    """A PNG without the chunks that its pixels do not need: one of them that is broken makes no picture unreadable."""
    return _select_chunks(data, lambda name, _: name[:1].isupper() or name == b"tRNS")


def _select_chunks(data: bytes, is_kept: Callable[[bytes, bytes], bool]) -> bytes:
    """A PNG with some of its chunks, by their names and first bytes; what is no PNG stays as it is."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    kept, position = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4])
        if is_kept(data[position + 4 : position + 8], data[position + 8 : position + 32]):
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


def _from_array(pixels: Pixels) -> Image.Image:
    try:
        return Image.fromarray(pixels)
    except TypeError:
        raise ImageError("unsupported", f"an array of the shape {pixels.shape} is no image") from None


def _unidentified(data: bytes) -> ImageError:
    name = _format_of(data)
    if name is None and data.startswith(GZIP_SIGNATURE):
        return ImageError("unreadable", "compressed by gzip, perhaps by its Content-Encoding: store it uncompressed")
    if name is None:
        return ImageError("unreadable", "not an image")
    if {"HEIC": "HEIF"}.get(name, name) in FORMATS:
        return ImageError("unreadable", f"{name}, but it cannot be decoded")
    hint = " without the extra heif (pip install 'agescale[heif]')" if name == "HEIC" else ""
    return ImageError("unsupported", f"{name} images are not taken{hint}; {', '.join(FORMATS)} are")


SIGNATURES = {
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "SVG": (b"<svg", b"<?xml"),
}
"""How files begin that Pillow may not know."""
BRANDS = {"AVIF": (b"avif", b"avis"), "HEIC": (b"hei", b"hev", b"mif1", b"msf1"), "CR3": (b"crx ",)}
"""Kinds of files of the ISO media format, the first that is found."""


def _format_of(data: bytes) -> str | None:
    """The format of a picture that is not taken, by its content."""
    if data[4:8] == b"ftyp":
        brands = data[8 : max(16, int.from_bytes(data[:4]))][:256]
        return next((name for name, known in BRANDS.items() if any(brand in brands for brand in known)), None)
    for name, beginnings in SIGNATURES.items():
        if data.startswith(beginnings) and (name != "SVG" or b"<svg" in data[:1000]):
            return name
    try:
        return Image.open(io.BytesIO(data)).format
    except Exception:  # noqa: BLE001 - the border again
        return None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where nothing or nonsense is told, and whatever XMP says beside the EXIF data."""
    data = image.info.get("exif")
    try:
        if data is None and (text := image.info.get("Raw profile type exif")):  # of a PNG, as ImageMagick writes it
            data = bytes.fromhex("".join(text.split("\n")[3:]))
        exif = Image.Exif()
        exif.load(data or b"")
        orientation = exif.get(0x0112, 1)
    except Exception:  # noqa: BLE001 - the border: of pixels that are whole, with a nonsense for their EXIF data
        return 1
    return orientation if orientation in range(1, 9) else 1


DAMAGE = re.compile("premature end of data segment|bad Huffman code|found marker|before marker 0xd[0-7]|scans missing")
"""What libjpeg says where pixels are missing or guessed. Its other warnings tell of pictures that may well be whole."""
REST = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
"""And where it did not need all of them: after a wrong bit the rest is read as something else."""
MAX_REST_BYTES = 8


@contextlib.contextmanager
def _decoded(picture: Picture, min_side: int | None) -> Iterator[_Upright]:
    """Upright RGB pixels, within the budget; a JPEG may come at half, quarter, ... scale, no side under min_side."""
    header = _open(picture) if isinstance(picture, bytes) else _Header(_as_image(picture))
    image, pixels = header.image, None
    if header.plain_jpeg:
        with BUDGET.take(_jpeg_bytes(image, min_side)):
            with _explained():
                pixels = _decode_fast(header.plain_jpeg, min_side or 0)
            if pixels is not None:
                yield _describe(pixels, image)
    if pixels is None:
        with BUDGET.take(PIXEL_BYTES * image.width * image.height):
            with _explained():
                with contextlib.nullcontext() if isinstance(picture, bytes) else _PILLOW_LOCK:
                    image.load()
                pixels = _to_rgb(image)
            yield _describe(pixels, image)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turns what decoders raise into an ImageError, but for want of memory, which is nobody's picture's fault."""
    try:
        yield
    except (MemoryError, ImageError):
        raise
    except Exception as error:  # the border: the reason is recorded
        raise ImageError("unreadable", _reason(error)) from error


def _describe(pixels: Pixels, image: Image.Image) -> _Upright:
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation >= 5 else image.size
    return _Upright(_upright(pixels, orientation), width, height)


def _as_image(picture: Image.Image | Pixels) -> Image.Image:
    image = _from_array(picture) if isinstance(picture, np.ndarray) else picture
    _check_size(image)
    return image


def _jpeg_bytes(image: Image.Image, min_side: int | None) -> int:
    """What the fast decoder will hold: the scaled pixels, and of a progressive JPEG the coefficients of all of them."""
    scale = min(8, max(1, min(image.size) // min_side)) if min_side else 1
    num_pixels = image.width * image.height
    return 3 * num_pixels // scale**2 + (6 * num_pixels if image.info.get("progressive") else 0)


def _decode_fast(data: bytes, min_side: int) -> Pixels | None:
    """None where the file is irregular, and yet maybe a picture. Raises ValueError where it is damaged."""
    try:
        return _decode_jpeg(data, min_side)
    except ValueError as error:  # strict about every irregularity
        if DAMAGE.search(str(error)) or _has_rest(data, str(error)):
            raise
        return None


def _has_rest(data: bytes, error: str) -> bool:
    """Whether libjpeg found more than some bytes, and no mere padding, between the last pixel and the end marker."""
    rest = REST.search(error)
    if not rest or int(rest[1]) <= MAX_REST_BYTES:
        return False
    return not any(padding * MAX_REST_BYTES + b"\xff\xd9" in data for padding in (b"\0", b"\xff"))


def _decode_jpeg(data: bytes, min_side: int) -> Pixels:
    """By the fast decoder, also where nothing but the end marker is missing. Raises ValueError."""
    options = {"colorspace": "RGB", "min_height": min_side, "min_width": min_side, "min_factor": 1}
    try:
        return simplejpeg.decode_jpeg(data, **options)
    except ValueError as error:
        if "Premature end of JPEG file" not in str(error):
            raise
    if not _has_all_scans(data):
        raise ValueError("image file is truncated (scans missing)")
    try:
        return simplejpeg.decode_jpeg(data + b"\xff\xd9", **options)
    except ValueError as error:
        raise ValueError(f"image file is truncated ({error})") from error


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans of a progressive JPEG tell all bits of all coefficients; others are not asked."""
    frame = _find_frame(data)
    if data[frame] != 0xC2:
        return True
    components = [data[frame + 9 + 3 * index] for index in range(data[frame + 8])]
    missing = {(component, index) for component in components for index in range(64)}
    scan = frame
    while (scan := data.find(b"\xff\xda", scan + 2)) >= 0:
        header = data[scan + 5 :][: 2 * data[scan + 4] + 3] if scan + 4 < len(data) else b""
        told, (first, last, bits) = header[:-3:2], header[-3:] if len(header) > 3 else (0, 0, 1)
        if bits & 15 == 0:
            missing -= {(component, index) for component in told for index in range(first, last + 1)}
    return not missing


def _to_rgb(image: Image.Image) -> Pixels:
    """A strip after the other: alpha and 16 bits take several times the memory of what comes out."""
    convert: Callable[[Image.Image], Pixels] = _colours
    if image.mode.startswith("I"):
        shift = 8 if np.asarray(image).max(initial=0) > 255 else 0
        convert = lambda strip: _high_byte(strip, shift)  # noqa: E731
    elif image.mode in ("F", "LAB", "HSV"):
        raise ImageError("unsupported", f"pixel mode {image.mode} is not supported")
    elif image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        convert = lambda strip: np.asarray(strip.convert("RGB"))  # noqa: E731  (who wrote it knew of no transparency)
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        convert = _over_white
    num_rows = max(1, STRIP_PIXELS // image.width)
    if num_rows >= image.height:
        return convert(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, num_rows):
        bottom = min(image.height, top + num_rows)
        pixels[top:bottom] = convert(image.crop((0, top, image.width, bottom)))
    return pixels


def _colours(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def _high_byte(image: Image.Image, shift: int) -> Pixels:
    """Of 16 bits a pixel, in 16 or 32, where Pillow would clip."""
    grey = (np.asarray(image).astype(np.int64) >> shift).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _over_white(image: Image.Image) -> Pixels:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return _colours(Image.alpha_composite(white, rgba))


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undoes the EXIF orientation (1..8)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
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
    with _decoded(data, min_side=size) as upright:
        return ImageOps.contain(Image.fromarray(upright.pixels), (size, size))
