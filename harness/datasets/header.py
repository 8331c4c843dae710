"""What an image file is, from its first bytes and never from its name: format, size, channels, pages, orientation.

Nothing is decoded, so that a file that declares a size beyond all memory costs nothing.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

Bytes = bytes | memoryview
UPRIGHT = 1
"""The EXIF orientation that changes nothing."""
_ORIENTATION, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _CHANNELS, _FORMAT = (
    *(0x112, 256, 257, 258, 259, 262, 277, 339),
)
_LOSSY = (6, 7, 34712, 50001, 50002)  # JPEG, JPEG 2000 and WebP inside a TIFF


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        kind: PNG, JPEG, BMP, TIFF or WebP.
        height, width: of the stored pixels.
        channels: of a pixel; a palette's index is one.
        bits: of the deepest channel.
        number: "unsigned", "signed" or "float".
        palette: whether a pixel is an index of a table of colours.
        inverted: whether 0 is white.
        lossy: whether decoding gives other values than were encoded.
        pages: 1, or 2 for several.
        transparent: whether pixels of some colours are transparent, without a channel for it.
        lab: whether the channels are CIELab.
        orientation: of EXIF, 1 to 8; how the stored pixels lie.
    """

    kind: str
    height: int
    width: int
    channels: int
    bits: int
    number: str = "unsigned"
    palette: bool = False
    inverted: bool = False
    lossy: bool = False
    pages: int = 1
    transparent: bool = False
    lab: bool = False
    orientation: int = UPRIGHT


def header(data: Bytes) -> Header:
    """What the file says of itself.

    Raises:
        ValueError: none of these formats, or cut short within what says so.
    """
    data = memoryview(data).cast("B")  # Arrow's are of signed bytes
    start = bytes(data[:12])
    for magic, kind, read in (
        (b"\x89PNG\r\n\x1a\n", "PNG", _png),
        (b"\xff\xd8\xff", "JPEG", _jpeg),
        (b"BM", "BMP", _bmp),
        (b"II*\0", "TIFF", _tiff),
        (b"MM\0*", "TIFF", _tiff),
        (b"RIFF", "WebP", _webp),
    ):
        if start.startswith(magic) and (kind != "WebP" or start[8:] == b"WEBP"):
            try:
                found = read(data)
            except (struct.error, IndexError, KeyError):
                raise ValueError(f"a {kind} that is cut short, or damaged at its beginning") from None
            if min(found.height, found.width, found.channels, found.bits) < 1:
                raise ValueError(f"a {kind} that declares no pixels")
            return found
    if not start:
        raise ValueError("the file is empty")
    if bytes(data[:40]).startswith(b"version https://git-lfs"):
        raise ValueError("a pointer of git-lfs instead of the file: git lfs pull")
    raise ValueError("its bytes are no PNG, JPEG, BMP, TIFF or WebP")


def _png(data: Bytes) -> Header:
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    orientation, pages, transparent = UPRIGHT, 1, False
    for kind, at, size in _chunks(data, 8, ">I4s", 4):
        if kind == b"eXIf":
            orientation = _orientation(data[at : at + size])
        pages = 2 if kind == b"acTL" else pages
        transparent |= kind == b"tRNS"
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    return Header(
        "PNG",
        height,
        width,
        channels,
        bits,
        palette=colour == 3,
        pages=pages,
        transparent=transparent,
        orientation=orientation,
    )


def _webp(data: Bytes) -> Header:
    width = height = 0
    channels, pages, orientation, lossy = 3, 1, UPRIGHT, False
    for kind, at, size in _chunks(data, 12, "<4sI", 0):
        part = bytes(data[at : at + min(size, 16)])
        if kind == b"VP8X":
            channels, pages = 4 if part[0] & 0x10 else channels, 2 if part[0] & 0x02 else 1
            width, height = (1 + int.from_bytes(part[i : i + 3], "little") for i in (4, 7))
        elif kind == b"VP8L":
            word = int.from_bytes(part[1:5], "little")
            width, height = width or 1 + (word & 0x3FFF), height or 1 + (word >> 14 & 0x3FFF)
            channels = 4 if word >> 28 & 1 else channels
        elif kind == b"VP8 ":
            lossy = True
            sides = struct.unpack_from("<HH", part, 6)
            width, height = width or sides[0] & 0x3FFF, height or sides[1] & 0x3FFF
        elif kind == b"EXIF":
            orientation = _orientation(data[at : at + size])
    return Header("WebP", height, width, channels, 8, lossy=lossy, pages=pages, orientation=orientation)


