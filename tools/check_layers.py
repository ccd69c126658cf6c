#!/usr/bin/env python3
"""Checks what the compiler does not: the direction of includes, the comment chain of "One token",
that the library neither prints nor reads the environment, and that files which may be compiled as one
(CMAKE_UNITY_BUILD) have no functions of the same name to themselves, of which the wrong one could be meant.

    tools/check_layers.py [ROOT]      prints file:line: message for each finding; exits 1 if there are any
    tools/check_layers.py --self-test
"""
import pathlib
import re
import sys
import tempfile

# What each folder may include besides itself, winnow/status.h and winnow/types.h.
LAYERS = {
    "base": [],
    "tensor": ["base"],
    "dsa": ["tensor", "base"],
    "backend": ["dsa", "tensor", "base"],
    "cpu": ["backend", "dsa", "tensor", "base"],
    "cuda": ["backend", "dsa", "tensor", "base"],
    "model": ["backend", "dsa", "tensor", "base"],
    "text": ["base"],
    "engine": ["model", "text", "backend", "dsa", "tensor", "base"],
    "eval": ["engine", "model", "text", "backend", "dsa", "tensor", "base"],
    "bench": ["engine", "backend", "tensor", "base"],
    "server": ["base"],
}
VOCABULARY = {"winnow/status.h", "winnow/types.h"}    # headers of include/ that every layer may use
PUBLIC = {"engine", "eval", "bench", "server"}                # folders that may include the rest of include/
COMPOSITION_ROOT = "engine/backends.cc"              # the one file that knows which backends exist
BACKENDS = {"cpu/cpu_backend.h", "cuda/cuda_backend.h"}
LAST_WORDS = "base/status.cc"                         # a failed WINNOW_CHECK says why before it aborts
SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
STEPS = 9

# Compiled file by file (UNITY_BUILD OFF).
APART = ["src/cpu", "src/cpu/dsa", "src/cuda", "src/cuda/dsa", "tests/unit/cuda"]

ANONYMOUS = re.compile(r"namespace \{\n(.*?)\n\}  // namespace\n", re.DOTALL)
FUNCTION = re.compile(r"^(?!return|using|namespace|struct|class|template|TEST|else)[A-Za-z_][\w:<>,&*\s]*?[ *&]([A-Z]\w+)\(",
                      re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
STEP = re.compile(r"^\s*// One token, step (\d+) of (\d+)\. From (.+); next: (.+)\.$")
FORBIDDEN = re.compile(r"\b(getenv|secure_getenv)\b|\bstd::(cout|cerr|clog)\b|(?<![\w:])(?:std::)?"
                       r"(printf|fprintf|puts|fputs|perror|putchar)\s*\(|\b(fmt|std)::print(ln)?\s*\(")


def allowed(folder, file, target):
    """Why `file` of `folder` may not include `target`, or None."""
    top = target.split("/")[0]
    if top == "winnow":
        if folder == "apps" or target in VOCABULARY or folder in PUBLIC:
            return None
        return f"{folder}/ may use {', '.join(sorted(VOCABULARY))} of the public headers only"
    if folder == "apps":
        local = "/" not in target
        return None if local or top == "base" else "apps/ may include winnow/*.h and base/ only"
    if target in BACKENDS and f"{folder}/{file}" == COMPOSITION_ROOT:
        return None
    if top == folder or "/" not in target:
        return None
    if top not in LAYERS:
        return f"'{top}/' is no layer"
    if top not in LAYERS[folder]:
        return f"{folder}/ may not include {top}/ (it may: {', '.join(LAYERS[folder]) or 'nothing'})"
    return None


def strip(line):
    """The line without string literals and line comments."""
    return re.sub(r"//.*", "", re.sub(r'"(\\.|[^"\\])*"', '""', line))


def sources(folder):
    return sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES) if folder.is_dir() else []


def check_names(root):
    """Functions in anonymous namespaces whose names come twice in a folder."""
    findings = []
    folders = {p.parent for place in ("src", "apps", "tests") for p in sources(root / place)}
    for folder in sorted(folders - {root / apart for apart in APART}):
        seen = {}
        for path in sorted(folder.glob("*.cc")):
            text = path.read_text(encoding="utf-8")
            for space in ANONYMOUS.finditer(text):
                for function in FUNCTION.finditer(space[1]):
                    first = seen.setdefault(function[1], path)
                    if first != path:
                        line = text.count("\n", 0, space.start(1) + function.start(1)) + 1
                        findings.append((path.relative_to(root), line,
                                         f"{function[1]} is a function of {first.name}, too: a batch would hold both"))
    return findings


def check(root):
    findings, steps = [], {}
    places = [(p, p.relative_to(root / "src").parts[0]) for p in sources(root / "src")]
    places += [(p, "apps") for p in sources(root / "apps")]
    for path, folder in places:
        name = path.relative_to(root)
        file = "/".join(path.relative_to(root / ("apps" if folder == "apps" else "src")).parts[folder != "apps":])
        if folder != "apps" and folder not in LAYERS:
            findings.append((name, 1, f"src/{folder}/ is no layer; add it to tools/check_layers.py or move the file"))
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if m := INCLUDE.match(line):
                if reason := allowed(folder, file, m[1]):
                    findings.append((name, number, f'includes "{m[1]}": {reason}'))
            if folder != "apps" and f"{folder}/{file}" != LAST_WORDS and (m := FORBIDDEN.search(strip(line))):
                findings.append((name, number, f"'{m[0].strip()}': the library neither prints nor reads the environment"))
            if "One token, step" in line:
                if m := STEP.match(line):
                    steps.setdefault(int(m[1]), []).append((name, number, int(m[2]), m[3], m[4]))
                else:
                    findings.append((name, number, 'not of the form "// One token, step N of M. From …; next: ….": ' + line.strip()))
    return findings + check_chain(root, steps) + check_names(root)


