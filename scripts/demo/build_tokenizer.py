"""Trains the tokenizer and writes all files of the checkpoint but the weights.

    python build_tokenizer.py OUT_DIR CHAT_TEMPLATE

The tokenizer has exactly the structure of Llama 4's: byte-level BPE with the same regular expression, the special tokens after
the base vocabulary under their official names.
"""

import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCAB = 2048
SPECIAL = ["begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix", "header_start", "header_end", "eom", "eot", "step",
           "python_start", "python_end", "finetune_right_pad", "image_start", "image_end", "tile_x_separator", "tile_y_separator", "image", "patch"]
PATTERN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
           r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
           r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
REPEAT = " The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs."


def pre_tokenizer():
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def corpus(template_text):
    """Text to train on: all kinds of samples, plus the template's own tool instructions."""
    import samples
    from text_tasks import Source
    texts = []
    rng = Source(11)
    for kind, weight in samples.WEIGHTS.items():
        for _ in range(int(60 * max(weight, 2))):
            s = samples.passkey(rng, 200) if kind == "passkey" else samples.MAKERS[kind](rng)
            for m in s.messages:
                content = m["content"] if isinstance(m["content"], str) else m["content"][-1]["text"]
                texts.append(content)
                for c in m.get("tool_calls", []):
                    texts.append(c["function"]["name"] + "(" + ", ".join(f'{k}="{v}"' for k, v in c["function"]["arguments"].items()) + ")")
            if s.tools and rng.random() < 0.3:
                texts.append(json.dumps(s.tools, indent=4))
    instructions = [part.replace("\\n", "\n").replace('\\"', '"') for part in template_text.split('"') if len(part) > 40]
    return texts + instructions * 12 + [REPEAT] * 5 + ["assistant", "user", "system", "ipython", "\n\n"] * 500


def build(out, template_file):
    template_text = Path(template_file).read_text()
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    # Digits are split off while merges are learned, so that no merge contains a digit and every digit stays one token.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - len(SPECIAL), special_tokens=[], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False, min_frequency=2)
    tokenizer.train_from_iterator(corpus(template_text), trainer)
    base = tokenizer.get_vocab_size()
    assert base == VOCAB - len(SPECIAL), f"only {base} base tokens: the corpus is too small"
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([f"<|{s}|>" for s in SPECIAL])
    bos = "<|begin_of_text|>"
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))])])
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    return tokenizer, template_text


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def main():
    out = Path(sys.argv[1])
    tokenizer, template_text = build(out, sys.argv[2])
    (out / "chat_template.jinja").write_text(template_text)
    from model_config import MAX_POSITIONS, make_config
    tid = lambda s: tokenizer.token_to_id(f"<|{s}|>")
    write_json(out / "special_tokens_map.json", {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot|>", "pad_token": "<|finetune_right_pad|>"})
    added = {str(tid(s)): {"content": f"<|{s}|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} for s in SPECIAL}
    write_json(out / "tokenizer_config.json", {
        "added_tokens_decoder": added, "bos_token": "<|begin_of_text|>", "clean_up_tokenization_spaces": False, "eos_token": "<|eot|>",
        "extra_special_tokens": {}, "model_input_names": ["input_ids", "attention_mask"], "model_max_length": MAX_POSITIONS,
        "pad_token": "<|finetune_right_pad|>", "processor_class": "Llama4Processor", "tokenizer_class": "PreTrainedTokenizerFast"})
    write_json(out / "generation_config.json", {
        "bos_token_id": tid("begin_of_text"), "do_sample": True, "eos_token_id": [tid("end_of_text"), tid("eom"), tid("eot")],
        "pad_token_id": tid("finetune_right_pad"), "temperature": 0.6, "top_p": 0.9})
    write_json(out / "preprocessor_config.json", {
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "image_processor_type": "Llama4ImageProcessorFast", "max_patches": 16, "processor_class": "Llama4Processor", "resample": 2,
        "rescale_factor": 1 / 255, "resize_to_max_canvas": False, "size": {"height": 336, "width": 336}})
    write_json(out / "processor_config.json", {"fake_image_token": "<|image|>", "image_token": "<|image|>", "patch_size": 14, "processor_class": "Llama4Processor"})
    make_config(out).save_pretrained(out)


if __name__ == "__main__":
    main()
