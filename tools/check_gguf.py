#!/usr/bin/env python3
"""Whether llama.cpp, given the GGUF that tools/to_gguf.py made of a model, computes what Winnow computes.

    tools/check_gguf.py MODEL_DIR MODEL.gguf --text FILE [--lengths 200,2000,8000] [--llama 'COMMAND PREFIX']

Starts llama-server, and compares on the first tokens of the text, for each length:
  tokens      the ids of the whole text, and that special tokens read as such
  greedy      a continuation of --count tokens: how many of its first tokens are the same
  forced      the --count predictions before the cut, each given the text: KL divergence of llama.cpp's
              distribution from Winnow's over the whole vocabulary, both perplexities, equal first choices
Every forced comparison is made with Winnow's sparse and its dense attention: where the length exceeds
index_topk, a llama.cpp that selects as the model says is near to the first and far from the second, and one that
runs the GGUF of `to_gguf.py --dense` the other way round; the greedy continuation is sparse in any case.

--llama is put before llama-server, for one that runs elsewhere than here; it is started in the folder of the
GGUF, is given a name without a path, and must be able to listen on 127.0.0.1. Caches: --llama-options and
--winnow-options, f16 and bf16 by default. Exits 1 if tokens differ.
"""

import argparse
import array
import json
import math
import os
import pathlib
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request


def complain(message):
    sys.exit(f"check_gguf: {message}")


class Server:
    """llama-server while the block lasts."""

    def __init__(self, options, context):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.log = tempfile.TemporaryFile("w+")
        command = [*shlex.split(options.llama), "llama-server", "-m", options.gguf.name, "-c", str(context), "-np", "1",
                   "-t", str(options.threads), "--host", "127.0.0.1", "--port", str(port),
                   *shlex.split(options.llama_options)]
        self.process = subprocess.Popen(command, cwd=options.gguf.resolve().parent, stdout=self.log,
                                        stderr=subprocess.STDOUT, start_new_session=True)

    def __enter__(self):
        for _ in range(600):
            if self.process.poll() is not None:
                self.log.seek(0)
                complain(f"llama-server ended with {self.process.returncode}:\n{self.log.read()[-2000:]}")
            try:
                with urllib.request.urlopen(self.address + "/health") as answer:
                    if answer.status == 200:
                        return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        self.__exit__()
        complain("llama-server did not become ready in two minutes")

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait()

    def post(self, path, body):
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def complete(self, ids, count, **more):
        return self.post("/completion", {"prompt": ids, "n_predict": count, "temperature": 0, "cache_prompt": True,
                                         "return_tokens": True, "ignore_eos": True, **more})

    def log_probabilities(self, ids, vocabulary):
        """of every token after ids"""
        answer = self.complete(ids, 1, n_probs=vocabulary)["completion_probabilities"][0]
        result = [-math.inf] * vocabulary
        for entry in answer["top_logprobs"]:
            result[entry["id"]] = entry["logprob"]
        return result


