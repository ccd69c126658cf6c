#!/usr/bin/env python3
"""Compares two runs of `winnow bench kernels --json`, kernel by kernel.

    tools/compare_bench.py BEFORE.jsonl AFTER.jsonl [--only TEXT]

Prints how many times as fast the second run is, and the range of that which the spread of both runs
allows: from p10 of the one over p90 of the other to the reverse. A kernel is called faster or slower only
where the ranges from p10 to p90 do not overlap and the medians differ by more than 3 %. Machines that
differ are named, and so are ceilings that moved. Exits 2 when a file is no such run.
"""
import argparse
import json
import sys

LEAST_DIFFERENCE = 0.03
NEEDED = ("microseconds", "microseconds_p10", "microseconds_p90")


def complain(message):
    print(f"compare_bench: {message}", file=sys.stderr)
    sys.exit(2)


def read(path):
    """The objects of a run by name, in their order: kernels, and ceilings (roof/…)."""
    kernels, roofs = {}, {}
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        complain(f"{path}: {error}")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name = entry["name"]
            target, fields = (roofs, ("before", "after")) if name.startswith("roof/") else (kernels, NEEDED)
            if not all(entry[field] > 0 for field in fields):
                raise ValueError("a number that is not positive")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            complain(f"{path}:{number}: not a line of winnow bench kernels --json ({error})")
        if name in target:
            complain(f"{path}:{number}: {name} a second time; one run a file")
        target[name] = entry
    if not kernels:
        complain(f"{path}: no kernel in it")
    return kernels, roofs


def judge(before, after):
    """(times as fast, lowest, highest, verdict)"""
    ratio = before["microseconds"] / after["microseconds"]
    lowest = before["microseconds_p10"] / after["microseconds_p90"]
    highest = before["microseconds_p90"] / after["microseconds_p10"]
    apart = lowest > 1 or highest < 1
    difference = abs(after["microseconds"] / before["microseconds"] - 1)
    if not apart or difference <= LEAST_DIFFERENCE:
        return ratio, lowest, highest, "no difference shown"
    return ratio, lowest, highest, "faster" if ratio > 1 else "slower"


def describe(entries, field):
    return ", ".join(sorted({str(entry.get(field, "unknown")) for entry in entries.values()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    options = parser.parse_args()
    (before, before_roofs), (after, after_roofs) = read(options.before), read(options.after)

    for field in ("machine", "backend"):
        one, other = describe(before, field), describe(after, field)
        print(f"{field}: {one}" if one == other else f"{field}: {one} against {other}: they differ")
    for name in before_roofs:
        if name not in after_roofs:
            continue
        ranges = [sorted((run[name]["before"], run[name]["after"])) for run in (before_roofs, after_roofs)]
        moved = "" if ranges[0][0] <= ranges[1][1] and ranges[1][0] <= ranges[0][1] else "  it moved"
        print(f"{name}: " + " against ".join(f"{low / 1e9:.1f} to {high / 1e9:.1f} G" for low, high in ranges) + moved)

    print(f"\n{'kernel':<40} {'us before':>11} {'us after':>11} {'times as fast':>13} {'range':>13}")
    counts = {"faster": 0, "slower": 0, "no difference shown": 0}
    for name in before:
        if name not in after or options.only not in name:
            continue
        ratio, lowest, highest, verdict = judge(before[name], after[name])
        counts[verdict] += 1
        print(f"{name:<40} {before[name]['microseconds']:>11.1f} {after[name]['microseconds']:>11.1f} "
              f"{ratio:>13.2f} {f'{lowest:.2f}-{highest:.2f}':>13}  {verdict}")
    print("\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    for names, other, path in ((before, after, options.before), (after, before, options.after)):
        missing = [name for name in names if name not in other and options.only in name]
        if missing:
            print(f"only in {path}: {', '.join(missing)}")


if __name__ == "__main__":
    main()
