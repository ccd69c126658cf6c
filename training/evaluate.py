"""What a trained model can do on documents it has not seen, dense and sparse, on the GPU.

    evaluate.py CHECKPOINT --data DIR [--lengths 2048 8192 …] [--documents 8]

An answer counts if every token of it, and the end after it, is the most probable one: the same as asking
for it greedily. `winnow eval` asks the same of the shipped model in its own engine.
"""
import argparse
import collections
import math
import os
import random
import time

import torch
import torch.nn.functional as F

import checkpoint
from conversations import Corpus, conversation
from model import Model, Shape, index_scores, linear, rope_table, rows


def token_files(folder):
    """Paths of the tokens to train on and of those held out."""
    names = sorted(n for n in os.listdir(folder) if n.endswith(".bin"))
    held_out = [n for n in names if n.startswith("heldout")]
    train = [n for n in names if n not in held_out]
    if not held_out or not train:
        raise SystemExit(f"{folder}: holds {names}, expected heldout*.bin and other *.bin files of tokens; prepare_corpus.py makes them")
    return [os.path.join(folder, n) for n in train], [os.path.join(folder, n) for n in held_out]


@torch.no_grad()
def exam(model, corpus, length, documents, sparse, device, seed=7):
    """kind -> [right, asked], and (depth in tenths, kind) -> [right, asked]."""
    r, rope = random.Random(seed), rope_table(model.s, length, device)
    kinds, depths = collections.defaultdict(lambda: [0, 0]), collections.defaultdict(lambda: [0, 0])
    for _ in range(documents):
        ids, _, spans = conversation(corpus, r, length)
        x = torch.tensor([ids], device=device)
        h = model.hidden(x, rope, sparse)
        for kind, start, end, depth in spans:
            end = min(end, start + 20) if kind == "quote" else end  # where a quotation stops is taste
            right = bool((linear(h[0, start - 1:end - 1], model.head).argmax(-1) == x[0, start:end]).all())
            for count in [kinds[kind]] + ([depths[int(depth * 10), kind]] if depth is not None else []):
                count[0] += right
                count[1] += 1
    return kinds, depths


@torch.no_grad()
def perplexity(model, corpus, length, documents, sparse, device, seed=11):
    """Over the second half of each window, where the context is longest."""
    r, rope, total = random.Random(seed), rope_table(model.s, length, device), 0.0
    for _ in range(documents):
        x = torch.tensor(corpus.window(r, length + 1).astype("int64"), device=device)[None]
        h = model.hidden(x[:, :-1], rope, sparse)
        total += F.cross_entropy(linear(h[0, length // 2:], model.head).float(), x[0, length // 2 + 1:]).item()
    return math.exp(total / documents)


@torch.no_grad()
def mass_kept(model, corpus, length, documents, device, probes=256, seed=13):
    """By layer: the share of the dense attention that the indexer's selection keeps, on the sparse run's states."""
    r, rope, kept = random.Random(seed), rope_table(model.s, length, device), []
    position = torch.arange(length, device=device)
    for _ in range(documents):
        x = torch.tensor([conversation(corpus, r, length)[0]], device=device)
        probe = torch.randint(model.s.index_topk, length, (1, probes), device=device)
        h, layers = model.embed(x), []
        for block in model.blocks:
            y = block.norm(h, block.input_norm)
            q_latent, q, k, _ = block.heads(y, rope)
            attention = block.attention_of(q, k, probe)
            iq, ik, iw = block.indexer(y, q_latent, rope)
            scores = index_scores(rows(iq, probe), ik, rows(iw, probe)).masked_fill(position[None, None] > probe[..., None], float("-inf"))
            layers.append(attention.gather(-1, scores.topk(model.s.index_topk, -1).indices).sum(-1).mean().item())
            h = block(h, rope, None, True)[0]
        kept.append(layers)
    return [sum(layer) / len(layer) for layer in zip(*kept)]


def report(model, corpus, lengths, documents, device):
    """Lines of text, one evaluation each."""
    model.eval()
    for length in lengths:
        for sparse in (False, True):
            started, name = time.time(), "sparse" if sparse else "dense"
            kinds, depths = exam(model, corpus, length, documents, sparse, device)
            scores = " ".join(f"{k} {kinds[k][0]}/{kinds[k][1]}" for k in sorted(kinds))
            yield f"eval {length} {name}: {scores} | perplexity {perplexity(model, corpus, length, documents, sparse, device):.3f} | {time.time() - started:.1f} s"
            for kind in ("fact", "quote"):
                yield f"eval {length} {name} {kind} by depth: " + " ".join(f"{depths[d, kind][0]}/{depths[d, kind][1]}" for d in range(10))
        if length > model.s.index_topk:
            layers = mass_kept(model, corpus, length, max(1, documents // 4), device)
            yield f"eval {length} mass kept: mean {sum(layers) / len(layers):.3f} | " + " ".join(f"{m:.3f}" for m in layers)
    model.train()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True, help="folder of *.bin, heldout*.bin and tokenizer.json")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--documents", type=int, default=8)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Model(Shape())
    checkpoint.load(model, args.checkpoint)
    corpus = Corpus(token_files(args.data)[1], os.path.join(args.data, "tokenizer.json"))
    for line in report(model.to(device), corpus, args.lengths, args.documents, device):
        print(line, flush=True)


if __name__ == "__main__":
    main()
