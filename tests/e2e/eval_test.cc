// `winnow eval` on the shipped model and short texts. No expectation depends on what the model
// knows.
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "base/json.h"
#include "cli.h"
#include "model/safetensors.h"

namespace winnow {
namespace {

class Eval : public Cli {
 protected:
  // The first `lines` lines of the novel, in a file.
  std::string Text(int lines) const {
    std::istringstream file(Slurp(kRoot + "/examples/zenda.txt"));
    std::string text;
    std::string line;
    for (int number = 0; number < lines && std::getline(file, line); ++number) text += line + "\n";
    return Write("text.txt", text);
  }
  // The names in the test's folder, but for those of the streams.
  std::set<std::string> Files() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      const std::string name = entry.path().filename();
      if (!name.starts_with("std")) names.insert(name);
    }
    return names;
  }
  json::object Parsed(const std::string& path) const {
    const auto value = ParseJson(Slurp(path), path);
    EXPECT_TRUE(value.ok()) << value.status().ToString();
    return value.ok() ? value->as_object() : json::object();
  }
  void ExpectSvg(const std::string& path) const {
    const std::string svg = Slurp(path);
    EXPECT_EQ(svg.rfind("<svg xmlns=", 0), 0u);
    EXPECT_EQ(svg.substr(svg.size() - 7), "</svg>\n");
  }
};

const std::string kNeedles = " --needles " + kRoot + "/examples/needles.json";

// -ln p of each token but the first, from logits that `winnow logits` wrote.
std::vector<double> LossesOf(const std::string& file, const std::vector<int32_t>& tokens) {
  const TensorDirectory directory = TensorDirectory::Open(file).value();
  const StoredTensor* logits = directory.Find("logits");
  const size_t vocab = static_cast<size_t>(logits->shape[1]);
  std::vector<float> row(vocab);
  std::vector<double> losses;
  for (size_t token = 0; token + 1 < tokens.size(); ++token) {
    std::memcpy(row.data(), logits->data + token * vocab * sizeof(float), vocab * sizeof(float));
    double sum = 0;
    for (const float logit : row) sum += std::exp(static_cast<double>(logit));
    losses.push_back(std::log(sum) - row[static_cast<size_t>(tokens[token + 1])]);
  }
  return losses;
}

TEST_F(Eval, PerplexityIsThatOfTheLogits) {
  const std::string text = Text(60);
  const std::string exact = " --precision f32 --kv-cache f32 --index-keys f32 ";
  const Ended run = Winnow("eval perplexity " + kNano + exact + "--text " + text + " --chunk 100" +
                           " --json " + Path("p.json") + " --svg " + Path("p.svg"));
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.err, "");
  EXPECT_NE(run.out.find("beyond index_topk"), std::string::npos);
  ExpectSvg(Path("p.svg"));
  const json::object report = Parsed(Path("p.json"));
  const json::object& losses = report.at("texts").as_array()[0].as_object();
  EXPECT_EQ(losses.at("windows").as_int64(), 1);
  const int64_t topk = report.at("model").as_object().at("index_topk").as_int64();

  // The same from outside: the beginning of a sentence, the text's tokens, every logit.
  const Ended ids = Winnow("tokenize " + kNano + " --prompt-file " + text);
  ASSERT_EQ(ids.code, 0) << ids.err;
  json::array list = ParseJson(ids.out, "ids").value().as_array();
  EXPECT_EQ(losses.at("tokens").as_int64(), static_cast<int64_t>(list.size()));
  list.insert(list.begin(), Parsed(kNano + "/config.json").at("bos_token_id"));
  const auto tokens = json::value_to<std::vector<int32_t>>(json::value(list));
  Write("ids.json", json::serialize(list));
  for (const std::string attention : {"sparse", "dense"}) {
    const Ended logits = Winnow("logits " + kNano + exact + "--attention " + attention +
                                " --tokens " + Path("ids.json") + " --out " + Path("l.st"));
    ASSERT_EQ(logits.code, 0) << logits.err;
    const std::vector<double> expected = LossesOf(Path("l.st"), tokens);
    const auto mean = [&](int64_t first, int64_t end) {
      double sum = 0;
      end = std::min<int64_t>(end, static_cast<int64_t>(expected.size()));
      for (int64_t place = first; place < end; ++place) sum += expected[static_cast<size_t>(place)];
      return std::exp(sum / static_cast<double>(end - first));
    };
    const std::string field = attention + "_perplexity";
    const json::object& beyond = losses.at("beyond_index_topk").as_object();
    EXPECT_NEAR(beyond.at(field).as_double() / mean(topk, INT32_MAX), 1.0, 1e-5);
    EXPECT_EQ(beyond.at("tokens").as_int64(), static_cast<int64_t>(expected.size()) - topk);
    EXPECT_NEAR(losses.at("all").as_object().at(field).as_double() / mean(0, INT32_MAX), 1.0, 1e-5);
    for (const json::value& value : losses.at("positions").as_array()) {
      const json::object& bucket = value.as_object();
      const double perplexity = mean(bucket.at("first").as_int64(), bucket.at("end").as_int64());
      EXPECT_NEAR(bucket.at(field).as_double() / perplexity, 1.0, 1e-5);
    }
  }
}

