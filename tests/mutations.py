"""Picture files of every kind, each spoiled a little: the same ones for the same seed.

    python tests/mutations.py 1500 0

decodes so many with the seed 0, in all the ways that jobs do, and prints how many are pictures still.
"""

from __future__ import annotations

import io
import random
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image, features


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def lossless_jpeg(side: int) -> bytes:
    """Grey of 128 in three colours, coded without loss (SOF3): every difference is 0, whose code is a single 0 bit."""
    frame = segment(0xC3, struct.pack(">BHHB", 8, side, side, 3) + bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]))
    table = segment(0xC4, bytes([0, 1, *[0] * 15, 0]))
    scan = segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 1, 0, 0]))
    return b"\xff\xd8" + frame + table + scan + bytes(side * side * 3 // 8 + 1) + b"\xff\xd9"


def originals() -> list[tuple[str, bytes]]:
    """The ending of a name, and the bytes of a whole picture."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 30, 4), np.uint8)
    picture = Image.fromarray(pixels).resize((120, 96))
    frames = [picture.rotate(90 * turn).convert("RGB") for turn in (1, 2)]
    animated = {"save_all": True, "append_images": frames}
    found = [("jpg", lossless_jpeg(96))]

    def add(ending: str, format: str, mode: str, **options: object) -> None:
        buffer = io.BytesIO()
        image = picture.convert("I;16" if mode == "I;16" else mode) if mode != "I;16" else picture.convert("I")
        image.convert(mode).save(buffer, format, **options)
        found.append((ending, buffer.getvalue()))

    for mode in ("RGB", "L", "CMYK"):
        for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}):
            add("jpg", "JPEG", mode, **options)
    add("jpg", "JPEG", "RGB", subsampling=0)
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        add("png", "PNG", mode)
    add("png", "PNG", "RGB", **animated)
    add("webp", "WEBP", "RGB")
    add("webp", "WEBP", "RGB", lossless=True)
    add("webp", "WEBP", "RGBA")
    add("webp", "WEBP", "RGB", **animated)
    for mode in ("RGB", "RGBA", "L", "P", "1"):
        add("bmp", "BMP", mode)
    add("gif", "GIF", "P")
    add("gif", "GIF", "RGB", **animated)
    for compression in (None, "tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        add("tif", "TIFF", "RGB", compression=compression)
    add("tif", "TIFF", "1", compression="group4")
    if features.check("avif"):
        add("avif", "AVIF", "RGB")
    return found


FRAME_MARKERS = [0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF]


def mutated(number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """``number`` files: the ending of a name, and bytes."""
    draw = random.Random(seed)
    pictures = originals()
    for index in range(number):
        ending, data = pictures[index % len(pictures)]
        spoiled = bytearray(data)
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            draw.choice(MUTATIONS)(spoiled, draw)
            spoiled = spoiled or bytearray(b"\xff")
        yield ending, with_checksums(bytes(spoiled)) if draw.random() < 0.7 else bytes(spoiled)


def flip_bytes(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.randrange(1, 20)):
        data[draw.randrange(len(data))] = draw.randrange(256)


def flip_header(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.randrange(1, 5)):
        data[draw.randrange(min(len(data), 700))] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])


def cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def cut_out(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    del data[start : start + draw.randrange(1, 200)]


def blank(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    length = min(len(data) - start, draw.randrange(1, 500))
    data[start : start + length] = bytes([draw.choice([0, 0xFF])]) * length


def swap(data: bytearray, draw: random.Random) -> None:
    first, second, length = draw.randrange(len(data)), draw.randrange(len(data)), draw.randrange(1, 64)
    before, after = data[first : first + length], data[second : second + length]
    data[first : first + length], data[second : second + length] = after, before


def change_coding(data: bytearray, draw: random.Random) -> None:
    """Of a JPEG another kind of coding (lossless, arithmetic), depth or size; of others any byte of the header."""
    frame = next((at for at in range(len(data) - 18) if data[at] == 0xFF and data[at + 1] in FRAME_MARKERS), None)
    if not data.startswith(b"\xff\xd8") or frame is None:
        flip_header(data, draw)
    elif draw.random() < 0.5:
        data[frame + 1] = draw.choice(FRAME_MARKERS)
    else:
        data[frame + draw.randrange(4, 18)] = draw.choice([0, 1, 2, 4, 12, 16, draw.randrange(256)])


MUTATIONS = (flip_bytes, flip_header, cut, cut_out, blank, swap, change_coding, change_coding)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose checksums are right again, so that decoders get to what is wrong."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        out += [data[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join(out)


def main(number: int, seed: int) -> None:
    from agescale.faces import images

    counts: Counter[str] = Counter()
    for index, (_, data) in enumerate(mutated(number, seed)):
        print(f"file {index}", file=sys.stderr, flush=True)  # the last line tells which one ended the process
        for decode, pixels in ((images.load_face, (16, 32, 112)[index % 3]), (images.pack, 64)):
            try:
                decode(data, pixels)
            except images.ImageError as error:
                counts[error.status] += 1
            else:
                counts["ok"] += 1
    print(dict(counts))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
