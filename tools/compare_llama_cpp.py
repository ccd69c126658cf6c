#!/usr/bin/env python3
"""Speed of Winnow beside llama.cpp on one model, in turn in one run: prefill and decode at growing depth.

    tools/to_gguf.py models/winnow-nano winnow-nano.gguf
    tools/check_gguf.py models/winnow-nano winnow-nano.gguf --text examples/saltmarsh.txt
    tools/compare_llama_cpp.py models/winnow-nano winnow-nano.gguf [--llama 'COMMAND PREFIX'] [--json FILE]

At each depth, after as many tokens are in the cache: prefill of --prefill tokens, and decode of --decode
tokens one by one. Both sides read random tokens, keep 16-bit caches (llama.cpp f16, its default; Winnow bf16; both
for latent rows and index keys) and use --threads threads. llama.cpp computes with the bf16 weights of the GGUF,
Winnow with the same values as the folder stores them.

llama.cpp: llama-bench -p 512,512,512 -n 32,32,32 -d DEPTH -r 1; it fills the cache once and restores it for
each test. Between two tests it pauses (--delay 2), is stopped by a signal, and Winnow runs: A B A B ….
Winnow: `winnow bench context --at DEPTH,DEPTH+512` for prefill, `--at DEPTH --decode 33` for decode, of which
its sparse numbers are taken; it fills the cache anew for each. At depth 0 its decode starts after one token.
A test's result is the median of its rounds; ranges are from the slowest to the fastest round, and those of
a ratio from the worst to the best case of both.

Before each test, with both standing still, the load that others put on the machine is measured for half
a second; numbers are worth little where it is not near 0.
"""

import argparse
import json
import os
import pathlib
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time

BUSY = 0.1  # cores used by others from which a run is called disturbed


def complain(message):
    sys.exit(f"compare_llama_cpp: {message}")


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def busy_cores(seconds=0.5):
    """How many cores were at work, on average."""
    def ticks():
        fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields) - fields[3] - fields[4]
    before, start = ticks(), time.monotonic()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - start)


