#!/usr/bin/env python3
"""What the short number formats cost, measured on a text.

Runs `winnow logits` over the first tokens of a text with one format changed at a time and compares with the run
in which everything is f32: perplexity, Kullback-Leibler divergence of the next-token distributions, and, for each
layer, the share of the f32 selection that is kept (over tokens with more context than index_topk; what a layer
selects also depends on what the layers below it read). Needs python3-numpy.

    tools/measure_numerics.py build/cpu/winnow models/winnow-nano examples/zenda.txt --tokens 8192
    tools/measure_numerics.py build/cpu/winnow models/winnow-nano examples/zenda.txt --reference CHECKPOINT

With --reference, the model is also compared with another checkpoint of itself, such as the one it was quantized
from.
"""

import argparse
import json
import os
import struct
import subprocess
import tempfile

import numpy

EXACT = {"--precision": "f32", "--kv-cache": "f32", "--index-keys": "f32"}
RUNS = [
    ("everything f32", {}),
    ("index keys bf16", {"--index-keys": "bf16"}),
    ("index keys e4m3", {"--index-keys": "e4m3"}),
    ("index keys int8", {"--index-keys": "int8"}),
    ("latent cache bf16", {"--kv-cache": "bf16"}),
    ("latent cache fp8", {"--kv-cache": "fp8"}),
    ("products bf16", {"--precision": "bf16"}),
    ("weights int8", {"--weights": "int8"}),
    ("weights int4", {"--weights": "int4"}),
    ("defaults of generate", {"--precision": "bf16", "--kv-cache": "bf16", "--index-keys": "int8"}),
    ("of the official formats", {"--precision": "bf16", "--kv-cache": "fp8", "--index-keys": "e4m3"}),
    ("dense attention", {"--attention": "dense"}),
]


def read(path):
    """The tensors of a safetensors file, mapped."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
    types = {"F32": numpy.float32, "I32": numpy.int32}
    return {name: numpy.memmap(path, types[entry["dtype"]], "r", 8 + length + entry["data_offsets"][0],
                               tuple(entry["shape"]))
            for name, entry in header.items() if name != "__metadata__"}


def run(winnow, model, tokens, changes, out):
    options = [word for pair in {**EXACT, **changes}.items() for word in pair]
    selection = [] if changes.get("--attention") == "dense" else ["--selection"]
    subprocess.run([winnow, "logits", model, "--tokens", tokens, "--out", out, *selection, *options], check=True)
    return read(out)


def log_probabilities(logits):
    logits = logits.astype(numpy.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - numpy.log(numpy.exp(logits).sum(axis=1, keepdims=True))


def compare(found, reference, ids):
    """Perplexity of `found`, and its divergence from `reference`."""
    loss, divergence = 0.0, 0.0
    for first in range(0, len(ids), 256):
        rows = slice(first, first + 256)
        p = log_probabilities(reference["logits"][rows])
        q = log_probabilities(found["logits"][rows])
        divergence += float((numpy.exp(p) * (p - q)).sum())
        following = ids[first + 1:first + 257]
        loss -= float(q[numpy.arange(len(following)), following].sum())
    return numpy.exp(loss / (len(ids) - 1)), divergence / len(ids)


def recall(found, reference):
    """Of each layer: the share of the reference's positions that `found` selects too."""
    shares = {}
    for name in (name for name in reference if name.startswith("selected.") and name in found):
        topk = reference[name].shape[1]
        kept = [numpy.intersect1d(a, b, assume_unique=True).size / topk
                for a, b in zip(found[name][topk:], reference[name][topk:])]
        shares[int(name.split(".")[1])] = float(numpy.mean(kept))
    return shares


def report(label, found, reference, ids):
    perplexity, divergence = compare(found, reference, ids)
    shares = recall(found, reference)
    mean = f"{numpy.mean(list(shares.values())):.4f}" if shares else "-"
    layers = " ".join(f"{shares[layer]:.3f}" for layer in sorted(shares))
    print(f"{label:<28} {perplexity:>10.4f} {divergence:>11.2e} {mean:>8}  {layers}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("winnow")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--reference", metavar="CHECKPOINT")
    options = parser.parse_args()
    printed = subprocess.run([options.winnow, "tokenize", options.model, "--prompt-file", options.text],
                             check=True, capture_output=True, text=True).stdout
    ids = json.loads(printed)[:options.tokens]
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "ids.json")
        with open(tokens, "w") as file:
            json.dump(ids, file)
        exact, other = os.path.join(folder, "exact"), os.path.join(folder, "other")
        print(f"{options.model} on {len(ids)} tokens of {options.text}")
        print(f"{'':<28} {'perplexity':>10} {'divergence':>11} {'recall':>8}  recall by layer")
        ids = numpy.array(ids)
        reference = run(options.winnow, options.model, tokens, {}, exact)
        for label, changes in RUNS:
            report(label, run(options.winnow, options.model, tokens, changes, other) if changes else reference,
                   reference, ids)
        if options.reference:
            print(f"\nthe same beside {os.path.basename(options.reference.rstrip('/'))}, everything f32")
            original = run(options.winnow, options.reference, tokens, {}, other)
            report("reference", original, original, ids)
            report("model", reference, original, ids)


if __name__ == "__main__":
    main()
