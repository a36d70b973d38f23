#!/usr/bin/env python3
"""Compares core/text with its references, at more places than the test suite has time for.

    compare_tokenizers.py BUILD DATA [--seed N] [--rounds N] [--only STEP]

BUILD is a build directory with libl4core.a, DATA the shared test data (tokenizer/, chat/). References: Hugging Face
tokenizers (from tokenizer.json), sentencepiece, Jinja2 with the environment transformers renders templates in.

 1. every code point in contexts that show how the split expression classes it: the same pieces and the same ids
 2. random text from pieces that are near each other's edges, with and without special tokens
 3. small byte-level BPE tokenizers trained here, whose merges are no ranks
 4. small SentencePiece models trained here
 5. random conversations through both chat templates
"""

import argparse
import ctypes
import io
import json
import lzma
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import jinja2
import sentencepiece
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[1]
SURROGATES = range(0xD800, 0xE000)


class Suite:
    """core/text through text_shim.cpp."""

    def __init__(self, build, scratch):
        library = Path(scratch) / "libtext_shim.so"
        subprocess.run(["g++", "-std=c++20", "-O2", "-shared", "-fPIC", f"-I{ROOT}/core", ROOT / "scripts" / "text_shim.cpp",
                        Path(build) / "libl4core.a", "-lsentencepiece", "-lpcre2-8", "-lpthread", "-o", library], check=True)
        self.c = ctypes.CDLL(str(library))
        self.c.l4_load.restype = ctypes.c_void_p
        self.c.l4_text.restype = ctypes.POINTER(ctypes.c_char)
        self.c.l4_numbers.restype = ctypes.POINTER(ctypes.c_int64)
        for name in ("l4_encode", "l4_split", "l4_text_bytes"):
            getattr(self.c, name).restype = ctypes.c_int64

    def text(self):
        return ctypes.string_at(self.c.l4_text(), self.c.l4_text_bytes()).decode()

    def numbers(self, n):
        if n < 0:
            raise RuntimeError(self.text())
        return self.c.l4_numbers()[:n]

    def load(self, path):
        handle = self.c.l4_load(str(path).encode())
        if not handle:
            raise RuntimeError(self.text())
        return handle

    def encode(self, tokenizer, text, parse_special=False):
        data = text.encode()
        return self.numbers(self.c.l4_encode(ctypes.c_void_p(tokenizer), data, ctypes.c_int64(len(data)), int(parse_special)))

    def split(self, text):
        data = text.encode()
        ends = self.numbers(self.c.l4_split(data, ctypes.c_int64(len(data))))
        return [data[a:b].decode() for a, b in zip([0] + ends, ends)]

    def render(self, request, which):
        failed = self.c.l4_render(json.dumps(request).encode(), which.encode())
        return None if failed else self.text()


class Report:
    def __init__(self):
        self.n_failed = self.n_shown = 0

    def compare(self, what, ours, reference):
        if ours == reference:
            return
        self.n_failed += 1
        self.n_shown += 1
        if self.n_shown <= 10:
            print(f"DIFFERENT {what}\n  ours      {ours!r:.400}\n  reference {reference!r:.400}")


def without_added_tokens(definition):
    return {**definition, "added_tokens": [], "post_processor": None}


def code_point_text(code_point):
    c = chr(code_point)
    if code_point >= 0x34000 and code_point >> 12 != 0xE0:  # nothing is assigned there but private use
        return f"a{c}b 1{c}2 !{c}!  {c}{c}\n"
    return (f"a{c}b A{c}B 1{c}2 !{c}! {c}\n  {c}  {c}{c}{c}{c}x{c}{c}X'{c} a'{c}a'{c}e a'r{c} a'v{c} a'l{c} A{c}a a{c}A {c}/\r\n"
            f"\n{c}\n{c} {c}9{c}9{c}")