def _chunks(data: Bytes, at: int, form: str, after: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place and size of each chunk of a PNG or WebP; `after` bytes of checksum follow its content."""
    while at + 8 <= len(data):
        first, second = struct.unpack_from(form, data, at)
        kind, size = (second, first) if after else (first, second)
        yield kind, at + 8, size
        at += 8 + size + (after or size % 2)


def _jpeg(data: Bytes) -> Header:
    at, orientation = 2, UPRIGHT
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # filling
            at += 1
        if data[at] != 0xFF:
            raise IndexError
        marker, (size,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        if marker == 0xE1 and bytes(data[at + 4 : at + 10]) == b"Exif\0\0":
            orientation = _orientation(data[at + 10 : at + 2 + size])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return Header("JPEG", height, width, channels, bits, lossy=True, orientation=orientation)
        at += 2 + size


def _bmp(data: Bytes) -> Header:
    size, width, height, _, bits, compression = struct.unpack_from("<IiiHHI", data, 14)
    if size == 12:
        raise KeyError(size)  # of OS/2, with other fields
    alpha = size >= 56 and compression == 3 and struct.unpack_from("<I", data, 66)[0] != 0
    channels = 4 if alpha else 1 if bits <= 8 else 3
    return Header("BMP", abs(height), width, channels, 8, palette=bits <= 8)


def _tiff(data: Bytes) -> Header:
    tags, following = _tags(data)
    kinds = {1: "unsigned", 2: "signed", 3: "float", 4: "unsigned"}
    photometric = tags.get(_PHOTOMETRIC, (1,))[0]
    return Header(
        "TIFF",
        tags[_HEIGHT][0],
        tags[_WIDTH][0],
        tags.get(_CHANNELS, (1,))[0],
        max(tags.get(_BITS, (1,))),
        number=kinds.get(tags.get(_FORMAT, (1,))[0], "float"),
        palette=photometric == 3,
        inverted=photometric == 0,
        lossy=tags.get(_COMPRESSION, (1,))[0] in _LOSSY,
        pages=2 if following else 1,
        lab=photometric in (8, 9, 10),
        orientation=_upright(tags),
    )


def _orientation(exif: Bytes) -> int:
    """The orientation in an EXIF block, which is a TIFF without pixels; a damaged block says nothing."""
    block = exif[6:] if bytes(exif[:6]) == b"Exif\0\0" else exif
    try:
        return _upright(_tags(block)[0])
    except (struct.error, IndexError, KeyError):
        return UPRIGHT


def _upright(tags: dict[int, tuple[int, ...]]) -> int:
    value = tags.get(_ORIENTATION, (UPRIGHT,))[0]
    return value if 1 <= value <= 8 else UPRIGHT


def _tags(data: Bytes) -> tuple[dict[int, tuple[int, ...]], int]:
    """The numbers of a TIFF's first directory by tag, and where the next directory is (0: nowhere)."""
    order = {b"II": "<", b"MM": ">"}[bytes(data[:2])]
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    found: dict[int, tuple[int, ...]] = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, items = struct.unpack_from(f"{order}HHI", data, entry)
        form, size = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4)}.get(kind, ("", 0))
        if form and 0 < items <= 64:
            (place,) = (entry + 8,) if items * size <= 4 else struct.unpack_from(f"{order}I", data, entry + 8)
            found[tag] = struct.unpack_from(f"{order}{items}{form}", data, place)
    (following,) = struct.unpack_from(f"{order}I", data, at + 2 + 12 * count)
    return found, following
