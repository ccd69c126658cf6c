"""What tools/compare_bench.py says of made-up runs: python3 compare_bench_test.py path/to/compare_bench.py"""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = sys.argv.pop(1)


def kernel(name, median, p10, p90, machine="one"):
    return {"name": name, "microseconds": median, "microseconds_p10": p10, "microseconds_p90": p90,
            "machine": machine, "backend": "cpu"}


def roof(name, before, after):
    return {"name": name, "before": before, "after": after}


class CompareBench(unittest.TestCase):
    def compare(self, before, after, *options):
        with tempfile.TemporaryDirectory() as folder:
            paths = [pathlib.Path(folder, "before"), pathlib.Path(folder, "after")]
            for path, lines in zip(paths, (before, after)):
                path.write_text(lines if isinstance(lines, str) else "".join(json.dumps(x) + "\n" for x in lines))
            return subprocess.run([sys.executable, "-B", SCRIPT, *map(str, paths), *options],
                                  capture_output=True, text=True)

    def line(self, before, after):
        run = self.compare([kernel("k", *before)], [kernel("k", *after)])
        self.assertEqual(run.returncode, 0, run.stderr)
        return next(line for line in run.stdout.splitlines() if line.startswith("k "))

    def test_says_faster_where_the_ranges_lie_apart(self):
        line = self.line((100, 90, 110), (50, 45, 55))
        self.assertTrue(line.endswith("  faster"), line)
        self.assertIn(" 2.00 ", line)
        self.assertIn("1.64-2.44", line)  # 90 / 55 and 110 / 45

    def test_says_slower_the_other_way_round(self):
        line = self.line((50, 45, 55), (100, 90, 110))
        self.assertTrue(line.endswith("  slower"), line)
        self.assertIn(" 0.50 ", line)

    def test_shows_no_difference_where_the_ranges_overlap(self):
        self.assertTrue(self.line((100, 60, 110), (65, 61, 70)).endswith("no difference shown"))
        self.assertTrue(self.line((65, 61, 70), (100, 69, 110)).endswith("no difference shown"))

    def test_shows_no_difference_below_three_percent(self):
        self.assertTrue(self.line((100, 99.9, 100.1), (97.2, 97.1, 97.3)).endswith("no difference shown"))
        self.assertTrue(self.line((100, 99.9, 100.1), (96.8, 96.7, 96.9)).endswith("faster"))
        self.assertTrue(self.line((100, 99.9, 100.1), (102.9, 102.8, 103.0)).endswith("no difference shown"))
        self.assertTrue(self.line((100, 99.9, 100.1), (103.2, 103.1, 103.3)).endswith("slower"))

    def test_finds_no_difference_between_a_run_and_itself(self):
        run = [kernel("a", 10, 9, 11), kernel("b", 5, 5, 5)]
        self.assertIn("0 faster, 0 slower, 2 no difference shown", self.compare(run, run).stdout)

    def test_names_what_only_one_run_has(self):
        out = self.compare([kernel("a", 1, 1, 1), kernel("b", 1, 1, 1)], [kernel("a", 1, 1, 1)]).stdout
        self.assertRegex(out, r"only in .*before: b\n")

    def test_looks_at_the_named_kernels_only(self):
        run = [kernel("v32/a", 1, 1, 1), kernel("nano/a", 1, 1, 1)]
        self.assertNotIn("v32/a", self.compare(run, run, "--only", "nano").stdout)

    def test_says_when_machines_or_ceilings_differ(self):
        out = self.compare([roof("roof/f32", 100e9, 99e9), roof("roof/int8", 9e9, 8e9), kernel("a", 1, 1, 1)],
                           [roof("roof/f32", 120e9, 121e9), roof("roof/int8", 8.5e9, 9e9),
                            kernel("a", 1, 1, 1, "two")]).stdout
        self.assertIn("machine: one against two: they differ", out)
        self.assertIn("roof/f32: 99.0 to 100.0 G against 120.0 to 121.0 G  it moved", out)
        self.assertIn("roof/int8: 8.0 to 9.0 G against 8.5 to 9.0 G\n", out)

    def test_refuses_what_is_no_run(self):
        good = [kernel("a", 1, 1, 1)]
        for bad in ("", "not json\n", "[]\n", '{"name": "a"}\n', '{"name": 3}\n',
                    [kernel("a", 1, 1, 1)] * 2, [kernel("a", 0, 0, 0)], [kernel("a", "1", 1, 1)]):
            run = self.compare(good, bad)
            self.assertEqual(run.returncode, 2, bad)
            self.assertIn("compare_bench: ", run.stderr)
            self.assertNotIn("Traceback", run.stderr)


if __name__ == "__main__":
    unittest.main()