def run_winnow(options, frontiers, decode):
    """name -> object, of the lines that bench context prints"""
    command = [options.winnow, "bench", "context", str(options.model), "--at", ",".join(map(str, frontiers)),
               "--decode", str(decode), "--threads", str(options.threads), "--json",
               *shlex.split(options.winnow_options)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        complain(f"{shlex.join(command)}: {done.stderr.strip()}")
    return {entry["name"]: entry for entry in map(json.loads, done.stdout.splitlines())}


def winnow_test(options, test, depth):
    """tokens a second"""
    if test == "prefill":
        last = depth + options.prefill
        lines = run_winnow(options, [depth, last] if depth else [last], 2)
    else:
        last = max(depth, 1)
        lines = run_winnow(options, [last], options.decode + 1)  # the first comes from the prefill
    return lines[f"context/s{last}/sparse"][f"{test}_tokens_per_second"]


class LlamaBench:
    """llama-bench at one depth, standing still but while next() waits for its next test."""

    def __init__(self, options, depth):
        rounds = options.rounds
        self.command = [*shlex.split(options.llama), "llama-bench", "-m", options.gguf.name,
                        "-p", ",".join([str(options.prefill)] * rounds), "-n", ",".join([str(options.decode)] * rounds),
                        "-d", str(depth), "-r", "1", "-t", str(options.threads), "--delay", "2", "-o", "jsonl",
                        *shlex.split(options.llama_options)]
        self.process = subprocess.Popen(self.command, cwd=options.gguf.resolve().parent, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        self.stop()

    def stop(self):
        os.killpg(self.process.pid, signal.SIGSTOP)

    def next(self):
        os.killpg(self.process.pid, signal.SIGCONT)
        line = self.process.stdout.readline()
        if not line:
            complain(f"{shlex.join(self.command)} ended: {self.process.stderr.read()[-2000:]}")
        self.stop()
        return json.loads(line)

    def close(self):
        os.killpg(self.process.pid, signal.SIGCONT)
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.communicate()


def measure_depth(options, depth, runs):
    """Appends a run to runs for each test of each side."""
    bench = LlamaBench(options, depth)
    try:
        for test in ["prefill"] * options.rounds + ["decode"] * options.rounds:
            for side in ("llama.cpp", "winnow"):
                others = busy_cores()
                entry = {"side": side, "test": test, "depth": depth, "others": round(others, 2)}
                if side == "winnow":
                    entry["tokens_per_second"] = winnow_test(options, test, depth)
                else:
                    entry["llama_bench"] = line = bench.next()
                    if (line["n_prompt"] > 0) != (test == "prefill") or line["n_depth"] != depth:
                        complain(f"llama-bench ran another test than expected: {line}")
                    entry["tokens_per_second"] = line["avg_ts"]
                runs.append(entry)
                print(f"  {test} at {depth}, {side}: {entry['tokens_per_second']:.1f} tokens a second"
                      f" (others use {others:.2f} cores)", file=sys.stderr, flush=True)
    finally:
        bench.close()


def summarize(runs):
    """One object for each test and depth, in the order of the runs."""
    rows = []
    for test, depth in dict.fromkeys((run["test"], run["depth"]) for run in runs):
        here = [run for run in runs if (run["test"], run["depth"]) == (test, depth)]
        sides = {}
        for side in ("winnow", "llama.cpp"):
            rates = [run["tokens_per_second"] for run in here if run["side"] == side]
            sides[side] = {"median": statistics.median(rates), "low": min(rates), "high": max(rates)}
        ours, theirs = sides["winnow"], sides["llama.cpp"]
        rows.append({"test": test, "depth": depth, **sides,
                     "ratio": {"median": ours["median"] / theirs["median"], "low": ours["low"] / theirs["high"],
                               "high": ours["high"] / theirs["low"]},
                     "others": max(run["others"] for run in here)})
    return rows


def print_table(rows):
    def cell(entry, digits):
        return f"{entry['median']:,.{digits}f} ({entry['low']:,.{digits}f}–{entry['high']:,.{digits}f})"
    for test in ("prefill", "decode"):
        print(f"\n| depth | {test}, winnow | llama.cpp | ratio | others |\n|--:|--:|--:|--:|--:|")
        for row in rows:
            if row["test"] == test:
                print(f"| {row['depth']:,} | {cell(row['winnow'], 0)} | {cell(row['llama.cpp'], 0)} | "
                      f"{cell(row['ratio'], 2)} | {row['others']:.2f} |")


def version_line(command, cwd):
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "version" in line.lower()]
    return lines[0] if lines else "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="a folder in the Hugging Face layout")
    parser.add_argument("gguf", type=pathlib.Path, help="what tools/to_gguf.py made of it")
    parser.add_argument("--depths", default="0,2048,8192,16384,30720")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prefill", type=int, default=512, help="tokens")
    parser.add_argument("--decode", type=int, default=32, help="tokens")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--llama", default="", help="a command prefix; llama-bench is started in the folder of the "
                        "GGUF and given a name without a path")
    parser.add_argument("--llama-options", default="-ctk f16 -ctv f16", help="of llama-bench")
    parser.add_argument("--winnow", default="build/cpu/winnow")
    parser.add_argument("--winnow-options", default="--attention sparse --kv-cache bf16 --index-keys bf16",
                        help="of winnow bench context")
    parser.add_argument("--json", type=pathlib.Path, help="write everything measured")
    options = parser.parse_args()
    if options.gguf.stat().st_mtime < max(path.stat().st_mtime for path in options.model.glob("*.safetensors")):
        complain(f"{options.gguf} is older than the weights in {options.model}; make it again")

    runs = []
    for depth in map(int, options.depths.split(",")):
        measure_depth(options, depth, runs)
    lines = [run["llama_bench"] for run in runs if "llama_bench" in run]
    rows = summarize(runs)
    about = {
        "machine": machine(), "date": time.strftime("%Y-%m-%d"), "threads": options.threads, "rounds": options.rounds,
        "model": str(options.model), "gguf": f"{options.gguf.name} ({lines[0]['model_type']})",
        "llama.cpp": version_line([*shlex.split(options.llama), "llama-bench", "--version"],
                                  options.gguf.resolve().parent),
        "llama.cpp options": f"{options.llama_options} (batch {lines[0]['n_batch']}, micro-batch "
                             f"{lines[0]['n_ubatch']}, flash attention {lines[0]['flash_attn']})",
        "winnow options": options.winnow_options,
        "prefill": f"{options.prefill} tokens", "decode": f"{options.decode} tokens"}
    for name, value in about.items():
        print(f"{name}: {value}")
    print_table(rows)
    print("\nTokens a second: median (slowest–fastest). others: cores used by other processes, at most.")
    if max(row["others"] for row in rows) > BUSY:
        print("The machine was busy with other things: these numbers are not to be quoted.")
    if options.json:
        options.json.write_text(json.dumps({"about": about, "results": rows, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
