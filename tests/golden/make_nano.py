#!/usr/bin/env python3
"""Makes tests/golden/winnow-nano: what transformers computes from models/winnow-nano's stored weights.

    tests/golden/make_nano.py     from the root of the repository; needs what make_cases.py needs, and tokenizers

The prompt is the beginning of examples/zenda.txt with a question about a fact in it, in the model's chat
format. There are no weights here: "model" in case.json leads to them.
"""
import json
import os
import sys

sys.dont_write_bytecode = True  # every folder here is a case

import tokenizers
import torch
import transformers
from safetensors.torch import save_file

import make_cases

MODEL, OUT = "models/winnow-nano", "tests/golden/winnow-nano"
DOCUMENT_TOKENS = 1000
QUESTION = "What is the door code of the Dublin library?"
GREEDY = 6


def main():
    make_cases.RECORDER.install()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = tokenizers.Tokenizer.from_file(f"{MODEL}/tokenizer.json")
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    with open("examples/zenda.txt") as f:
        document = encode(f.read())[:DOCUMENT_TOKENS]
    ids = [tokenizer.token_to_id(x) for x in ("<｜begin▁of▁sentence｜>", "<｜User｜>")] + document
    ids += encode("\n\n" + QUESTION) + [tokenizer.token_to_id(x) for x in ("<｜Assistant｜>", "</think>")]
    positions = [0, 255, 256, 400, 700, 900, len(ids) - 1]
    expected, margins = make_cases.reference(MODEL, torch.tensor(ids), positions, GREEDY)
    os.makedirs(OUT, exist_ok=True)
    save_file(expected, f"{OUT}/expected.safetensors", metadata={"format": "pt"})
    with open(f"{OUT}/case.json", "w") as f:
        json.dump({"name": "winnow-nano", "about": "a text with a fact and a question about it", "model": f"../../../{MODEL}",
                   "stored": "fp8", "prompt_tokens": len(ids), "greedy_tokens": GREEDY, **margins,
                   "answer": tokenizer.decode(expected["greedy_ids"].tolist()),
                   "transformers": transformers.__version__, "torch": torch.__version__,
                   "computed": "float32 on the CPU from the stored weights, eager attention",
                   "ties": "higher score first, then lower position"}, f, indent=1)
        f.write("\n")
    print(open(f"{OUT}/case.json").read(), os.path.getsize(f"{OUT}/expected.safetensors"))


if __name__ == "__main__":
    main()
