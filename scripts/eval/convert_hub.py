#!/usr/bin/env python3
"""Turns data sets as the Hugging Face hub keeps them (Parquet) into the JSONL that l4-eval reads.

    scripts/eval/convert_hub.py DOWNLOADED OUT [--split test ...]

DOWNLOADED is a folder with the data set's files (what `hf download --repo-type dataset TIGER-Lab/MMLU-Pro --local-dir DOWNLOADED`
leaves): SPLIT-00000-of-00001.parquet and so on, also in sub-folders. Which data set it is, its columns say:

    TIGER-Lab/MMLU-Pro       OUT/test.jsonl, OUT/validation.jsonl, for l4-eval mmlu-pro --data OUT
    HuggingFaceM4/ChartQA,   OUT/test.jsonl and its pictures in OUT/png, each once, byte for byte as they are there, for
    lmms-lab/ChartQA         l4-eval chartqa --data OUT/test.jsonl

Rows keep their order, shards that of their names. Needs pyarrow.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from pathlib import Path

try:
    import pyarrow.parquet as parquet
except ImportError:
    sys.exit("convert_hub.py: pyarrow is not here: pip install pyarrow")

MMLU_PRO = ["question_id", "question", "options", "answer", "answer_index", "cot_content", "category", "src"]
CHARTQA = ["image", "query", "label", "human_or_machine"]
LMMS_CHARTQA = ["image", "question", "answer", "type"]
KINDS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif"}


class Wrong(Exception):
    """One line that names the file."""


def shards_of(folder, split):
    name = re.compile(re.escape(split) + r"(-\d+-of-\d+)?(-[0-9a-f]+)?\.parquet")
    return sorted((path for path in folder.rglob("*.parquet") if name.fullmatch(path.name)), key=lambda path: path.name)


def rows_of(shards, columns):
    for shard in shards:
        try:
            # Few at a time: a row of ChartQA has its picture.
            for batch in parquet.ParquetFile(shard).iter_batches(batch_size=64, columns=columns):
                yield from ((shard, row) for row in batch.to_pylist())
        except (OSError, ValueError) as error:  # pyarrow's errors are among these
            raise Wrong(f"{shard}: {str(error).splitlines()[0]}") from None


def picture_file(picture, folder):
    """The name of the file that has these bytes, which is made where there is none; None where the row has no picture."""
    data = (picture or {}).get("bytes")
    if not data:
        return None
    kind = next((suffix for magic, suffix in KINDS.items() if data.startswith(magic)), ".bin")
    path = folder / "png" / (hashlib.sha256(data).hexdigest()[:20] + kind)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    return f"png/{path.name}"


def chart_line(row, out):
    if "query" in row:
        line = {"query": row["query"], "label": row["label"], "human_or_machine": row["human_or_machine"]}
    else:
        line = {"query": row["question"], "label": row["answer"], "human_or_machine": int(row["type"] != "human_test")}
    if isinstance(line["label"], list):
        line["label"] = line["label"][0] if line["label"] else ""
    return {"image": picture_file(row["image"], out) or "", **line}


def convert(shards, columns, out, split):
    """Writes OUT/SPLIT.jsonl; how many rows it has, and how many of these are without a picture."""
    n = without = 0
    path = out / f"{split}.jsonl"
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("w", encoding="utf-8") as file:
        for _, row in rows_of(shards, columns):
            line = row if columns is MMLU_PRO else chart_line(row, out)
            without += line.get("image") == ""
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            n += 1
    os.replace(unfinished, path)
    return n, without


def columns_of(shard):
    try:
        names = set(parquet.ParquetFile(shard).schema_arrow.names)
    except (OSError, ValueError) as error:
        raise Wrong(f"{shard}: {str(error).splitlines()[0]}") from None
    for columns in (MMLU_PRO, CHARTQA, LMMS_CHARTQA):
        if names >= set(columns):
            return columns
    raise Wrong(f"{shard}: expected the columns of MMLU-Pro or ChartQA, found {', '.join(sorted(names))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("downloaded", type=Path, metavar="DOWNLOADED")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--split", action="append", metavar="NAME", help="default: test, and validation where there is one of MMLU-Pro")
    arguments = parser.parse_args()
    try:
        splits = arguments.split or ["test"]
        found = {split: shards_of(arguments.downloaded, split) for split in splits}
        for split in splits:
            if not found[split]:
                raise Wrong(f"{arguments.downloaded}: expected {split}-*.parquet, found none")
        columns = columns_of(found[splits[0]][0])
        if not arguments.split and columns is MMLU_PRO and shards_of(arguments.downloaded, "validation"):
            found["validation"] = shards_of(arguments.downloaded, "validation")
        arguments.out.mkdir(parents=True, exist_ok=True)
        for split, shards in found.items():
            n, without = convert(shards, columns, arguments.out, split)
            note = f", {without} without a picture, which l4-eval will count" if without else ""
            print(f"{arguments.out / split}.jsonl: {n} questions{note}")
    except (Wrong, OSError) as error:
        print(f"convert_hub.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
