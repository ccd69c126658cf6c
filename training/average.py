"""Averages the weights of two checkpoints of one lineage: average.py A B OUT [--share 0.5]

What a short run on new data gains and what it forgets lie on a line between its two ends, and a point in
between often has most of both (Wortsman et al. 2022, "Model soups"). --share is the part of B, which
gives the types; A may be quantized.
"""
import argparse
import os
import shutil
import sys

from safetensors.torch import load_file, save_file

from checkpoint import decoded


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("out")
    parser.add_argument("--share", type=float, default=0.5)
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        parser.error(f"--share {args.share}: expected a number from 0 to 1")
    first, second = (decoded(load_file(os.path.join(folder, "model.safetensors"))) for folder in (args.a, args.b))
    if {n: t.shape for n, t in first.items()} != {n: t.shape for n, t in second.items()}:
        parser.error(f"{args.a} and {args.b} have different tensors")
    os.makedirs(args.out, exist_ok=True)
    mixed = {n: ((1 - args.share) * t.float() + args.share * second[n].float()).to(second[n].dtype) for n, t in first.items()}
    save_file(mixed, os.path.join(args.out, "model.safetensors"), metadata={"format": "pt"})
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(args.b, name), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