def named_file(text):
    """The file that a "From …" or "next: …" names, if it names one."""
    m = re.search(r"[\w./]+\.(?:h|cc|cu|cuh)\b", text)
    return m[0] if m else None


def check_chain(root, steps):
    if not steps:
        return []
    findings = []
    first = steps[min(steps)][0]
    for missing in sorted(set(range(min(steps), STEPS + 1)) - set(steps)):
        findings.append((first[0], first[1], f"One token: no line for step {missing} of {STEPS}"))
    for number, lines in sorted(steps.items()):
        for name, line, total, origin, onward in lines:
            if total != STEPS:
                findings.append((name, line, f"One token: says {total} steps, expected {STEPS}"))
            for text in (origin, onward):
                file = named_file(text)
                if file and not any(str(p).endswith("/" + file) for p in sources(root / "src") + sources(root / "apps")):
                    findings.append((name, line, f"One token: names {file}, which does not exist"))
        onward = {named_file(o[4]) for o in lines}
        if number + 1 in steps and None not in onward:
            if not any(str(f[0]).endswith("/" + file) for f in steps[number + 1] for file in onward):
                findings.append((lines[0][0], lines[0][1], f"One token: step {number} leads to {', '.join(sorted(onward))}, "
                                 f"but step {number + 1} stands in {', '.join(str(f[0]) for f in steps[number + 1])}"))
    return findings


def self_test():
    cases = [  # files, and a word that a finding must contain (None: no finding)
        ({"src/tensor/a.cc": '#include "base/check.h"\n#include "tensor/a.h"\n'}, None),
        ({"src/base/a.cc": '#include "tensor/a.h"\n'}, "base/ may not include tensor/"),
        ({"src/text/a.cc": '#include "model/a.h"\n'}, "text/ may not include model/"),
        ({"src/cpu/dsa/a.cc": '#include "cuda/a.h"\n'}, "cpu/ may not include cuda/"),
        ({"src/engine/backends.cc": '#include "cpu/cpu_backend.h"\n'}, None),
        ({"src/engine/other.cc": '#include "cpu/cpu_backend.h"\n'}, "engine/ may not include cpu/"),
        ({"src/model/a.cc": '#include "winnow/winnow.h"\n'}, "public headers"),
        ({"apps/a.cc": '#include "winnow/winnow.h"\n#include "base/text.h"\n#include "options.h"\n'}, None),
        ({"apps/a.cc": '#include "engine/engine.h"\n'}, "apps/ may include"),
        ({"src/misc/a.cc": ""}, "no layer"),
        ({"apps/a.cc": "namespace {\nint Fa() {}\n}  // namespace\n",
          "apps/b.cc": "namespace {\nint Go(int Fa) {}\n}  // namespace\nint Fa() {}\n"}, None),
        ({"apps/a.cc": "namespace {\nint Fa() {}\n}  // namespace\n",
          "apps/b.cc": "namespace {\nint* Fa(int) {}\n}  // namespace\n"}, "Fa is a function of a.cc"),
        ({"src/base/a.cc": 'const char* s = "getenv"; // printf(x)\nauto n = snprintf(b, 9, "x");\n'}, None),
        ({"src/base/a.cc": '  std::printf("x");\n'}, "neither prints"),
        ({"src/base/a.cc": "  auto* home = getenv(name);\n"}, "neither prints"),
        ({"src/base/a.cc": "// One token, step 2 of 9\n"}, "not of the form"),
        ({"src/base/a.cc": "".join(f"// One token, step {i} of 9. From there; next: a.cc.\n" for i in range(1, 10))}, None),
        ({"src/base/a.cc": "".join(f"// One token, step {i} of 9. From there; next: a.cc.\n" for i in (1, 2, 3, 4, 5, 6, 7, 9))},
         "no line for step 8"),
        ({"src/base/a.cc": "".join(f"// One token, step {i} of 9. From there; next: gone.cc.\n" for i in range(1, 10))},
         "does not exist"),
        ({"src/base/a.cc": "".join(f"// One token, step {i} of 9. From there; next: a.cc.\n" for i in (1, 2)),
          "src/base/b.cc": "".join(f"// One token, step {i} of 9. From there; next: b.cc.\n" for i in range(3, 10))},
         "step 2 leads to a.cc"),
    ]
    for number, (files, word) in enumerate(cases):
        with tempfile.TemporaryDirectory() as temporary:
            for name, text in files.items():
                path = pathlib.Path(temporary) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            findings = check(pathlib.Path(temporary))
        text = "\n".join(message for _, _, message in findings)
        if (word is None and findings) or (word is not None and word not in text):
            sys.exit(f"self-test {number}: expected {word!r}, found {text!r}")
    print(f"check_layers: {len(cases)} self-tests passed")


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        self_test()
    else:
        top = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent).resolve()
        found = check(top)
        for name, line, message in found:
            print(f"{name}:{line}: {message}")
        sys.exit(1 if found else 0)