def every_code_point(suite, report, tokenizer, definition, plain):
    split = pre_tokenizers.Split(Regex(definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]), "isolated")
    step = 64
    for first in range(0, 0x110000, step):
        points = [p for p in range(first, first + step) if p not in SURROGATES]
        text = "\n".join(map(code_point_text, points))
        pieces = [piece for piece, _ in split.pre_tokenize_str(text)]
        ours = suite.split(text)
        same = ours == pieces and suite.encode(tokenizer, text) == plain.encode(text, add_special_tokens=False).ids
        if not same:  # which of them
            for p in points:
                text = code_point_text(p)
                report.compare(f"pieces of U+{p:04X}", suite.split(text), [piece for piece, _ in split.pre_tokenize_str(text)])
                report.compare(f"ids of U+{p:04X}", suite.encode(tokenizer, text), plain.encode(text, add_special_tokens=False).ids)


FRAGMENTS = ["a", "B", "é", "ß", "ſ", "K", "字", "語", "ñ", "\u0301", "\u0e33", "ก", "न", "\u093f", "1", "22", "٣", "Ⅷ", "½", " ", "  ", "\t", "\n", "\r\n",
             "\u00a0", "\u3000", "\u200b", "\u180e", "\u2028", "'s", "'LL", "'t", "’s", "/", "//", "!", "...", "—", "🙂", "👩‍👩‍👧", "\ufeff", "\0", "\x7f",
             "\U000e0001", "\U0010ffff", "the", " The", "ing", "Hello", "return x;", "<|", "|>", "<|eot|>", "<|image|>", "<|header_start|>", "<|e", "ot|>"]


def random_text(rng):
    out = []
    for _ in range(rng.randint(1, 40)):
        kind = rng.random()
        if kind < 0.85:
            out.append(rng.choice(FRAGMENTS) * rng.choice([1, 1, 1, 2, 5]))
        else:
            p = rng.randrange(0x110000)
            out.append("" if p in SURROGATES else chr(p))
    return "".join(out)


def random_texts(suite, report, tokenizer, plain, special, rng, rounds):
    for _ in range(rounds):
        text = random_text(rng)
        report.compare(f"ids of {text!r}", suite.encode(tokenizer, text), plain.encode(text, add_special_tokens=False).ids)
        report.compare(f"ids with special tokens of {text!r}", suite.encode(tokenizer, text, True),
                       special.encode(text, add_special_tokens=False).ids)


def trained_bpe(suite, report, definition, rng, rounds, scratch):
    regex = definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    for ignore_merges in (True, False):
        tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<|eot|>", "<|e"], show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        tokenizer.train_from_iterator([random_text(rng) for _ in range(400)] + ["aaaa aaaaa aaaaaaaa"] * 50, trainer)
        file = Path(scratch) / "trained.json"
        tokenizer.save(str(file))
        ours = suite.load(file)
        for _ in range(rounds):
            text = random_text(rng)
            report.compare(f"trained, ids of {text!r}", suite.encode(ours, text, True), tokenizer.encode(text, add_special_tokens=False).ids)


def trained_sentencepiece(suite, report, rng, rounds, scratch):
    for kind in ("unigram", "bpe"):
        model = io.BytesIO()
        lines = [line for _ in range(300) if (line := random_text(rng).replace("\0", "").replace("\n", " ").replace("\r", " ").strip())]
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, vocab_size=2000, model_type=kind,
                                                 byte_fallback=True, control_symbols=["<|eot|>"], minloglevel=3, hard_vocab_limit=False)
        file = Path(scratch) / "trained.model"
        file.write_bytes(model.getvalue())
        reference = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        ours = suite.load(file)
        for _ in range(rounds):
            text = random_text(rng)
            ids, expected = suite.encode(ours, text), reference.encode(text)
            if kind == "unigram":  # versions of the library take different ones of equally likely segmentations
                ids, expected = sorted(ids), sorted(expected)
            report.compare(f"SentencePiece {kind}, ids of {text!r}", ids, expected)


def jinja(file):
    """A template in the environment of transformers' chat template renderer."""

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(file.read_text())


