"""Kinds of picture and film files: told by the name where that suffices, else by the first bytes of the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

from utils.reading import open_regular

Role = Literal["picture", "film", "foreign"]

_HEAD = 512  # bytes that tell every kind below


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        name: as messages call it.
        role: "picture": can be read here; "film": through ffmpeg; "foreign": a picture that cannot be read here.
        suffixes: of names, in lower case.
    """

    name: str
    role: Role
    suffixes: tuple[str, ...]


_KINDS = (
    Kind("PNG", "picture", (".png", ".apng")),
    Kind("JPEG", "picture", (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo")),
    Kind("BMP", "picture", (".bmp", ".dib")),
    Kind("TIFF", "picture", (".tif", ".tiff", ".btf")),
    Kind("WebP", "picture", (".webp",)),
    Kind("PNM", "picture", (".ppm", ".pgm", ".pbm", ".pnm", ".pam")),
    Kind("JPEG 2000", "picture", (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx")),
    Kind("AVIF", "picture", (".avif", ".avifs")),
    Kind("GIF", "picture", (".gif",)),
    Kind("Sun raster", "picture", (".ras", ".sr")),
    Kind("TGA", "picture", (".tga",)),
    Kind("QOI", "picture", (".qoi",)),
    Kind("PCX", "picture", (".pcx",)),
    Kind("SGI", "picture", (".sgi",)),
    Kind("HEIC", "foreign", (".heic", ".heif", ".hif")),
    Kind("JPEG XL", "foreign", (".jxl",)),
    Kind("JPEG XR", "foreign", (".jxr", ".wdp", ".hdp")),
    # Their TIFF structure shows a small preview to those who do not know better.
    Kind(
        "camera RAW", "foreign",
        (".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw",
         ".x3f", ".3fr", ".fff", ".iiq", ".mrw", ".rwl", ".kdc", ".dcr", ".erf", ".mef", ".mos", ".raw"),
    ),
    Kind("Photoshop", "foreign", (".psd", ".psb")),
    Kind("GIMP", "foreign", (".xcf",)),
    Kind("Krita", "foreign", (".kra",)),
    Kind("SVG", "foreign", (".svg", ".svgz")),
    Kind("EPS", "foreign", (".eps",)),
    Kind("Windows metafile", "foreign", (".wmf", ".emf")),
    Kind("OpenEXR", "foreign", (".exr",)),
    Kind("Radiance HDR", "foreign", (".hdr", ".rgbe")),
    Kind("PFM", "foreign", (".pfm",)),
    Kind("DDS", "foreign", (".dds",)),
    Kind("icon", "foreign", (".ico", ".cur", ".icns")),
    Kind("MP4", "film", (".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2")),
    Kind("Matroska", "film", (".mkv", ".webm", ".mk3d")),
    Kind("AVI", "film", (".avi", ".divx")),
    Kind("MPEG", "film", (".mpg", ".mpeg", ".m2v", ".vob", ".mts", ".m2ts")),  # .ts is TypeScript too
    Kind("Windows Media", "film", (".wmv", ".asf")),
    Kind("Flash video", "film", (".flv", ".f4v")),
    Kind("Ogg video", "film", (".ogv",)),
    Kind("MXF", "film", (".mxf",)),
    Kind("YUV4MPEG", "film", (".y4m",)),
    Kind("RealMedia", "film", (".rm", ".rmvb")),
    Kind("DV", "film", (".dv",)),
)  # fmt: skip
_BY_NAME = {kind.name: kind for kind in _KINDS}
_BY_SUFFIX = {suffix: kind for kind in _KINDS for suffix in kind.suffixes}
PICTURE_SUFFIXES = tuple(suffix for suffix, kind in _BY_SUFFIX.items() if kind.role == "picture")
"""Endings of the names of pictures that can be read."""
PICTURE_KINDS = ", ".join(kind.name for kind in _KINDS if kind.role == "picture")
"""What pictures that can be read are called."""

# Never opened to see what they are: there may be one for every image.
_OTHERS = """
    .txt .json .jsonl .xml .csv .tsv .md .rst .yml .yaml .toml .ini .cfg .log .html .htm .css .js .py .ipynb .sh .m .npy
    .npz .mat .h5 .hdf5 .pkl .pt .pth .ckpt .safetensors .onnx .bin .db .mdb .lock .part .tmp .zip .tar .gz .tgz .xz
    .bz2 .zst .7z .rar .pdf .doc .docx .xls .xlsx .ppt .pptx .srt .ass .ssa .vtt .sub .idx .mp3 .m4a .mka .wav .flac
    .aac .ogg .opus .wma .xmp .aae .icc .md5 .sha256 .url .lnk .exe .dll .so
"""
_OTHER_SUFFIXES = frozenset(_OTHERS.split())

# Beginnings of files. The weak ones (two letters, text) are followed by what else must be there.
_MAGIC = tuple(
    (re.compile(pattern, re.DOTALL), _BY_NAME[name])
    for pattern, name in (
        (rb"\x89PNG\r\n\x1a\n", "PNG"),
        (rb"\xff\xd8\xff", "JPEG"),
        (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),
        (rb"II\*\0....CR", "camera RAW"),
        (rb"II\*\0|MM\0\*|II\+\0\x08\0|MM\0\+\0\x08", "TIFF"),
        (rb"RIFF....WEBP", "WebP"),
        (rb"P[14]\s+(#[^\n]*\n\s*)*\d+\s+(#[^\n]*\n\s*)*\d+\s", "PNM"),
        (rb"P[2356]\s+((#[^\n]*\n\s*)*\d+\s+){2}(#[^\n]*\n\s*)*\d+\s|P7\n(#[^\n]*\n)*(WIDTH|HEIGHT|DEPTH) ", "PNM"),
        (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51\0", "JPEG 2000"),
        (rb"GIF8[79]a", "GIF"),
        (rb"\x59\xa6\x6a\x95", "Sun raster"),
        (rb"qoif.{8}[\x03\x04][\0\x01]", "QOI"),
        (rb"....ftyp(avif|avis)", "AVIF"),
        (rb"....ftyp(hei[a-z]|hev[a-z]|mif1|msf1)", "HEIC"),
        (rb"....ftypcrx |FUJIFILMCCD-RAW|II(RO|RS|U\0)|MMOR|FOVb", "camera RAW"),
        (rb"\xff\x0a[^\0]|\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (rb"II\xbc\x01", "JPEG XR"),
        (rb"8BPS\0[\x01\x02]", "Photoshop"),
        (rb"gimp xcf", "GIMP"),
        (rb"(\xef\xbb\xbf)?\s*(<\?xml.*?\?>\s*)?(<!--.*?-->\s*|<!DOCTYPE svg.*?>\s*)*<svg[\s>]", "SVG"),
        (rb"%!PS-Adobe-\S+ EPSF", "EPS"),
        (rb"\x76\x2f\x31\x01", "OpenEXR"),
        (rb"#\?(RADIANCE|RGBE)\n", "Radiance HDR"),
        (rb"P[Ff]\s+\d+\s+\d+\s+-?[\d.]+\s", "PFM"),
        (rb"DDS \x7c\0\0\0", "DDS"),
        (rb"....ftyp(?!M4A |M4B )|....(moov|mdat|wide)", "MP4"),
        (rb"\x1a\x45\xdf\xa3", "Matroska"),
        (rb"RIFF....AVI ", "AVI"),
        (rb"\x00\x00\x01[\xba\xb3]|\x47.{187}\x47.{187}\x47|.{4}\x47.{191}\x47.{191}\x47", "MPEG"),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media"),
        (rb"FLV\x01", "Flash video"),
        (rb"OggS.*\x80theora", "Ogg video"),
        (rb"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02", "MXF"),
        (rb"YUV4MPEG2 ", "YUV4MPEG"),
        (rb"\.RMF", "RealMedia"),
    )
)


def kind_of(path: Path) -> Kind | None:
    """What kind of picture or film a file is; None: neither.

    The usual endings are believed, and only files with other ones (or none) are opened, for their first bytes. Endings
    of pictures that cannot be read are not believed where the content is another kind, such as a JPEG named ``.heic``.

    Raises:
        OSError: the file cannot be opened.
    """
    suffix = path.suffix.lower()
    named = _BY_SUFFIX.get(suffix)
    if (named is not None and named.role != "foreign") or suffix in _OTHER_SUFFIXES:
        return named
    with open_regular(path) as file:
        return kind_of_bytes(file.read(_HEAD), path.name) or named


def kind_of_name(name: str) -> Kind | None:
    """What the ending of a name says."""
    return _BY_SUFFIX.get(Path(name).suffix.lower())


def kind_of_bytes(head: bytes, name: str) -> Kind | None:
    """What the first bytes of a file say; the name counts for camera RAW alone, which may look like TIFF."""
    found, named = kind_of_content(head), kind_of_name(name)
    raw = named is not None and named.name == "camera RAW" and found is not None and found.name == "TIFF"
    return named if raw else found


def kind_of_content(head: bytes) -> Kind | None:
    """What the first bytes of a file say; None: no picture or film that is known.

    TGA, PCX, SGI, DV and icons have no certain mark and go by their names alone.
    """
    return next((kind for pattern, kind in _MAGIC if pattern.match(head[:_HEAD])), None)


def is_picture_name(name: str) -> bool:
    """Whether a file name ends like that of a picture that can be read."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def is_film(path: Path) -> bool:
    """Whether a file is a film rather than a picture."""
    try:
        kind = kind_of(path)
    except OSError:  # whoever reads it will say so
        return False
    return kind is not None and kind.role == "film"


def advice(kind: Kind) -> str:
    """The next move for a picture that cannot be read."""
    if kind.name == "camera RAW":
        return "develop it to a TIFF or PNG file of 16 bits first"
    if kind.name in ("OpenEXR", "Radiance HDR", "PFM"):
        return "its values are not levels; map them to a PNG file of 8 or 16 bits first"
    return "save it as PNG first"
