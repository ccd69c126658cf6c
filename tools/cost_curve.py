#!/usr/bin/env python3
"""What a million tokens of a deep model cost, from the steps of shallow ones.

    tools/cost_curve.py STEPS.csv [--layers 61] [--price 2] [--csv OUT] [--svg OUT]

STEPS.csv is what bench/step_costs prints for the same model with two numbers of layers. The time of
a layer is their difference, the rest of a step what is left; a step of --layers layers is EXTRAPOLATED
from that. --price is in dollars an hour of the machine. Prints a table for docs/benchmarks.md.
"""
import argparse
import csv
import math
from xml.sax.saxutils import escape


def read(path):
    """{(attention, phase, context, tokens): {layers: milliseconds}}"""
    steps = {}
    with open(path) as file:
        for row in csv.reader(file):
            if len(row) != 7:
                continue
            attention, layers, phase, context, tokens, median, _ = row
            steps.setdefault((attention, phase, int(context), int(tokens)), {})[int(layers)] = \
                float(median)
    return steps


def costs(steps, layers, price):
    """{(phase, tokens): {context: {attention: (of a layer, of the step, dollars)}}}"""
    result = {}
    for (attention, phase, context, tokens), times in sorted(steps.items()):
        if len(times) != 2:
            continue
        (few, few_ms), (many, many_ms) = sorted(times.items())
        of_layer = (many_ms - few_ms) / (many - few)
        step = few_ms + (layers - few) * of_layer
        dollars = step / 1000 / 3600 * price / tokens * 1e6
        result.setdefault((phase, tokens), {}).setdefault(context, {})[attention] = \
            (of_layer, step, dollars)
    return result


def table(curves, layers):
    print(f"| | context | layer, sparse, ms | dense | {layers} layers, sparse, $ a million | dense | ratio |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for (phase, tokens), contexts in curves.items():
        for context, of in contexts.items():
            if len(of) != 2:
                continue
            sparse, dense = of["sparse"], of["dense"]
            print(f"| {phase}, {tokens:,} | {context // 1024}K | {sparse[0]:.2f} | {dense[0]:.2f} | "
                  f"{sparse[2]:.3f} | {dense[2]:.3f} | {dense[2] / sparse[2]:.1f} |")


def plot(curves, layers, title):
    """Dollars by context, one panel a phase and number of tokens."""
    width, height, margin = 360, 260, 50
    panels = list(curves.items())
    columns = 2
    rows = (len(panels) + 1) // columns
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * width}" '
           f'height="{rows * height + 30}" font-family="sans-serif" font-size="11">',
           f'<rect width="100%" height="100%" fill="white"/><text x="10" y="18" font-size="13">'
           f'{escape(title)}</text>']
    for index, ((phase, tokens), contexts) in enumerate(panels):
        left, top = index % columns * width, index // columns * height + 30
        values = [of[2] for c in contexts.values() for of in c.values()]
        low, high = math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1
        first, last = math.log2(min(contexts)), math.log2(max(contexts))

        def at(context, value):
            x = left + margin + (math.log2(context) - first) / max(last - first, 1) * (width - 80)
            y = top + height - 40 - (math.log10(value) - low) / (high - low) * (height - 70)
            return x, y
        name = "one token of each of {:,} sequences" if phase != "prefill" else "{:,} tokens of a prompt"
        out.append(f'<text x="{left + margin}" y="{top + 12}">{phase}: '
                   f'{escape(name.format(tokens))}</text>')
        for context in contexts:
            x, _ = at(context, values[0])
            out.append(f'<text x="{x:.0f}" y="{top + height - 22}" text-anchor="middle">'
                       f'{context // 1024}K</text>')
        for attention, color in (("sparse", "#1f6fb4"), ("dense", "#c44e2b")):
            points = [at(c, of[attention][2]) for c, of in contexts.items() if attention in of]
            if not points:
                continue
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
            for (x, y), (_, of) in zip(points, contexts.items()):
                out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>')
            end = [of[attention][2] for of in contexts.values() if attention in of]
            for (x, y), value in ((points[0], end[0]), (points[-1], end[-1])):
                out.append(f'<text x="{x:.0f}" y="{y - 6:.0f}" text-anchor="middle" fill="{color}">'
                           f'${value:.3g}</text>')
        out.append(f'<text x="{left + margin}" y="{top + height - 6}" fill="#555">context; dollars a '
                   f'million tokens, extrapolated to {layers} layers</text>')
    return "\n".join(out) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps")
    parser.add_argument("--layers", type=int, default=61)
    parser.add_argument("--price", type=float, default=2.0)
    parser.add_argument("--csv")
    parser.add_argument("--svg")
    parser.add_argument("--title", default="Sparse (blue) and dense (red) attention")
    args = parser.parse_args()
    curves = costs(read(args.steps), args.layers, args.price)
    table(curves, args.layers)
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["phase", "tokens", "context", "attention", "layer_ms", "step_ms_extrapolated",
                          "dollars_per_million_extrapolated"])
            for (phase, tokens), contexts in curves.items():
                for context, of in contexts.items():
                    for attention, numbers in of.items():
                        out.writerow([phase, tokens, context, attention] +
                                     [f"{n:.4f}" for n in numbers])
    if args.svg:
        with open(args.svg, "w") as file:
            file.write(plot(curves, args.layers, args.title))


if __name__ == "__main__":
    main()