TEST_F(Eval, NeedleAsksEveryKindAtEveryDepth) {
  const Ended run = Winnow("eval needle " + kNano + " --text " + Text(200) + kNeedles +
                           " --lengths 1K --depths 3 --trials 2 --attention sparse --json " +
                           Path("n.json") + " --svg " + Path("n.svg"));
  ASSERT_EQ(run.code, 0) << run.err;
  ExpectSvg(Path("n.svg"));
  const json::object report = Parsed(Path("n.json"));
  std::map<std::string, int64_t> asked;
  for (const json::value& score : report.at("scores").as_array()) {
    const json::object& fields = score.as_object();
    EXPECT_EQ(fields.at("attention").as_string(), "sparse");
    EXPECT_EQ(fields.at("length").as_int64(), 1024);
    EXPECT_LE(fields.at("correct").as_int64(), fields.at("total").as_int64());
    asked[std::string(fields.at("kind").as_string())] += fields.at("total").as_int64();
  }
  EXPECT_EQ(asked, (std::map<std::string, int64_t>{{"fact", 6}, {"absent", 6}, {"quote", 6}}));
  const int64_t beside = report.at("tokens_beside_document").as_int64();
  for (const json::value& document : report.at("documents").as_array()) {
    EXPECT_EQ(document.as_object().at("tokens").as_int64(), 1024 - beside);
  }
  // Right is what the file expects, and nothing else.
  for (const json::value& value : report.at("answers").as_array()) {
    const json::object& answer = value.as_object();
    if (answer.at("kind").as_string() == "quote") continue;
    EXPECT_EQ(answer.at("correct").as_bool(), answer.at("answer") == answer.at("expected"));
  }
}

TEST_F(Eval, RecallLiesBetweenNothingAndTheOracle) {
  const Ended run =
      Winnow("eval recall " + kNano + " --text " + Text(60) + " --length 1K --queries 8 --json " +
             Path("r.json") + " --svg " + Path("r.svg"));
  ASSERT_EQ(run.code, 0) << run.err;
  ExpectSvg(Path("r.svg"));
  const json::object report = Parsed(Path("r.json"));
  const json::array& layers = report.at("layers").as_array();
  EXPECT_EQ(static_cast<int64_t>(layers.size()),
            report.at("model").as_object().at("num_hidden_layers").as_int64());
  for (const json::value& value : layers) {
    const json::object& layer = value.as_object();
    EXPECT_EQ(layer.at("queries").as_int64(), 8);
    for (const char* type : {"f32", "bf16", "e4m3", "int8"}) {
      const double kept = layer.at("mass_kept").as_object().at(type).as_double();
      EXPECT_GT(kept, 0);
      EXPECT_LE(kept, layer.at("oracle_mass").as_double() + 1e-6);
      EXPECT_LE(layer.at("oracle_mass").as_double(), 1 + 1e-6);
      EXPECT_LE(layer.at("overlap").as_object().at(type).as_double(), 1);
    }
  }
}

