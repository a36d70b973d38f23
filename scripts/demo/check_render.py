"""Compares render.py with transformers' own template, processor and image processor: python check_render.py CHECKPOINT_DIR"""

import sys

import torch
from transformers import AutoProcessor

import samples
from text_tasks import Source
from render import Renderer, pixel_table, tile_image


def main():
    folder = sys.argv[1]
    processor = AutoProcessor.from_pretrained(folder)
    r = Renderer(folder)
    rng = Source(5)
    table = pixel_table()
    for kind, make in samples.MAKERS.items():
        for _ in range(6):
            s = make(rng) if kind != "passkey" else samples.passkey(rng, 300)
            text = processor.apply_chat_template(s.messages, tools=s.tools)
            assert text == r.text(s.messages, s.tools), kind
            inputs = processor(text=text, images=s.images or None, add_special_tokens=False, return_tensors="pt")
            ids, mask, tiles = r.sample(s)
            assert inputs["input_ids"][0].tolist() == ids.tolist(), kind
            learned = r.tokenizer.decode([int(i) for i in ids[mask]], skip_special_tokens=False)
            assert learned.count("<|eot|>") == sum(m["role"] == "assistant" for m in s.messages), learned
            if s.images:
                ours = table[tiles.long()]
                assert torch.equal(ours, inputs["pixel_values"]), (kind, (ours - inputs["pixel_values"]).abs().max())
    for sizes in samples.charts.SIZES.values():
        for size in sizes:
            im = samples.charts.text_picture(rng, *size)[0]
            want = processor.image_processor(im, return_tensors="pt")["pixel_values"]
            assert torch.equal(table[tile_image(im)[0].long()], want), size
    print("render.py agrees with transformers")


if __name__ == "__main__":
    main()
