#!/usr/bin/env python3
"""Golden data for core/vision, and a full comparison of core/vision with its references.

    vision_golden.py write                          rewrites tests/golden/vision
    vision_golden.py compare BUILD [PICTURES...]    compares BUILD/libl4core.a with the references: random resizes and
                                                    canvases, generated files of every kind, and PICTURES (files, folders)

References: transformers 5.17 (Llama4ImageProcessor, canvas functions), torchvision 0.26 on an x86 CPU with AVX2
(resize), Pillow 13 (files to RGB: exif_transpose, convert("RGB"), as transformers' load_image does).
"""

import argparse
import ctypes
import hashlib
import io
import json
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
import transformers
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as tvF
from transformers.models.llama4 import image_processing_llama4 as llama4

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "vision"


# ---- references -----------------------------------------------------------------------------------------------------


def pattern(height, width):
    """A picture that both languages can compute: edges, gradients, all levels. [height, width, 3] uint8."""
    y, x, c = np.ogrid[:height, :width, :3]
    return (((7 * y + 3 * x + 50 * c) ^ ((y * x) >> 3)) & 255).astype(np.uint8)


def reference_decode(data):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.asarray(image.convert("RGB"))


def reference_resize(rgb, height, width):
    planes = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].contiguous()
    out = tvF.resize(planes, [height, width], interpolation=tvF.InterpolationMode.BILINEAR, antialias=True)
    return out[0].permute(1, 2, 0).contiguous().numpy()


def reference_plan(height, width, tile=336, max_tiles=16, fill=False):
    """rows, cols, resized height, resized width, tiles: the processor's own functions, called as _preprocess does."""
    size = llama4.SizeDict(height=tile, width=tile)
    llama4.find_supported_resolutions.cache_clear()
    canvases = torch.tensor(llama4.find_supported_resolutions(max_num_chunks=max_tiles, patch_size=size))
    canvas = llama4.get_best_fit((height, width), canvases, resize_to_max_canvas=fill)
    target = canvas
    if not fill:
        target = (min(max(height, tile), canvas[0]), min(max(width, tile), canvas[1]))
    resized = llama4.get_max_res_without_distortion((height, width), target)
    rows, cols = int(canvas[0]) // tile, int(canvas[1]) // tile
    return [rows, cols, max(int(resized[0]), 1), max(int(resized[1]), 1), rows * cols + (rows * cols > 1)]


def reference_preprocess(rgb, tile=336, max_tiles=16, fill=False):
    """pixel_values as bf16 bits [tiles, 3, tile, tile], aspect ratio [rows, cols]."""
    processor = llama4.Llama4ImageProcessor(
        size={"height": tile, "width": tile}, max_patches=max_tiles, resize_to_max_canvas=fill
    )
    out = processor(Image.fromarray(rgb), return_tensors="pt")
    pixels = out["pixel_values"]
    assert pixels.dtype == torch.bfloat16
    pixels = pixels.reshape(-1, 3, tile, tile).contiguous()
    return pixels.view(torch.int16).numpy().view(np.uint16), [int(n) for n in out["aspect_ratios"][0]]