TEST_F(Eval, PoliciesAreMeasuredOnTheSameTokens) {
  const Ended run =
      Winnow("eval policies " + kNano + " --text " + Text(30) + kNeedles +
             " --length 1K --depths 2 --json " + Path("o.json") + " --svg " + Path("o.svg"));
  ASSERT_EQ(run.code, 0) << run.err;
  ExpectSvg(Path("o.svg"));
  const json::object report = Parsed(Path("o.json"));
  const json::array& policies = report.at("policies").as_array();
  EXPECT_EQ(policies.size(), 8u);
  for (const json::value& value : policies) {
    const json::object& policy = value.as_object();
    EXPECT_EQ(policy.at("tokens"), policies[0].as_object().at("tokens"));
    EXPECT_EQ(policy.at("facts_total").as_int64(), 2);
    EXPECT_GT(policy.at("perplexity").as_double(), 1);
  }
}

TEST_F(Eval, SaysWhatIsWrongBeforeAnyWork) {
  const std::string text = Text(60);
  const std::string tiny = Write("tiny.txt", "Hello.");
  const std::string empty = Write("empty.txt", "");
  const std::string blank = Write("blank.txt", " \n\n ");
  const std::string latin = Write("latin.txt", "caf\xE9");
  const std::string needles = Write("wrong.json", R"({"absent_answer": 1})");
  const std::string good = Write("good.json", Slurp(kRoot + "/examples/needles.json"));
  const std::set<std::string> files = Files();
  struct Mistake {
    std::string arguments;
    std::string says;
  };
  const Mistake mistakes[] = {
      {"", "eval: no evaluation is named, expected one of\n  perplexity  "},
      {kNano + " --text " + text, "eval: '" + kNano + "', expected one of\n  perplexity  "},
      {"all perplexity " + kNano + " --text " + text, "eval: 'all', expected one of"},
      {"perplexity " + kNano, "--text"},
      {"perplexity /nowhere --text " + text, "config.json"},
      {"perplexity " + kNano + " --text /nowhere.txt", "/nowhere.txt"},
      {"perplexity " + kNano + " --text " + empty, empty + ": it is empty"},
      {"perplexity " + kNano + " --text " + blank, blank + ": it holds no words"},
      {"perplexity " + kNano + " --text " + latin, latin + ": byte 3 is 0xe9, expected UTF-8"},
      {"perplexity " + kNano + " --text ''", "text: an empty name"},
      {"perplexity " + kNano + " --text " + tiny, tiny + ": "},
      {"perplexity " + kNano + " --text " + text + " --length 1", "length: 1, expected more"},
      {"perplexity " + kNano + " --text " + text + " --length 257", "length: 257, expected more"},
      {"perplexity " + kNano + " --text " + text + " --length many", "'many', expected a count"},
      {"perplexity " + kNano + " --text " + text + " --length 99999K", "max_position_embeddings"},
      {"perplexity " + kNano + " --text " + text + " --json /nowhere/o.json", "/nowhere/o.json"},
      {"perplexity " + kNano + " --text " + text + " --svg /dev/null", "/dev/null: it exists"},
      {"perplexity " + kNano + " --text " + text + " --json ''", "--json: '', expected the name"},
      {"perplexity " + kNano + " --text " + text + " --json " + text, text + ": it would replace"},
      {"perplexity " + kNano + " --text " + text + " --svg " + kNano + "/config.json",
       "config.json: it would replace"},
      {"perplexity " + kNano + " --text " + text + " --json " + Path("o") + " --svg " + Path("./o"),
       "name the same file"},
      {"perplexity " + kSmall + " --text " + text, "tokenizer.json"},
      {"needle " + kNano + " --text " + text + kNeedles + " --lengths 256", "length: 256, of"},
      {"needle --lengths 256 " + kNano + " --text " + text + kNeedles, "length: 256, of"},
      {"needle " + kNano + " --text " + text + kNeedles + " --lengths 2K,4K,2048",
       "lengths: 2048 is given twice"},
      {"needle " + kNano + " --text " + text + kNeedles + " --depths 0", "depths: 0"},
      {"needle " + kNano + " --text " + text + kNeedles + " --depths 999",
       "depths: 999, expected at most 70, the needles of needles.json"},
      {"needle " + kNano + " --text " + text + kNeedles + " --trials 0", "trials: 0"},
      {"needle " + kNano + " --text " + text + kNeedles + " --attention some", "some"},
      {"needle " + kNano + " --text " + text + " --needles " + needles,
       "wrong.json: absent_answer: a number"},
      {"needle " + kNano + " --text " + text + " --needles " + tiny, "tiny.txt: syntax error"},
      {"needle " + kNano + " --text " + text + " --needles " + tiny, "expected JSON with"},
      {"needle " + kNano + " --text " + text + kNeedles + " --seed -1", "'-1', expected a whole"},
      {"recall " + kNano + " --text " + text + " --seed -1", "'-1', expected a whole"},
      {"needle " + kNano + " --text " + text + " --needles " + good + " --lengths 1K --svg " + good,
       good + ": it would replace"},
      {"recall " + kNano + " --text " + tiny, tiny + ": "},
      {"recall " + kNano + " --text " + text + " --length 10", "length: 10, expected more"},
      {"recall " + kNano + " --text " + text + " --queries 0", "queries: 0"},
      {"policies " + kNano + " --text " + tiny + kNeedles, tiny + ": "},
      {"policies " + kNano + " --text " + text + kNeedles + " --length 200", "length: 200"},
  };
  for (const Mistake& mistake : mistakes) {
    const Ended run = Winnow("eval " + mistake.arguments);
    EXPECT_EQ(run.code, 2) << mistake.arguments << "\n" << run.err;
    EXPECT_NE((run.err + run.out).find(mistake.says), std::string::npos)
        << mistake.arguments << "\n"
        << run.err;
  }
  EXPECT_EQ(Files(), files) << "nothing was left behind";
  EXPECT_EQ(Slurp(good), Slurp(kRoot + "/examples/needles.json"));
}

