#!/usr/bin/env python3
"""Writes src/text/unicode_ranges.h from Python's unicodedata.

The splits of tokenizers ask for general categories as Hugging Face tokenizers sees them. Its regular
expressions (Oniguruma, as of tokenizers 0.23) follow Unicode 16.0.0; so must the Python that runs this
(3.14): python3.14 tools/make_unicode_tables.py > src/text/unicode_ranges.h
"""

import sys
import unicodedata

VERSION = "16.0.0"
SPACES = set(range(0x09, 0x0E)) | {0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
                                   0x202F, 0x205F, 0x3000}  # White_Space


def char_class(code_point):
    if code_point in SPACES:
        return " "
    major = unicodedata.category(chr(code_point))[0]
    return major if major in "LMNPS" else "-"


def main():
    if unicodedata.unidata_version != VERSION:
        sys.exit(f"this Python knows Unicode {unicodedata.unidata_version}, {VERSION} is needed")
    runs = []
    for code_point in range(0x110000):
        name = char_class(code_point)
        if not runs or runs[-1][1] != name:
            runs.append((code_point, name))
    print(f"// Classes of characters in Unicode {VERSION}: where each run of one class begins, and the first")
    print("// letter of its general categories, ' ' for white space, '-' for the rest. Written by")
    print("// tools/make_unicode_tables.py; not to be edited.")
    print("#pragma once\n\n#include <cstdint>\n\nnamespace winnow {\n")
    print("struct UnicodeRun {\n  uint32_t first;\n  char char_class;\n};\n")
    print("// clang-format off\ninline constexpr UnicodeRun kUnicodeRuns[] = {")
    line = "   "
    for first, name in runs:
        item = f" {{0x{first:X}, '{name}'}},"
        if len(line) + len(item) > 100:
            print(line)
            line = "   "
        line += item
    print(line + "\n};\n// clang-format on\n\n}  // namespace winnow")


main()
