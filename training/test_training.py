"""Tests of the recipe on a CPU: the documents it makes, and a run through every kind of stage.

Needs PyTorch, tokenizers and safetensors; without them it exits with 77, which CTest counts as skipped.

    python3 training/test_training.py
"""
import json
import os
import random
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "..", "models", "winnow-nano")
TEXT = os.path.join(HERE, "..", "examples", "zenda.txt")
try:
    import numpy as np
    import safetensors.torch  # noqa: F401
    import torch
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)
sys.path.insert(0, HERE)
try:
    import checkpoint
    import clauses
    import conversations
    import facts
    import mentions
    import model as training_model
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


def write_tokens(folder: str) -> None:
    tokenizer = conversations.Tokenizer.from_file(os.path.join(MODEL, "tokenizer.json"))
    with open(TEXT, encoding="utf-8") as file:
        ids = [0] + tokenizer.encode(file.read(), add_special_tokens=False).ids
    os.makedirs(folder, exist_ok=True)
    for name, part in (("train.bin", ids[:16000]), ("heldout.bin", ids[16000:])):
        np.array(part, dtype=np.uint16).tofile(os.path.join(folder, name))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        os.symlink(os.path.join(os.path.abspath(MODEL), name), os.path.join(folder, name))


class Conversations(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        write_tokens(cls.folder.name)
        cls.corpus = conversations.Corpus([os.path.join(cls.folder.name, "train.bin")], os.path.join(cls.folder.name, "tokenizer.json"))

    def made(self, seed, length):
        return conversations.conversation(self.corpus, random.Random(seed), length)

    def test_has_exactly_the_length_asked_for(self):
        for seed, length in enumerate((256, 700, 1024, 3000, 8192)):
            ids, weights, spans = self.made(seed, length)
            self.assertEqual((len(ids), len(weights)), (length, length))
            self.assertTrue(all(start < end <= length for _, start, end, _ in spans))

    def test_every_answer_but_a_count_or_an_absent_one_stands_in_the_document(self):
        checked = 0
        for seed in range(12):
            ids, _, spans = self.made(seed, 3000)
            text = " ".join(self.corpus.decode(ids[:spans[0][1]]).split())
            for kind, start, end, _ in spans:
                answer = self.corpus.decode(ids[start:end - 1])
                if kind in ("fact", "chain", "list", "section"):
                    self.assertIn(answer, text, kind)
                    checked += 1
                if kind == "absent":
                    self.assertEqual(answer, conversations.ABSENT)
                if kind == "count":
                    self.assertIn(answer, "2 3 4 5 6 7")
        self.assertGreater(checked, 50)

    def test_a_quotation_goes_on_where_its_cue_ends(self):
        checked = 0
        for seed in range(8):
            ids, _, spans = self.made(seed, 3000)
            document = " ".join(self.corpus.decode(ids[:spans[0][1] - 2]).split())
            for kind, start, end, _ in spans:
                if kind == "quote":
                    answer = " ".join(self.corpus.decode(ids[start:end - 1]).split())
                    self.assertIn(answer, document)
                    checked += 1
        self.assertGreater(checked, 5)

    def test_what_is_called_absent_is_not_stated(self):
        for seed in range(200):
            world = facts.World(random.Random(seed), 20)
            who, attribute = world.missing()
            self.assertFalse(any(f.subject == who and f.attribute.name == attribute.name for f in world.facts))

    def test_a_world_comes_to_an_end_where_every_like_name_is_taken(self):
        with unittest.mock.patch.object(facts, "neighbour", lambda r, who: who):
            for seed in range(20):
                world = facts.World(random.Random(seed), 40)
                self.assertGreaterEqual(len(world.facts), 40)

    def test_a_near_miss_differs_from_a_subject_by_one_word(self):
        for seed in range(300):
            r = random.Random(seed)
            who = facts.subject(r, r.choice(["site", "person", "object", "vessel"]))
            other = facts.neighbour(r, who)
            words = [w for w in other.split() if w not in who.split()]
            self.assertLessEqual(len(words), 2, (who, other))  # a reading room is two

    def test_a_clause_states_what_it_asks_for(self):
        for seed in range(600):
            r = random.Random(seed)
            family = r.choice(["person", "thing"])
            attribute = r.choice(clauses.PERSON_FORMS if family == "person" else clauses.THING_FORMS)(r)
            who = facts.subject(r, family)
            fact = facts.Fact(who, family, attribute, attribute.value(r) if attribute.value else facts.person(r))
            for template in attribute.statements:
                self.assertEqual(template.count("{v}"), 1, template)
            self.assertIn(fact.value, fact.statement(r))
            self.assertIn(who, fact.question(r))

    def test_a_fork_is_where_equal_tokens_go_on_differently(self):
        r = random.Random(4)
        for length in (1, 2, 3, 60):
            ids = [r.randrange(3) for _ in range(length)]
            for n in (1, 2, 3):
                expected = [i for i in range(n, length) if any(
                    ids[j - n:j] == ids[i - n:i] and ids[j] != ids[i] for j in range(n, length))]
                self.assertEqual(conversations.forks(np.array(ids, dtype=np.uint16), n).tolist(), expected)

    def test_splicing_adds_phrases_and_takes_nothing_away(self):
        document = conversations.Document.__new__(conversations.Document)
        document.corpus, document.r = self.corpus, random.Random(5)
        body = self.corpus.body(random.Random(6), 3000)
        spliced = document._spliced(body, 4.0)
        self.assertGreater(len(spliced), len(body) + 12)
        rest = iter(spliced.tolist())
        self.assertTrue(all(token in rest for token in body.tolist()))  # in this order

    def test_mentions_state_no_fact(self):
        for seed in range(200):
            r = random.Random(seed)
            world = facts.World(r, 12)
            text = mentions.hint(r, world) or mentions.mention(r, world)
            self.assertFalse(any(f.subject in text and f.attribute.name in text and f.value in text for f in world.facts), text)


class Training(unittest.TestCase):
    def run_plan(self, data, out, *more):
        command = [sys.executable, os.path.join(HERE, "train.py"), "--data", data, "--out", out, "--tiny",
                   "--plan", os.path.join(HERE, "plans", "tiny.json"), "--lengths", "512", "--documents", "1", *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=900)

    def test_goes_through_all_stages_and_knows_that_it_did(self):
        with tempfile.TemporaryDirectory() as folder:
            write_tokens(data := os.path.join(folder, "data"))
            out = os.path.join(folder, "out")
            first = self.run_plan(data, out)
            self.assertEqual(first.returncode, 0, first.stderr)
            again = self.run_plan(data, out)
            self.assertEqual(again.returncode, 0, again.stderr)
            self.assertIn("done ['dense', 'indexer', 'sparse']", again.stdout)
            with open(os.path.join(out, "sparse", "config.json")) as file:
                self.assertEqual(json.load(file)["model_type"], "deepseek_v32")
            restored = training_model.Model(training_model.TINY)
            checkpoint.load(restored, os.path.join(out, "sparse"))
            before = training_model.Model(training_model.TINY)
            checkpoint.load(before, os.path.join(out, "dense"))
            changed = [n for (n, a), (_, b) in zip(restored.named_parameters(), before.named_parameters()) if not torch.equal(a, b)]
            self.assertTrue(any("indexer" in n for n in changed) and any("indexer" not in n for n in changed))

    def test_two_processes_train_one_model(self):
        with tempfile.TemporaryDirectory() as folder:
            write_tokens(data := os.path.join(folder, "data"))
            done = self.run_plan(data, os.path.join(folder, "out"), "--gpus", "2")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("ranks 2", done.stdout)
            self.assertEqual(done.stdout.count("sparse finished"), 1)

    def test_reads_the_quantized_checkpoint_that_is_shipped(self):
        full = training_model.Model(training_model.Shape())
        checkpoint.load(full, MODEL)
        stored = safetensors.torch.load_file(os.path.join(MODEL, "model.safetensors"))
        name = "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"  # 576 rows: its last block is cut off
        for row, column in ((0, 0), (130, 5), (575, 383)):
            code, factor = stored[name][row, column].float(), stored[name + "_scale_inv"][row // 128, column // 128].float()
            self.assertEqual(full.blocks[1].kv_a[row, column].item(), (code * factor).item())

    def test_says_what_is_missing(self):
        with tempfile.TemporaryDirectory() as folder:
            done = self.run_plan(folder, os.path.join(folder, "out"))
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("expected heldout*.bin", done.stderr)


class Selection(unittest.TestCase):
    def test_keeps_the_best_keys_of_the_past(self):
        torch.manual_seed(3)
        s = training_model.TINY
        q, k, w = torch.randn(1, 40, s.index_n_heads, s.index_head_dim), torch.randn(1, 40, s.index_head_dim), torch.randn(1, 40, s.index_n_heads)
        mask = training_model.selection_mask(s, q, k, w, chunk=16)
        for t in range(40):
            scores = [sum(float(w[0, t, h]) * max(float(q[0, t, h] @ k[0, j]), 0.0) for h in range(s.index_n_heads)) for j in range(t + 1)]
            kept = mask[0, t].nonzero().flatten().tolist()
            self.assertTrue(all(j <= t for j in kept))
            best = sorted(scores, reverse=True)[:s.index_topk]
            np.testing.assert_allclose(sorted((scores[j] for j in kept), reverse=True), best, atol=1e-4)


if __name__ == "__main__":
    unittest.main(verbosity=2)
