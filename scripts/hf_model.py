"""Shared by hf_logits.py and hf_generate.py: a Llama 4 checkpoint in transformers, and inputs from the command line."""

import argparse
import json
import re
import sys
from pathlib import Path

import torch
import transformers
from PIL import Image, ImageOps
from transformers import AutoConfig, AutoTokenizer, Llama4ForCausalLM, Llama4ForConditionalGeneration
from transformers.models.llama4.image_processing_llama4 import Llama4ImageProcessor


def fail(message):
    sys.exit(f"{Path(sys.argv[0]).name}: {message}")


def arguments(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="directory with config.json and safetensors")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--ids", help='"1,2,3" or @FILE; images already expanded to their tokens')
    prompt.add_argument("--text", help="a rendered prompt or @FILE, no token is added; needs a tokenizer")
    parser.add_argument("--image", type=Path, action="append", default=[], help="repeat in the order of the prompt")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--device", default="cpu", help='"cpu", "cuda", or "auto": spread over all GPUs')
    return parser


def load(args):
    """The model in eval mode. Always by from_pretrained(dtype): a later .to(dtype) would ruin the rotary tables."""
    transformers.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    if not (args.checkpoint / "config.json").is_file():
        fail(f"{args.checkpoint}: no config.json there")
    kind = {"llama4": Llama4ForConditionalGeneration, "llama4_text": Llama4ForCausalLM}
    config = AutoConfig.from_pretrained(args.checkpoint)
    if config.model_type not in kind:
        fail(f"{args.checkpoint}: model_type is {config.model_type}, expected llama4 or llama4_text")
    place = dict(device_map=args.device) if args.device != "cpu" else {}
    model = kind[config.model_type].from_pretrained(
        args.checkpoint, dtype=getattr(torch, args.dtype), attn_implementation="sdpa", **place)
    return model.eval()


def given(text):
    if not text.startswith("@"):
        return text
    path = Path(text[1:])
    if not path.is_file():
        fail(f"{path}: no such file")
    return path.read_text()


def expand_images(text, layouts, tokens_per_tile):
    """Each <|image|> becomes the tokens of its tiles, as Llama4Processor writes them."""
    parts = text.split("<|image|>")
    if len(parts) - 1 != len(layouts):
        fail(f"the prompt has {len(parts) - 1} <|image|>, {len(layouts)} images were given")
    out, patch = parts[0], "<|patch|>" * tokens_per_tile
    for (rows, cols), rest in zip(layouts, parts[1:]):
        row = "<|tile_x_separator|>".join([patch] * cols) + "<|tile_y_separator|>"
        out += f"<|image_start|>{row * rows if rows * cols > 1 else ''}<|image|>{patch}<|image_end|>{rest}"
    return out


def inputs(args, model):
    """input_ids [1, T] and, with images, pixel_values in the model's dtype."""
    result, layouts, tokens_per_tile = {}, [], 0
    if args.image:
        vision = getattr(model.config, "vision_config", None)
        if vision is None:
            fail(f"{args.checkpoint} is text only, it takes no images")
        if (args.checkpoint / "preprocessor_config.json").is_file():
            processor = Llama4ImageProcessor.from_pretrained(args.checkpoint)
        else:
            processor = Llama4ImageProcessor(size=dict(height=vision.image_size, width=vision.image_size))
        try:
            pictures = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in args.image]
        except OSError as e:
            fail(f"--image: {e}")
        seen = [processor(images=[picture], return_tensors="pt") for picture in pictures]
        # bfloat16 from the processor; the model itself does not convert
        result["pixel_values"] = torch.cat([s["pixel_values"] for s in seen]).to(model.device, model.dtype)
        layouts = [tuple(int(n) for n in s["aspect_ratios"][0]) for s in seen]
        shuffle = round(1 / vision.pixel_shuffle_ratio)
        tokens_per_tile = (vision.image_size // vision.patch_size // shuffle) ** 2
    if args.text is not None:
        tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
        text = expand_images(given(args.text), layouts, tokens_per_tile)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        words = re.split(r"[\s,]+", given(args.ids).strip(" \n\t[],"))
        if not all(re.fullmatch(r"\d+", word) for word in words):
            fail("--ids: expected numbers with commas or spaces between them")
        ids = [int(word) for word in words]
    vocab = model.config.get_text_config().vocab_size
    if any(i >= vocab for i in ids):
        fail(f"--ids: {max(ids)} is not below the vocabulary's size, {vocab}")
    if args.image:
        wanted, found = len(result["pixel_values"]) * tokens_per_tile, ids.count(model.config.image_token_index)
        if wanted != found:
            fail(f"the images have {wanted} patch tokens, the prompt has {found} (id {model.config.image_token_index})")
    result["input_ids"] = torch.tensor([ids], device=model.device)
    return result


def print_json(value):
    print(json.dumps(value))
