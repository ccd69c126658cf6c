"""Trains the model by a plan: dense stages, warm-up of the indexer, sparse stages.

    train.py --data DIR --plan plans/continue.json --out DIR [--init CHECKPOINT]

DIR holds what prepare_corpus.py made: heldout*.bin for evaluation, all other *.bin for training, tokenizer.json.
Stages are budgeted in seconds of the clock, after compilation, so that a run fits what a GPU costs. The state
is saved every two minutes and after each stage; the same command goes on from there. Each finished stage
leaves its checkpoint in OUT/<stage>, and a log in OUT/log.txt. With --gpus 2 each GPU has batches of its own,
and the gradient is their mean.
"""
import argparse
import dataclasses
import json
import os
import random
import sys
import time

import torch

import checkpoint
import evaluate
from conversations import Corpus, sequence
from model import TINY, Model, Shape, divergence, index_scores, rope_table, rows
from optimizer import Optimizer
from ranks import Ranks, start as start_ranks

READER_PATIENCE = 90  # seconds for a batch; a reader that stands still ends the run instead of the GPU's time


@dataclasses.dataclass(frozen=True)
class Stage:
    name: str
    kind: str            # "dense", "indexer" or "sparse"
    seconds: float
    length: int          # tokens of a sequence
    batch: int           # sequences of a step, on each GPU
    rate: tuple          # learning rate at the start and at the end, of the model (of the indexer in its warm-up)
    text: float = 0.4    # share of plain text
    packed: float = 0.1  # share of sequences of several short conversations
    tail: float | None = None  # share of questions in a conversation; by default less, the longer it is
    probes: int = 64     # queries a sequence whose attention is looked at
    spread: float = 0.0  # weight of the spread loss, summed over layers
    indexer_rate: float = 5e-4  # in a sparse stage

    @staticmethod
    def read(fields: dict, plan: str) -> "Stage":
        unknown = fields.keys() - {f.name for f in dataclasses.fields(Stage)}
        if unknown or fields.get("kind") not in ("dense", "indexer", "sparse"):
            raise SystemExit(f"{plan}: stage {fields.get('name')}: unknown fields {sorted(unknown)} or kind {fields.get('kind')!r}")
        return Stage(**fields)


class Sequences(torch.utils.data.IterableDataset):
    """An endless stream of the stage's sequences, made by the workers."""

    def __init__(self, corpus: Corpus, stage: Stage, seed: str):
        self.corpus, self.stage, self.seed = corpus, stage, seed

    def __iter__(self):
        r = random.Random(f"{self.seed}/{self.stage.name}/{torch.utils.data.get_worker_info().id}")
        while True:
            yield sequence(self.corpus, r, self.stage.length + 1, self.stage.text, self.stage.packed, self.stage.tail)