def random_value(rng, depth=0):
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind < 2:
        return random_text(rng)[:12]
    if kind < 6:
        return rng.choice([None, True, False, 0, -7, 2**53, 1.0, -0.0, 1e-7, 1.5e300, 1e16, 0.1, 123456.789])
    if kind == 6:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {random_text(rng)[:6]: random_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def random_conversation(rng):
    def words():
        return rng.choice([random_text(rng), "  Hello \n", "", "\u3000 x \x1f", "Hi"])

    def content(images=True):
        if rng.random() < 0.6:
            return words()
        kinds = ["text", "text", "image"] if images else ["text"]
        return [{"type": "image"} if k == "image" else {"type": "text", "text": words()} for k in rng.choices(kinds, k=rng.randint(1, 4))]

    messages = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": words() if rng.random() < 0.7 else [{"type": "text", "text": words()}]})
    for _ in range(rng.randint(1, 5)):
        role = rng.choice(["user", "user", "assistant", "assistant", "tool", "ipython", "system"])
        message = {"role": role, "content": content(images=role in ("user", "assistant"))}
        if role == "assistant" and rng.random() < 0.5:
            message["tool_calls"] = [{"type": "function", "function": {"name": rng.choice(["f", "get_weather", "é"]), "arguments":
                                      {f"k{i}{rng.choice(['', 'é'])}": random_value(rng) for i in range(rng.randrange(4))}}}
                                     for _ in range(rng.randint(1, 3))]
        messages.append(message)
    if messages[0]["role"] == "system":  # core/text joins the parts, the templates use the first alone
        messages[0]["content"] = messages[0]["content"][:1] if isinstance(messages[0]["content"], list) else messages[0]["content"]
    request = {"messages": messages, "add_generation_prompt": rng.random() < 0.5}
    for name in ("tools", "custom_tools"):
        if rng.random() < 0.3:
            request[name] = [{"type": "function", "function": {"name": "f", "parameters": random_value(rng)}} for _ in range(rng.randrange(3))]
    if rng.random() < 0.3:
        request["tools_in_user_message"] = rng.random() < 0.5
    return request


def conversations(suite, report, data, rng, rounds):
    templates = {"official": jinja(data / "chat" / "chat_template.jinja"), "launch": jinja(data / "chat" / "chat_template.2025-04-launch.jinja")}
    n_both = n_refused = 0
    for _ in range(rounds):
        request = random_conversation(rng)
        for which, template in templates.items():
            try:
                reference = template.render(bos_token="<|begin_of_text|>", **request)
            except (jinja2.exceptions.TemplateError, TypeError):
                reference = None
            ours = suite.render(request, which)
            if ours is None or reference is None:  # core/text refuses what a template drops without a word
                n_refused += 1
                continue
            n_both += 1
            report.compare(f"{which} rendering of {json.dumps(request)}", ours, reference)
    print(f"conversations: {n_both} renderings compared, {n_refused} refused by one side")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--only", help="one step by its name")
    options = parser.parse_args()
    rng, report = random.Random(options.seed), Report()
    with tempfile.TemporaryDirectory() as scratch:
        suite = Suite(options.build, scratch)
        file = Path(scratch) / "tokenizer.json"
        file.write_bytes(lzma.decompress((options.data / "tokenizer" / "tokenizer.json.xz").read_bytes()))
        definition = json.loads(file.read_text())
        special = Tokenizer.from_file(str(file))
        plain = Tokenizer.from_str(json.dumps(without_added_tokens(definition)))
        ours = suite.load(file)
        steps = {
            "random text": lambda: random_texts(suite, report, ours, plain, special, rng, options.rounds),
            "trained BPE": lambda: trained_bpe(suite, report, definition, rng, options.rounds, scratch),
            "trained SentencePiece": lambda: trained_sentencepiece(suite, report, rng, options.rounds, scratch),
            "conversations": lambda: conversations(suite, report, options.data, rng, options.rounds),
            "every code point": lambda: every_code_point(suite, report, ours, definition, plain),
        }
        for name, step in steps.items():
            if options.only not in (None, name):
                continue
            before, report.n_shown = report.n_failed, 0
            step()
            print(f"{name}: {report.n_failed - before} differences", flush=True)
    return 1 if report.n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
