#!/usr/bin/env python3
"""Asks the questions of a document one after another in one chat and counts the right answers by kind.

    examples/ask.py examples/saltmarsh.txt examples/saltmarsh_questions.json [--winnow build/cpu/winnow] [--model DIR]

Right is an answer that is the expected one (a quotation: one that begins with it), line breaks and spaces aside.
Needs the standard library only.
"""
import argparse
import collections
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def words(text):
    return " ".join(text.split())


def begins(lines, expected):
    """How many of `lines` it takes for `expected` to be their beginning; 0 if it is not."""
    for count in range(1, min(len(lines), 8) + 1):
        text = words(" ".join(lines[:count]))
        if text.startswith(expected):
            return count
        if not expected.startswith(text):
            return 0
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document")
    parser.add_argument("questions")
    parser.add_argument("--winnow", default=str(ROOT / "build/cpu/winnow"))
    parser.add_argument("--model", default=str(ROOT / "models/winnow-nano"))
    args = parser.parse_args()
    with open(args.questions, encoding="utf-8") as file:
        questions = json.load(file)["questions"]
    run = subprocess.run([args.winnow, "chat", args.model, "--document", args.document, "--temperature", "0"],
                         input="".join(q["question"] + "\n" for q in questions), capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    lines, right, asked = run.stdout.split("\n"), collections.Counter(), collections.Counter()
    for question in questions:
        kind, expected = question.get("kind", "fact"), words(question["answer"])
        asked[kind] += 1
        taken = begins(lines, expected)
        whole = taken and (kind == "quote" or words(" ".join(lines[:taken])) == expected)
        right[kind] += bool(whole)
        if not whole:
            print(f"{kind}: {question['question']} expected {expected!r}, got {lines[0]!r}")
        lines = lines[max(1, taken):]
    print("\n" + ", ".join(f"{kind} {right[kind]} of {asked[kind]}" for kind in asked))
    return 0


if __name__ == "__main__":
    sys.exit(main())