# ---- picture files --------------------------------------------------------------------------------------------------


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows_of_bits, width, height, depth, color, interlaced=False, extra=()):
    """A PNG from samples [height, width, channels]; Adam7 where interlaced (Pillow writes none)."""

    def pack(samples):
        out = bytearray()
        for row in samples:
            flat = row.reshape(-1)
            out.append(0)  # no filter
            if depth == 16:
                out += flat.astype(">u2").tobytes()
            elif depth == 8:
                out += flat.astype(np.uint8).tobytes()
            else:
                bits = ((flat[:, None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(-1).astype(np.uint8)
                out += np.packbits(bits).tobytes()
        return bytes(out)

    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    if interlaced:
        parts = [rows_of_bits[y::dy, x::dx] for y, x, dy, dx in passes]
        raw = b"".join(pack(part) for part in parts if part.size)
    else:
        raw = pack(rows_of_bits)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    body = b"".join(chunk(kind, data) for kind, data in extra)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def exif(orientation, big_endian=False, prefix=b""):
    if big_endian:
        return prefix + b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return prefix + b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def bmp(rows, width, height, bits, palette=b"", masks=b"", header_bytes=40, n_colors=0):
    """A BMP from packed rows (padded here); height < 0: top-down."""
    padded = b"".join(row + b"\0" * (-len(row) % 4) for row in rows)
    compression = 3 if masks else 0
    info = struct.pack("<IiiHHIIiiII", header_bytes, width, height, 1, bits, compression, len(padded), 0, 0, n_colors, 0)
    info += (masks if header_bytes > 40 else b"").ljust(header_bytes - 40, b"\0")
    after = masks if header_bytes == 40 else b""
    offset = 14 + len(info) + len(after) + len(palette)
    return struct.pack("<2sIHHI", b"BM", offset + len(padded), 0, 0, offset) + info + after + palette + padded


def saved(array, kind, mode=None, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def picture_files(height=13, width=21):
    """name -> bytes: every kind of file that core/vision reads."""
    rgb = pattern(height, width)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([10 * y + 60, 8 * x + 40, 5 * (x + y) + 20], -1).astype(np.uint8)  # JPEG's kind of picture
    alpha = ((x * 12) & 255).astype(np.uint8)[..., None]
    rgba = np.concatenate([rgb, alpha], -1)
    deep = (rgb.astype(np.uint16) * 257) ^ 0x35
    deep_alpha = np.concatenate([deep, alpha.astype(np.uint16) * 257], -1)
    grey = rgb[..., :1]
    files = {}
    for interlaced in (False, True):
        tail = "_interlaced.png" if interlaced else ".png"
        size = (width, height)
        for depth in (1, 2, 4, 8):
            samples = grey >> (8 - depth)
            files[f"grey{depth}{tail}"] = png(samples, *size, depth, 0, interlaced)
            palette = np.random.default_rng(depth).integers(0, 256, (1 << depth) * 3, dtype=np.uint8).tobytes()
            files[f"palette{depth}{tail}"] = png(samples, *size, depth, 3, interlaced, [(b"PLTE", palette)])
        files[f"rgb8{tail}"] = png(rgb, *size, 8, 2, interlaced)
        files[f"rgb16{tail}"] = png(deep, *size, 16, 2, interlaced)
        files[f"rgba8{tail}"] = png(rgba, *size, 8, 6, interlaced)
        files[f"rgba16{tail}"] = png(deep_alpha, *size, 16, 6, interlaced)
        files[f"grey16{tail}"] = png(deep[..., :1] >> 6, *size, 16, 0, interlaced)
        files[f"grey_alpha8{tail}"] = png(rgba[..., 2:], *size, 8, 4, interlaced)
        files[f"grey_alpha16{tail}"] = png(deep_alpha[..., 2:], *size, 16, 4, interlaced)
    files["palette8_transparent.png"] = png(
        grey >> 4, width, height, 8, 3, False, [(b"PLTE", rgb.tobytes()[:48]), (b"tRNS", bytes(range(0, 160, 10)))]
    )
    files["rgb8_transparent.png"] = png(rgb, width, height, 8, 2, False, [(b"tRNS", struct.pack(">HHH", 0, 50, 100))])
    files["grey8_transparent.png"] = png(grey, width, height, 8, 0, False, [(b"tRNS", struct.pack(">H", 7))])
    files["filters.png"] = saved(smooth, "PNG", optimize=True)
    for turn in range(1, 9):
        files[f"turn{turn}.png"] = png(rgb, width, height, 8, 2, False, [(b"eXIf", exif(turn, turn % 2 == 0))])
        files[f"turn{turn}.jpg"] = saved(smooth, "JPEG", quality=95, exif=exif(turn, turn % 2 == 1, b"Exif\0\0"))
        files[f"turn{turn}.webp"] = saved(rgb, "WEBP", lossless=True, exif=exif(turn, turn % 2 == 1))

    files["plain_444.jpg"] = saved(smooth, "JPEG", quality=90, subsampling=0)
    files["plain_422.jpg"] = saved(smooth, "JPEG", quality=90, subsampling=1)
    files["plain_420.jpg"] = saved(smooth, "JPEG", quality=90, subsampling=2)
    files["progressive.jpg"] = saved(smooth, "JPEG", quality=90, progressive=True)
    files["restart.jpg"] = saved(smooth, "JPEG", quality=90, restart_marker_blocks=1)
    files["grey.jpg"] = saved(smooth, "JPEG", mode="L", quality=90)
    files["cmyk.jpg"] = saved(smooth, "JPEG", mode="CMYK", quality=90)
    files["rgb_kept.jpg"] = saved(smooth, "JPEG", quality=90, keep_rgb=True)

    files["lossy.webp"] = saved(smooth, "WEBP", quality=80)
    files["lossless.webp"] = saved(rgb, "WEBP", lossless=True)
    files["lossy_alpha.webp"] = saved(np.concatenate([smooth, alpha], -1), "WEBP", quality=80, exact=True)
    files["lossless_alpha.webp"] = saved(rgba, "WEBP", lossless=True, exact=True)

    bgr = rgb[..., ::-1]
    files["rgb24.bmp"] = bmp([bgr[i].tobytes() for i in reversed(range(height))], width, height, 24)
    files["rgb24_top_down.bmp"] = bmp([row.tobytes() for row in bgr], width, -height, 24)
    wide = np.concatenate([bgr, alpha], -1)
    files["rgb32.bmp"] = bmp([row.tobytes() for row in wide], width, -height, 32)
    files["rgba32_v4.bmp"] = bmp(
        [row.tobytes() for row in wide], width, -height, 32, header_bytes=108,
        masks=struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    )
    files["rgba32_v5.bmp"] = bmp(
        [row.tobytes() for row in wide], width, -height, 32, header_bytes=124,
        masks=struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000),
    )
    r, g, b = (rgb[..., i].astype(np.uint16) for i in range(3))
    rows555 = ((r >> 3) << 10 | (g >> 3) << 5 | b >> 3).astype("<u2")
    rows565 = ((r >> 3) << 11 | (g >> 2) << 5 | b >> 3).astype("<u2")
    files["rgb555.bmp"] = bmp([row.tobytes() for row in rows555], width, -height, 16)
    files["rgb565.bmp"] = bmp(
        [row.tobytes() for row in rows565], width, -height, 16, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    )
    for depth in (1, 4, 8):
        colors = np.random.default_rng(depth).integers(0, 256, (1 << depth, 4), dtype=np.uint8).tobytes()
        samples = (grey[..., 0] >> (8 - depth)).astype(np.uint8)
        bits = ((samples[..., None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(height, -1).astype(np.uint8)
        files[f"palette{depth}.bmp"] = bmp([np.packbits(row).tobytes() for row in bits], width, -height, depth, palette=colors)
    few = np.random.default_rng(9).integers(0, 256, (20, 4), dtype=np.uint8).tobytes()
    files["palette8_of_20.bmp"] = bmp(
        [row.tobytes() for row in (grey[..., 0] % 20)], width, -height, 8, palette=few, n_colors=20
    )
    return files


# ---- golden files ---------------------------------------------------------------------------------------------------

PLAN_EDGES = [
    (1, 1), (336, 336), (50, 40), (337, 336), (336, 337), (400, 300), (300, 800), (480, 640), (672, 1008), (1000, 1000),
    (1080, 1920), (1920, 1080), (2000, 300), (5000, 5000), (336, 5376), (5376, 336), (100, 3000), (1, 65535), (65535, 1),
    (512, 512), (1280, 1280), (3024, 4032), (7, 5377), (5377, 7), (672, 673), (1344, 1345), (10000, 5000),
]  # fmt: skip
RESIZES = [
    (1, 1, 7, 5), (5, 7, 1, 2), (13, 21, 21, 13), (13, 21, 13, 40), (13, 21, 5, 21), (100, 300, 37, 99), (64, 64, 336, 336),
    (700, 500, 336, 336), (333, 1, 17, 9), (3, 4000, 3, 336), (1000, 1000, 1, 2), (255, 257, 256, 256),
]  # fmt: skip
PREPROCESS = [
    # height, width, tile, max_tiles, fill
    (336, 336, 336, 16, False), (50, 40, 336, 16, False), (337, 336, 336, 16, False), (400, 300, 336, 16, False),
    (480, 640, 336, 16, False), (1080, 700, 336, 16, False), (600, 2500, 336, 16, False), (1500, 1400, 336, 4, False),
    (300, 200, 336, 4, True), (90, 130, 28, 16, False), (29, 1000, 28, 16, False), (20, 20, 28, 16, True),
]  # fmt: skip


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def random_sizes(n, seed):
    """Side lengths spread evenly over their magnitude, 1 to 9000."""
    sides = np.exp(np.random.default_rng(seed).uniform(0, np.log(9000), (n, 2))).astype(int)
    return [(int(h), int(w)) for h, w in sides]


def write():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    made_with = f"transformers {transformers.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"

    decoded = []
    for old in (GOLDEN / "files").glob("*"):
        old.unlink()
    (GOLDEN / "files").mkdir(exist_ok=True)
    for name, data in picture_files().items():
        (GOLDEN / "files" / name).write_bytes(data)
        rgb = reference_decode(data)
        decoded.append({"file": name, "height": rgb.shape[0], "width": rgb.shape[1], "rgb": rgb.tobytes().hex()})
    dump("decoded.json", made_with, decoded)

    plans = [(h, w, 336, 16, False) for h, w in PLAN_EDGES + random_sizes(400, 1)]
    plans += [(h, w, 336, 16, True) for h, w in PLAN_EDGES + random_sizes(100, 2)]
    plans += [(h, w, 336, 5, False) for h, w in random_sizes(50, 3)] + [(h, w, 28, 16, False) for h, w in random_sizes(50, 4)]
    dump("plans.json", made_with, [[*case[:4], int(case[4]), *reference_plan(*case)] for case in plans])

    resized = []
    for h, w, new_h, new_w in RESIZES:
        out = reference_resize(pattern(h, w), new_h, new_w)
        resized.append({"from": [h, w], "to": [new_h, new_w], "sha256": sha256(out), "head": out.reshape(-1)[:30].tolist()})
    dump("resized.json", made_with, resized)

    processed = []
    for h, w, tile, max_tiles, fill in PREPROCESS:
        pixels, (rows, cols) = reference_preprocess(pattern(h, w), tile, max_tiles, fill)
        processed.append({
            "height": h, "width": w, "tile": tile, "max_tiles": max_tiles, "fill": fill, "rows": rows, "cols": cols,
            "n_tiles": pixels.shape[0], "bf16_sha256": [sha256(one) for one in pixels],
        })  # fmt: skip
    dump("preprocessed.json", made_with, processed)


def dump(name, made_with, cases):
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (GOLDEN / name).write_text(f'{{"made_with":{json.dumps(made_with)},\n"cases":[\n{lines}\n]}}\n')


# ---- comparison -----------------------------------------------------------------------------------------------------


class Suite:
    """core/vision through vision_shim.cpp."""

    def __init__(self, build):
        folder = tempfile.mkdtemp()
        library = Path(folder) / "vision.so"
        shim = Path(__file__).with_name("vision_shim.cpp")
        command = ["g++", "-std=c++20", "-O2", "-shared", "-fPIC", f"-I{ROOT}/core", shim, Path(build) / "libl4core.a", "-lwebp"]
        subprocess.run([*map(str, command), "-o", str(library)], check=True)
        self.c = ctypes.CDLL(str(library))
        self.c.l4_error.restype = ctypes.c_char_p

    @staticmethod
    def at(array):
        return array.ctypes.data_as(ctypes.c_void_p)

    def decode(self, data):
        sides = np.zeros(2, np.int64)
        n_bytes = ctypes.c_int64(len(data))
        if self.c.l4_decode(data, n_bytes, self.at(sides), None):
            raise ValueError(self.c.l4_error().decode())
        rgb = np.zeros((*sides, 3), np.uint8)
        if self.c.l4_decode(data, n_bytes, self.at(sides), self.at(rgb)):
            raise ValueError(self.c.l4_error().decode())
        return rgb

    def resize(self, rgb, height, width):
        out = np.zeros((height, width, 3), np.uint8)
        self.c.l4_resize(self.at(rgb), *map(ctypes.c_int64, (*rgb.shape[:2], height, width)), self.at(out))
        return out

    def plan(self, height, width, tile=336, max_tiles=16, fill=False):
        out = np.zeros(5, np.int64)
        self.c.l4_plan(*map(ctypes.c_int64, (height, width, tile, max_tiles)), ctypes.c_int(fill), self.at(out))
        return out.tolist()

    def preprocess(self, rgb, tile=336, max_tiles=16, fill=False):
        n_tiles = self.plan(*rgb.shape[:2], tile, max_tiles, fill)[4]
        out = np.zeros((n_tiles, 3, tile, tile), np.uint16)
        sides = map(ctypes.c_int64, (*rgb.shape[:2], tile, max_tiles))
        self.c.l4_preprocess(self.at(rgb), *sides, ctypes.c_int(fill), self.at(out))
        return out


def compare(build, pictures):
    suite = Suite(build)
    rng = np.random.default_rng(0)

    off = 0
    sizes = random_sizes(20000, 5) + [(h, w) for h in range(1, 700, 9) for w in range(1, 700, 9)]
    sizes += [(int(h), int(w)) for h, w in rng.integers(330, 5400, (10000, 2))]
    for i, (h, w) in enumerate(sizes):
        case = (h, w, 336, 16, i % 10 == 0)
        if suite.plan(*case) != reference_plan(*case):
            off += 1
            print("plan", case, suite.plan(*case), reference_plan(*case))
    print(f"plans: {off} of {len(sizes)} differ")

    off = 0
    for i in range(1000):
        h, w, new_h, new_w = (int(n) for n in rng.integers(1, 900, 4))
        new_h, new_w = (h if i % 7 == 0 else new_h), (w if i % 11 == 0 else new_w)
        rgb = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
        off += not np.array_equal(suite.resize(rgb, new_h, new_w), reference_resize(rgb, new_h, new_w))
    print(f"resizes: {off} of 1000 differ")

    files = dict(picture_files()) | {f"large_{name}": data for name, data in picture_files(240, 331).items()}
    for path in map(Path, pictures):
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            files[str(file)] = file.read_bytes()
    for name, data in list(files.items()):
        if "/" in name and name.endswith(".png") and len(files) < 700:
            rgb = reference_decode(data)
            files[f"{name}: 4:2:0, quality 75.jpg"] = saved(rgb, "JPEG", quality=75, subsampling=2)
            files[f"{name}: 4:4:4, quality 95.jpg"] = saved(rgb, "JPEG", quality=95, subsampling=0)
    kinds = {}
    tiles_off = n_processed = 0
    for name, data in files.items():
        reference, ours = reference_decode(data).astype(int), suite.decode(data)
        assert reference.shape == ours.shape, name
        difference = np.abs(reference - ours)
        kind = Path(name).suffix.lower().replace("jpeg", "jpg")
        if kind == ".jpg" and "422" in name:
            kind = "4:2:2 .jpg"
        kind = kinds.setdefault(kind, [0, 0, 0, 0.0])
        kind[0] += 1
        kind[1] += bool(difference.any())
        kind[2] = max(kind[2], int(difference.max()))
        kind[3] = max(kind[3], float(difference.mean()))
        if difference.max() > 6:
            print(f"  {name}: at most {difference.max()}, mean {difference.mean():.4f}")
        if name.startswith("large_") or "/" in name:
            n_processed += 1
            same = np.array_equal(suite.preprocess(ours), reference_preprocess(ours)[0])
            tiles_off += not same
            if not same:
                print("  tiles differ:", name)
    for kind, (n, differ, most, mean) in kinds.items():
        print(f"decoded {kind}: {n} files, {differ} differ, by {most} levels at most, {mean:.4f} at most on a file's average")
    print(f"tiles from the same RGB: {tiles_off} of {n_processed} pictures differ")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write")
    comparison = commands.add_parser("compare")
    comparison.add_argument("build")
    comparison.add_argument("pictures", nargs="*")
    arguments = parser.parse_args()
    if arguments.command == "write":
        write()
    else:
        compare(arguments.build, arguments.pictures)


if __name__ == "__main__":
    sys.exit(main())
