"""Scores model outputs on the held-out items of make_eval_sets.py.

    python score.py ITEMS.jsonl OUTPUTS.jsonl

OUTPUTS has one line per item: {"id": ..., "output": the assistant's text, without special tokens}. Rules:
  number    the last number in the output equals the answer
  letter    the letter after the last "answer is"
  chart     ChartQA's relaxed accuracy on what follows the last "answer:" (or the last "="): numbers within 5 %, else equal but for case
  list      same items in the same order, whatever separates them
  text      equal but for case, white space and a full stop at the end
  exact     equal but for white space at the ends
  contains  the answer occurs in the output, whatever its case
  one_of    equal to one of the answers, which "|" separates
"""

import json
import re
import sys


def final_part(output):
    if "answer:" in output.lower():
        output = output[output.lower().rindex("answer:") + 7:]
    elif "=" in output:
        output = output[output.rindex("=") + 1:]
    return output.strip().rstrip(".").strip("*_ ")


def number(text):
    try:
        return float(text.replace(",", "").replace("$", "").rstrip("%"))
    except ValueError:
        return None


def plain(text):
    return " ".join(text.lower().split()).rstrip(".")


def correct(rule, output, answer):
    if rule == "number":
        found = re.findall(r"-?\d+(?:\.\d+)?", output.replace(",", ""))
        return bool(found) and float(found[-1]) == float(answer)
    if rule == "letter":
        found = re.findall(r"answer is \(?([A-J])\)?", output)
        return bool(found) and found[-1] == answer
    if rule == "chart":
        said = final_part(output)
        a, b = number(said), number(answer)
        if a is not None and b is not None:
            return abs(a - b) <= 0.05 * abs(b)
        return said.lower() == answer.lower()
    if rule == "chart_exact":
        return final_part(output).lower() == answer.lower()
    if rule == "list":
        return re.split(r"[,\s]+", output.strip().rstrip(".")) == re.split(r"[,\s]+", answer)
    if rule == "text":
        return plain(output) == plain(answer)
    if rule == "exact":
        return output.strip() == answer.strip()
    if rule == "contains":
        return answer.lower() in output.lower()
    if rule == "one_of":
        return output.strip() in answer.split("|")
    raise ValueError(rule)


def score(items, outputs):
    """-> {task: (right, total)}; charts get a second line with exact instead of relaxed comparison"""
    table = {}
    for item in items:
        output = outputs.get(item["id"], "")
        checks = [(item["task"], item["rule"])]
        if item["rule"] == "chart":
            checks.append((item["task"] + " (exact)", "chart_exact"))
        for name, rule in checks:
            right, total = table.get(name, (0, 0))
            table[name] = right + correct(rule, output, item["answer"]), total + 1
    return table


def read_jsonl(path):
    with open(path) as f:
        return [json.loads(line) for line in f if line.strip()]


def print_table(table):
    for name, (right, total) in table.items():
        print(f"{name:22s} {right:4d} of {total:4d}  {100 * right / total:6.1f} %")


def main():
    items = read_jsonl(sys.argv[1])
    outputs = {o["id"]: o["output"] for o in read_jsonl(sys.argv[2])}
    missing = sum(i["id"] not in outputs for i in items)
    if missing:
        print(f"{missing} items have no output and count as wrong")
    print_table(score(items, outputs))


if __name__ == "__main__":
    main()