class Winnow:
    def __init__(self, options):
        self.options = options

    def run(self, command, *arguments):
        numbers = [] if command == "tokenize" else ["--threads", str(self.options.threads),
                                                    *shlex.split(self.options.winnow_options)]
        done = subprocess.run([self.options.winnow, command, str(self.options.model), *arguments, *numbers],
                              capture_output=True, text=True)
        if done.returncode:
            complain(f"winnow {command}: {done.stderr.strip()}")
        return done.stdout

    def tokenize(self, text, *arguments):
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            return json.loads(self.run("tokenize", "--prompt-file", file.name, *arguments))

    def generate(self, text, count):
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            answer = json.loads(self.run("generate", "--prompt-file", file.name, "--temperature", "0", "--max-tokens",
                                         str(count), "--json"))
        return answer["receipt"]["prompt_tokens"], answer["token_ids"]

    def log_probabilities(self, ids, count, attention):
        """count rows of every token: after each of the last prefixes, the whole of ids the last"""
        with tempfile.TemporaryDirectory() as folder:
            tokens, out = pathlib.Path(folder, "ids.json"), pathlib.Path(folder, "logits.safetensors")
            tokens.write_text(json.dumps(ids))
            self.run("logits", "--tokens", str(tokens), "--out", str(out), "--attention", attention)
            with open(out, "rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                entry = json.loads(file.read(header_bytes))["logits"]
                vocabulary = entry["shape"][1]
                file.seek(8 + header_bytes + entry["data_offsets"][0] + (len(ids) - count) * vocabulary * 4)
                logits = array.array("f", file.read(count * vocabulary * 4))
        return [log_softmax(logits[row * vocabulary:(row + 1) * vocabulary]) for row in range(count)]


def log_softmax(logits):
    largest = max(logits)
    total = largest + math.log(math.fsum(math.exp(logit - largest) for logit in logits))
    return [logit - total for logit in logits]


def divergence(reference, other):
    """KL of other from reference; what a side gives no probability counts nothing"""
    return math.fsum(math.exp(one) * (one - two) for one, two in zip(reference, other)
                     if math.isfinite(one) and math.isfinite(two))


def perplexity(rows, targets):
    return math.exp(-statistics.fmean(row[target] for row, target in zip(rows, targets)))


def first_choice(row):
    return max(range(len(row)), key=row.__getitem__)


def same_tokens(server, winnow, text):
    """Ids of the text; exits where the two differ."""
    theirs = server.post("/tokenize", {"content": text, "parse_special": False})["tokens"]
    ours = winnow.tokenize(text)
    if theirs != ours:
        place = next((i for i, pair in enumerate(zip(theirs, ours)) if pair[0] != pair[1]), min(len(theirs), len(ours)))
        complain(f"token {place} differs: llama.cpp {theirs[place:place + 5]}, winnow {ours[place:place + 5]}")
    marked = "<｜User｜>" + text[:200] + "<｜Assistant｜></think>"
    theirs = server.post("/tokenize", {"content": marked, "parse_special": True})["tokens"]
    if theirs != winnow.tokenize(marked, "--special-tokens"):
        complain("special tokens are read differently")
    return ours


def check_length(server, winnow, ids, count):
    text = server.post("/detokenize", {"tokens": ids})["content"]
    answer = server.complete(ids, count)["tokens"]
    prompt_tokens, ours = winnow.generate(text, count)
    if prompt_tokens != len(ids):
        complain(f"the text of {len(ids)} tokens has {prompt_tokens} when read alone; choose another length")
    same = next((i for i, pair in enumerate(zip(answer, ours)) if pair[0] != pair[1]), count)
    print(f"\n{len(ids)} tokens\n  greedy: {same} of {count} tokens the same")

    modes = {mode: winnow.log_probabilities(ids[:-1], count, mode) for mode in ("sparse", "dense")}
    start = len(ids) - count
    theirs = [server.log_probabilities(ids[:end], len(modes["sparse"][0])) for end in range(start, len(ids))]
    for mode, ours in modes.items():
        kl = list(map(divergence, ours, theirs))
        same = sum(first_choice(one) == first_choice(two) for one, two in zip(ours, theirs))
        print(f"  forced, winnow {mode}: KL mean {statistics.fmean(kl):.2e} largest {max(kl):.2e}; perplexity "
              f"llama.cpp {perplexity(theirs, ids[start:]):.4f}, winnow {perplexity(ours, ids[start:]):.4f}; "
              f"first choice the same {same} of {count}")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("gguf", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--lengths", default="200,2000,8000", help="tokens of the text, comma separated")
    parser.add_argument("--count", type=int, default=64, help="tokens compared at each length")
    parser.add_argument("--llama", default="", help="a command prefix for llama-server")
    parser.add_argument("--llama-options", default="-ctk f16 -ctv f16")
    parser.add_argument("--winnow", default="build/cpu/winnow")
    parser.add_argument("--winnow-options", default="--kv-cache bf16 --index-keys bf16")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.gguf.stat().st_mtime < max(path.stat().st_mtime for path in options.model.glob("*.safetensors")):
        complain(f"{options.gguf} is older than the weights in {options.model}; make it again")
    lengths = [int(length) for length in options.lengths.split(",")]

    text = options.text.read_text(encoding="utf-8")
    winnow = Winnow(options)
    with Server(options, max(lengths) + options.count + 64) as server:
        ids = same_tokens(server, winnow, text)
        print(f"tokens: the same, {len(ids)} of {options.text}, special tokens too")
        for length in lengths:
            if not options.count < length <= len(ids):
                complain(f"length {length}: expected more than {options.count} and at most {len(ids)}")
            check_length(server, winnow, ids[:length], options.count)


if __name__ == "__main__":
    main()