// A text of less than is asked for is used whole, and each evaluation says so in the same words.
TEST_F(Eval, SaysWhichTextsAreShorterThanAskedFor) {
  const std::string text = Text(30);
  const std::string says = "\nnote: text.txt has ";
  for (const std::string& arguments :
       {"perplexity " + kNano + " --length 1K", "recall " + kNano + " --length 1K --queries 2",
        "policies " + kNano + kNeedles + " --length 1K --depths 1"}) {
    const Ended run =
        Winnow("eval " + arguments + " --text " + text + " --json " + Path("short.json"));
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_NE(run.out.find(says), std::string::npos) << run.out;
    EXPECT_NE(run.out.find(" tokens, fewer than the 1024 asked for: all of it is used\n"),
              std::string::npos)
        << run.out;
    const json::object report = Parsed(Path("short.json"));
    const json::array& shorter = report.at("shorter_texts").as_array();
    ASSERT_EQ(shorter.size(), 1u);
    EXPECT_EQ(shorter[0].as_object().at("name").as_string(), "text.txt");
    EXPECT_EQ(shorter[0].as_object().at("tokens"), report.at("length"));
    EXPECT_LT(report.at("length").as_int64(), 1024);
  }
}

TEST_F(Eval, SaysWhereTheNeedlesNobodyNamedShouldBe) {
  const std::string text = Text(60);
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  const Ended run = Winnow("eval needle " + kNano + " --text " + text);
  fs::current_path(before);
  EXPECT_EQ(run.code, 2);
  EXPECT_NE(run.err.find("examples/needles.json: "), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("--needles names another"), std::string::npos) << run.err;
}

TEST_F(Eval, ListsTheEvaluations) {
  for (const char* arguments : {"eval", "eval --help"}) {
    const Ended run = Winnow(arguments);
    for (const char* evaluation : {"perplexity", "needle", "recall", "policies"}) {
      EXPECT_NE((run.err + run.out).find(std::string("\n  ") + evaluation + "  "),
                std::string::npos)
          << run.err << run.out;
    }
  }
}

// It would take minutes if it went on. In the foreground, timeout sends one signal; else it sends a
// second to its group, which ends the process at once.
TEST_F(Eval, EndsWithoutATraceWhenInterrupted) {
  const std::set<std::string> files = Files();
  const std::string command = "timeout --foreground --preserve-status --signal INT 1 " +
                              std::string(WINNOW_BINARY) + " eval perplexity " + kNano +
                              " --text " + kRoot + "/examples/zenda.txt --json " + Path("p.json") +
                              " 2>" + Path("stderr");
  const int status = std::system(command.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 130);
  EXPECT_EQ(Slurp(Path("stderr")), "winnow: interrupted\n");
  EXPECT_EQ(Files(), files);
}

}  // namespace
}  // namespace winnow
