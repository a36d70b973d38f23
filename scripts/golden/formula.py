"""Weights, pixels and digests from an integer hash, so that a checkpoint of a few megabytes is stored as a few numbers.

tests/support/golden_model.cpp computes the same values bit for bit; tests/golden/models/README.md states the formula.
"""

import numpy as np

MASK = (1 << 64) - 1


def fnv1a64(data: bytes, h: int = 0xCBF29CE484222325) -> int:
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def words(seed: int, name: str, n: int) -> np.ndarray:
    """n 64-bit words of the stream `seed/name`: splitmix64 started at the FNV-1a hash of that text."""
    stream = np.uint64(fnv1a64(f"{seed}/{name}".encode()))
    z = stream + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def unit(seed: int, name: str, n: int) -> np.ndarray:
    """n doubles in [-1, 1): the upper 24 bits of each word, so every value is exact in float32 too."""
    return ((words(seed, name, n) >> np.uint64(40)).astype(np.int64) - (1 << 23)) * 2.0**-23


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 bits, to nearest, ties to even (finite values)."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)


def from_bf16_bits(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def weight_bits(seed: int, name: str, shape, offset: float, scale: float) -> np.ndarray:
    """bf16(float32(offset + scale * unit)); scale is a float32, so the product is exact in double."""
    n = int(np.prod(shape))
    return bf16_bits(np.float64(offset) + np.float64(scale) * unit(seed, name, n)).reshape(shape)


def grey_levels(seed: int, shape) -> np.ndarray:
    """uint8 pixels: the top byte of each word of the stream "pixel_values"."""
    return (words(seed, "pixel_values", int(np.prod(shape))) >> np.uint64(56)).astype(np.uint8).reshape(shape)


def normalise(grey: np.ndarray) -> np.ndarray:
    """Llama4ImageProcessor's rescale and normalise: two roundings to bfloat16."""
    bf16 = lambda x: from_bf16_bits(bf16_bits(x))
    lut = bf16(bf16(np.arange(256, dtype=np.float32) * np.float32(1 / 255)) - np.float32(0.5)) * np.float32(2)
    return lut[grey]


def digest(rows: np.ndarray) -> np.ndarray:
    """[R, D] -> [R, 4]: L2 norm, sum of x_i * unit_i of stream "0/digest", first element, last element."""
    x = rows.astype(np.float64)
    weights = unit(0, "digest", x.shape[1])
    return np.stack([np.sqrt((x * x).sum(1)), x @ weights, x[:, 0], x[:, -1]], axis=1).astype(np.float32)
