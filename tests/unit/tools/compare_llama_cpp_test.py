"""tools/compare_llama_cpp.py with programs that only pretend: python3 compare_llama_cpp_test.py path/to/the/source"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(sys.argv.pop(1))

# Does a test only when it is told to go on, as the real one does during its delay; writes down each test.
LLAMA = """
import json, os, pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])
arguments = sys.argv[2:]
if "--version" in arguments:
    print("version: 9.9 (made up)")
    sys.exit()
def of(name): return arguments[arguments.index(name) + 1]
prompts, decodes = of("-p").split(","), of("-n").split(",")
rates = {"prefill": [100.0, 50.0], "decode": [10.0, 30.0]}
tests = [("prefill", n) for n in prompts] + [("decode", n) for n in decodes]
for number, (test, tokens) in enumerate(tests):
    if number:
        signal.sigwait([signal.SIGCONT])
    if os.path.exists("fail"):
        sys.exit("out of memory")
    with open("log", "a") as log:
        log.write(f"llama {test} {tokens} at {of('-d')}\\n")
    print(json.dumps({"n_prompt": int(tokens) if test == "prefill" else 0, "n_gen": 0, "n_depth": int(of("-d")),
                      "avg_ts": rates[test].pop(0), "model_type": "made up", "n_batch": 1, "n_ubatch": 1,
                      "flash_attn": 0}), flush=True)
signal.sigwait([signal.SIGCONT])
"""
WINNOW = """#!%s
import json, os, sys
frontiers = ",".join(sys.argv[sys.argv.index("--at") + 1:sys.argv.index("--decode")]).split(",")
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "log"), "a") as log:
    log.write(f"winnow {' '.join(frontiers)}\\n")
for frontier in frontiers:
    print(json.dumps({"name": f"context/s{frontier}/sparse", "prefill_tokens_per_second": float(frontier),
                      "decode_tokens_per_second": 40.0}))
"""


class CompareLlamaCpp(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "model").mkdir()
        (self.folder / "model/model.safetensors").touch()
        (self.folder / "nano.gguf").touch()
        (self.folder / "llama.py").write_text(LLAMA)
        (self.folder / "winnow").write_text(WINNOW % sys.executable)
        (self.folder / "winnow").chmod(0o755)

    def compare(self, *options):
        return subprocess.run([sys.executable, "-B", str(SOURCE / "tools/compare_llama_cpp.py"),
                               str(self.folder / "model"), str(self.folder / "nano.gguf"),
                               "--llama", f"{sys.executable} llama.py", "--winnow", str(self.folder / "winnow"),
                               "--rounds", "2", "--json", str(self.folder / "out.json"), *options],
                              capture_output=True, text=True, timeout=300)

    def test_takes_turns_and_compares_the_same_work(self):
        run = self.compare("--depths", "0,100", "--prefill", "60", "--decode", "5")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual((self.folder / "log").read_text().splitlines(), [
            "llama prefill 60 at 0", "winnow 60", "llama prefill 60 at 0", "winnow 60",
            "llama decode 5 at 0", "winnow 1", "llama decode 5 at 0", "winnow 1",
            "llama prefill 60 at 100", "winnow 100 160", "llama prefill 60 at 100", "winnow 100 160",
            "llama decode 5 at 100", "winnow 100", "llama decode 5 at 100", "winnow 100"])
        written = json.loads((self.folder / "out.json").read_text())
        self.assertIn("9.9", written["about"]["llama.cpp"])
        self.assertEqual(len(written["runs"]), 16)
        rows = {(row["test"], row["depth"]): row for row in written["results"]}
        self.assertEqual(rows["prefill", 100]["llama.cpp"], {"median": 75.0, "low": 50.0, "high": 100.0})
        self.assertEqual(rows["prefill", 100]["winnow"]["median"], 160.0)
        self.assertEqual(rows["decode", 0]["ratio"], {"median": 2.0, "low": 40 / 30, "high": 4.0})
        self.assertIn("| 100 | 160 (160–160) | 75 (50–100) | 2.13 (1.60–3.20) |", run.stdout)

    def test_says_why_llama_bench_ended(self):
        (self.folder / "fail").touch()
        run = self.compare("--depths", "0")
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("out of memory", run.stderr)

    def test_refuses_a_conversion_older_than_the_weights(self):
        os.utime(self.folder / "nano.gguf", (1, 1))
        run = self.compare("--depths", "0")
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("older than the weights", run.stderr)


if __name__ == "__main__":
    unittest.main()