class Run:
    def __init__(self, args):
        self.args, self.device, self.ranks = args, "cuda" if torch.cuda.is_available() else "cpu", Ranks()
        with open(args.plan) as file:
            self.stages = [Stage.read(s, args.plan) for s in json.load(file)]
        self.tokenizer = os.path.join(args.data, "tokenizer.json")
        self.corpus, self.heldout = (Corpus(paths, self.tokenizer) for paths in evaluate.token_files(args.data))
        os.makedirs(args.out, exist_ok=True)
        self.log = open(os.path.join(args.out, "log.txt"), "a", buffering=1)
        self.done, self.elapsed, self.saved_at = [], 0.0, time.time()

    def say(self, *words):
        if not self.ranks.first:
            return
        line = " ".join(str(w) for w in words)
        print(line, flush=True)
        self.log.write(line + "\n")

    def start(self):
        """Readers first, since they fork; then the model."""
        state_path = os.path.join(self.args.out, "state.pt")
        state = torch.load(state_path, map_location="cpu", weights_only=True) if os.path.exists(state_path) else None
        self.done, self.elapsed = (state["done"], state["elapsed"]) if state else ([], 0.0)
        self.readers = {s.name: self._reader(s) for s in self.stages if s.name not in self.done}
        torch.manual_seed(self.args.seed)
        self.model = Model(TINY if self.args.tiny else Shape())
        if self.args.init:
            checkpoint.load(self.model, self.args.init)
        self.model.to(self.device)
        torch.manual_seed(self.args.seed + self.ranks.rank)  # from here on: which queries are probed
        self.optimizer = Optimizer(self.model.parameters_of(indexer=False), 1e-3)
        self.indexer = [p for _, p in self.model.parameters_of(indexer=True)]
        self.indexer_optimizer = torch.optim.AdamW(self.indexer, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
        if state:
            self.model.load_state_dict(state["model"])
            self.optimizer.load(state["optimizer"])
            self.indexer_optimizer.load_state_dict(state["indexer_optimizer"])
        self.say("parameters", sum(p.numel() for p in self.model.parameters()), "tokens", len(self.corpus.tokens), "device", self.device,
                 "ranks", self.ranks.count, "done", self.done, "elapsed", round(self.elapsed))

    def _reader(self, stage: Stage):
        workers = max(1, min(14, (os.cpu_count() or 2) // self.ranks.count - 2))
        sequences = Sequences(self.corpus, stage, f"{self.args.seed}/{self.ranks.rank}")
        return iter(torch.utils.data.DataLoader(sequences, batch_size=stage.batch, num_workers=workers,
                                                prefetch_factor=3, timeout=READER_PATIENCE))

    def batch(self, stage: Stage):
        """Inputs, targets, weights [B, T] and the probed queries [B, probes]: half anywhere, half near the end, where questions are."""
        ids, weights = next(self.readers[stage.name])
        ids, weights = ids.to(self.device).long(), weights.to(self.device)
        T, half = stage.length, stage.probes // 2
        probe = torch.cat([torch.randint(1, T, (len(ids), half)), torch.randint(T - T // 8, T, (len(ids), stage.probes - half))], 1)
        return ids[:, :-1], ids[:, 1:], weights[:, 1:], probe.to(self.device)

    def save_state(self):
        self.saved_at = time.time()
        if not self.ranks.first:
            return
        path = os.path.join(self.args.out, "state.pt")
        torch.save({"done": self.done, "elapsed": self.elapsed, "model": self.model.state_dict(), "optimizer": self.optimizer.state(),
                    "indexer_optimizer": self.indexer_optimizer.state_dict()}, path + ".partial")
        os.replace(path + ".partial", path)

    def run(self):
        self.start()
        for stage in self.stages:
            if stage.name not in self.done:
                self._stage(stage)
                self.done, self.elapsed = self.done + [stage.name], 0.0
                self.save_state()
                if self.ranks.first:
                    checkpoint.save(self.model, self.args.data, os.path.join(self.args.out, stage.name))
        self.readers.clear()
        self.ranks.leave()
        if self.ranks.first:
            self._evaluate()

    def _evaluate(self):
        torch.compiler.set_stance("force_eager")  # each length would be compiled anew
        for line in evaluate.report(self.model, self.heldout, self.args.lengths, self.args.documents, self.device):
            self.say(line)

    def _stage(self, stage: Stage):
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch._dynamo.reset()
            for block in self.model.blocks:
                block.compile(dynamic=False)
        self.ranks.copy_first([*self.model.parameters(), *self.model.buffers()])
        rope, steps, started, before = rope_table(self.model.s, stage.length, self.device), 0, None, self.elapsed
        step = {"dense": self._model_step, "sparse": self._model_step, "indexer": self._indexer_step}[stage.kind]
        while True:
            if steps == 3:  # the clock starts after compilation
                self._wait()
                started = time.time()
            self.elapsed = self.ranks.agree(before + (time.time() - started if started else 0.0))
            done = self.elapsed / stage.seconds
            if done >= 1:
                break
            rate = stage.rate[0] + (stage.rate[1] - stage.rate[0]) * done
            rate *= min(1.0, (done + 1e-3) / 0.03)
            losses = step(stage, rope, rate)
            steps += 1
            if steps % (5 if self.args.tiny else 25) == 0:
                tokens = self.ranks.count * stage.batch * stage.length * (steps - 3)
                self.say(f"{stage.name} step {steps} done {done:.3f} rate {rate:.2e}", losses(),
                         f"tokens/s {tokens / max(time.time() - (started or time.time()), 1e-3):.0f}")
            if time.time() - self.saved_at > 120:
                self.save_state()
        self.say(f"{stage.name} finished: {steps} steps, {self.ranks.count * steps * stage.batch * stage.length / 1e6:.1f} M tokens")

    def _wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _model_step(self, stage, rope, rate):
        """The language loss trains the model; the divergence, in a sparse stage, the indexer alone."""
        ids, targets, weights, probe = self.batch(stage)
        sparse = stage.kind == "sparse"
        h, spread, wrong = self.model.embed(ids), 0.0, 0.0
        for block in self.model.blocks:
            h, s, w = block(h, rope, probe, sparse)
            spread, wrong = spread + s, wrong + w
        loss = self.model.loss(h, targets, weights)
        (loss + stage.spread * spread + wrong).backward()
        self.ranks.average(self.optimizer.all)
        self.optimizer.step(rate)
        if sparse:
            self._step_indexer(stage.indexer_rate * rate / stage.rate[0])
        self.ranks.add_up(block.load for block in self.model.blocks if not block.dense)
        self.model.balance_experts()
        layers = len(self.model.blocks)
        loss, spread, wrong = loss.detach(), spread.detach(), torch.as_tensor(wrong).detach()
        return lambda: f"loss {loss.item():.4f} kept {torch.exp(-spread / layers).item():.3f} divergence {wrong.item() / layers:.4f}"

    def _indexer_step(self, stage, rope, rate):
        """The model stands still; the indexer learns the dense attention of the probed queries."""
        ids, _, _, probe = self.batch(stage)
        h, wrong, kept = self.model.embed(ids), 0.0, []
        position = torch.arange(stage.length, device=self.device)
        for block in self.model.blocks:
            with torch.no_grad():
                x = block.norm(h, block.input_norm)
                q_latent, q, k, _ = block.heads(x, rope)
                attention = block.attention_of(q, k, probe)
                h = block(h, rope)[0]
            iq, ik, iw = block.indexer(x, q_latent, rope)
            past = position[None, None] <= probe[..., None]
            scores = index_scores(rows(iq, probe), ik, rows(iw, probe))
            wrong = wrong + divergence(attention, scores, past)
            with torch.no_grad():
                best = scores.masked_fill(~past, float("-inf")).topk(min(block.s.index_topk, stage.length), -1).indices
                kept.append(attention.gather(-1, best).sum(-1).mean())
        wrong.backward()
        self._step_indexer(rate)
        return lambda: f"divergence {wrong.detach().item() / len(kept):.4f} kept " + " ".join(f"{m.item():.3f}" for m in kept)

    def _step_indexer(self, rate):
        self.ranks.average(self.indexer)
        for group in self.indexer_optimizer.param_groups:
            group["lr"] = rate
        self.indexer_optimizer.step()
        for p in self.indexer:
            p.grad = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of *.bin, heldout*.bin and tokenizer.json")
    parser.add_argument("--plan", required=True, help="JSON list of stages")
    parser.add_argument("--out", required=True, help="folder of state, checkpoints and log")
    parser.add_argument("--init", help="checkpoint folder to start from; without it, random weights")
    parser.add_argument("--gpus", type=int, default=1, help="processes that train together, one on each GPU of this machine")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="a model of two small layers, to try the recipe on a CPU")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768], help="lengths to evaluate at")
    parser.add_argument("--documents", type=int, default=8, help="documents to evaluate at each length")
    args = parser.parse_args()
    if args.gpus > 1 and "RANK" not in os.environ:
        os.makedirs(args.out, exist_ok=True)
        return start_ranks(args.gpus, os.path.abspath(os.path.join(args.out, "meeting")))
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.cache_size_limit = 64
    Run(args).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
