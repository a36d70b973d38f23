"""From a conversation to token ids, image tiles and the mask of tokens that are learned.

This does what transformers' chat template, Llama4Processor and Llama4ImageProcessor do, only faster: training makes thousands of
samples a second. `check_render.py` compares the two.
"""

import json
import math
from functools import lru_cache
from pathlib import Path

import jinja2
import jinja2.sandbox
import numpy as np
import torch
from tokenizers import Tokenizer
from torchvision.transforms.v2 import functional as tvf

TILE = 336
PATCHES_PER_TILE = 144


class Renderer:
    def __init__(self, folder):
        folder = Path(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # the same environment as transformers' apply_chat_template
        env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        env.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
        self.template = env.from_string((folder / "chat_template.jinja").read_text())
        tid = self.tokenizer.token_to_id
        self.ids = {name: tid(f"<|{name}|>") for name in
                    ["begin_of_text", "header_start", "header_end", "eot", "image", "image_start", "image_end", "patch",
                     "tile_x_separator", "tile_y_separator", "finetune_right_pad"]}
        self.head = self.encode("<|header_start|>assistant<|header_end|>\n\n")
        self.tail_of_head = np.array(self.head[1:])

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, messages, tools=None, generate=False):
        return self.template.render(messages=messages, tools=tools, add_generation_prompt=generate, bos_token="<|begin_of_text|>")

    def image_ids(self, rows, cols):
        i = self.ids
        patches = [i["patch"]] * PATCHES_PER_TILE
        out = [i["image_start"]]
        if rows * cols > 1:
            for _ in range(rows):
                for c in range(cols):
                    out += patches
                    if c < cols - 1:
                        out.append(i["tile_x_separator"])
                out.append(i["tile_y_separator"])
        return out + [i["image"]] + patches + [i["image_end"]]

    def sample(self, s):
        """-> ids [n] int32, learn [n] bool (True where the token is predicted in training), tiles [t, 3, 336, 336] uint8 or None"""
        ids = self.encode(self.text(s.messages, s.tools))
        tiles = None
        if s.images:
            parts, layouts = zip(*(tile_image(im) for im in s.images))
            tiles = torch.cat(parts)
            expanded, k = [], 0
            for t in ids:
                if t == self.ids["image"]:
                    expanded += self.image_ids(*layouts[k])
                    k += 1
                else:
                    expanded.append(t)
            ids = expanded
        ids = np.array(ids, dtype=np.int32)
        return ids, self.learn_mask(ids), tiles

    def learn_mask(self, ids):
        """True on every token of the assistant's turns, <|eot|> included."""
        mask = np.zeros(len(ids), dtype=bool)
        n = len(self.head)
        ends = np.flatnonzero(ids == self.ids["eot"])
        for p in np.flatnonzero(ids == self.ids["header_start"]):
            if p + n <= len(ids) and np.array_equal(ids[p + 1:p + n], self.tail_of_head):
                end = ends[np.searchsorted(ends, p)]
                mask[p + n:end + 1] = True
        return mask


# ---------------------------------------------------------------------------------------------------------------------
# Images: Llama4ImageProcessor's tiling on uint8; the GPU normalises

def supported_canvases(max_tiles=16):
    by_ratio = {}
    for n in range(max_tiles, 0, -1):
        for rows in [f for f in range(1, n + 1) if n % f == 0]:
            by_ratio.setdefault(rows / (n // rows), []).append((rows, n // rows))
    return [c for group in by_ratio.values() for c in group]


CANVASES = supported_canvases()


@lru_cache(maxsize=1024)
def layout(height, width):
    """-> rows, cols, new_height, new_width. Only for images that no canvas edge has to shrink (all that we draw)."""
    rc = np.array(CANVASES)
    scale = np.minimum(np.float32(TILE) * rc[:, 0] / np.float32(height), np.float32(TILE) * rc[:, 1] / np.float32(width)).astype(np.float32)
    up = scale[scale >= 1]
    target = up.min() if len(up) else scale.max()
    ok = np.flatnonzero(scale == target)
    rows, cols = rc[ok[np.argmin(rc[ok].prod(1))]]
    th, tw = min(max(height, TILE), rows * TILE), min(max(width, TILE), cols * TILE)
    if th < height or tw < width:
        raise ValueError("images larger than the canvas are not drawn here")
    sw, sh = tw / width, th / height
    if sw < sh:
        return int(rows), int(cols), min(math.floor(height * sw), int(th)), int(tw)
    return int(rows), int(cols), int(th), min(math.floor(width * sh), int(tw))


def tile_image(image):
    """-> tiles [n, 3, 336, 336] uint8, (rows, cols)"""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    height, width = x.shape[1:]
    rows, cols, nh, nw = layout(height, width)
    resize = lambda t, h, w: t if t.shape[1:] == (h, w) else tvf.resize(t, [h, w], interpolation=tvf.InterpolationMode.BILINEAR, antialias=True)
    y = torch.zeros(3, rows * TILE, cols * TILE, dtype=torch.uint8)
    y[:, :nh, :nw] = resize(x, nh, nw)
    tiles = y.view(3, rows, TILE, cols, TILE).permute(1, 3, 0, 2, 4).reshape(rows * cols, 3, TILE, TILE)
    if rows * cols > 1:
        tiles = torch.cat([tiles, resize(x, TILE, TILE)[None]])
    return tiles, (rows, cols)


def pixel_table():
    """uint8 -> normalised value, rounded in bfloat16 where Llama4ImageProcessor rounds"""
    v = torch.arange(256, dtype=torch.uint8).to(torch.bfloat16) * (1 / 255)
    return (v - 0.5) / 0.5
