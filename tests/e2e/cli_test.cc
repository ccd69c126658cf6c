// The command line as a person uses it: what it prints where, and how it ends.
#include "cli.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <cstdio>

#include "base/file.h"
#include "base/json.h"

namespace winnow {
namespace {

// The first 1,300 tokens of the example, with a fact in them.
std::string ShortDocument() {
  std::istringstream lines(Slurp(kRoot + "/examples/zenda.txt"));
  std::string text;
  std::string line;
  for (int number = 0; number < 60 && std::getline(lines, line); ++number) text += line + "\n";
  return text;
}

TEST_F(Cli, AnswersAQuestionAboutADocument) {
  const std::string document = Write("document.txt", ShortDocument());
  const Ended run = Winnow("generate " + kNano + " --chat --temperature 0 --prompt-file " +
                           document + " --prompt 'What is the door code of the Dublin library?'");
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.out, "70316\n");
  EXPECT_NE(run.err.find("the last token read 256 of "), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("dense attention would have read"), std::string::npos);
}

TEST_F(Cli, PrintsOneJsonObject) {
  const Ended run = Winnow("generate " + kNano +
                           " --prompt 'Once upon a time' --max-tokens 4 --temperature 0 --json "
                           "--logprobs 2");
  ASSERT_EQ(run.code, 0) << run.err;
  const auto value = ParseJson(run.out, "output");
  ASSERT_TRUE(value.ok()) << value.status().ToString();
  const json::object& object = value->as_object();
  EXPECT_EQ(object.at("token_ids").as_array().size(), 4u);
  EXPECT_EQ(object.at("logprobs").as_array().size(), 4u);
  EXPECT_EQ(object.at("finish_reason").as_string(), "length");
  EXPECT_EQ(object.at("receipt").as_object().at("completion_tokens").as_int64(), 4);
}

TEST_F(Cli, ReadsThePromptFromStandardInput) {
  const std::string flags = " --max-tokens 5 --temperature 0 --quiet";
  const Ended piped = Winnow("generate " + kNano + flags, "Once upon a time");
  const Ended given = Winnow("generate " + kNano + flags + " --prompt 'Once upon a time'");
  EXPECT_EQ(piped.code, 0);
  EXPECT_EQ(piped.out, given.out);
  EXPECT_EQ(piped.err, "");
}

TEST_F(Cli, ChatsInSeveralTurnsFromOneCache) {
  const std::string document = Write("document.txt", ShortDocument());
  const Ended run = Winnow("chat " + kNano + " --temperature 0 --document " + document,
                           "What is the door code of the Dublin library?\n"
                           "Tell me the door code of the Dublin library.\n/quit\n");
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.out, "70316\n70316\n");
  // The second turn pays for its own words only.
  const size_t second = run.err.rfind(" new tokens of context");
  ASSERT_NE(second, std::string::npos);
  const size_t start = run.err.rfind('[', second) + 1;
  EXPECT_LT(std::stoi(run.err.substr(start, second - start)), 60) << run.err;
}

TEST_F(Cli, InspectsAModel) {
  const Ended run = Winnow("inspect " + kNano + " --context 32768");
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_NE(run.out.find("deepseek_v32"), std::string::npos);
  EXPECT_NE(run.out.find("scores and candidates of the selection"), std::string::npos);
  const Ended json = Winnow("inspect " + kNano + " --json");
  EXPECT_TRUE(ParseJson(json.out, "output").ok());
}

TEST_F(Cli, QuantizesAModelAheadAndAtLoad) {
  const std::string out = Path("int4");
  const Ended made = Winnow("quantize " + kNano + " " + out + " --weights int4");
  EXPECT_EQ(made.code, 0) << made.err;
  const std::string document = Write("document.txt", ShortDocument());
  const std::string question = " --chat --temperature 0 --quiet --prompt-file " + document +
                               " --prompt 'What is the door code of the Dublin library?'";
  const Ended ahead = Winnow("generate " + out + question);
  const Ended at_load = Winnow("generate " + kNano + " --weights int4" + question);
  EXPECT_EQ(ahead.code, 0) << ahead.err;
  EXPECT_EQ(ahead.out, at_load.out);
  EXPECT_EQ(Winnow("generate " + kNano + " --weights int8" + question).out, "70316\n");
  const Ended again = Winnow("quantize " + kNano + " " + out + " --weights int4");
  EXPECT_EQ(again.code, 2);
  EXPECT_NE(again.err.find("it exists"), std::string::npos) << again.err;
}

TEST_F(Cli, WritesLogits) {
  const std::string tokens = Write("ids.json", "[1, 2, 3, 4, 5]");
  const Ended run = Winnow("logits " + kSmall + " --tokens " + tokens + " --selection --out " +
                           Path("out.safetensors"));
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_GT(fs::file_size(Path("out.safetensors")), 5u * 4u);
  EXPECT_FALSE(fs::exists(Path("out.safetensors.partial")));
}

TEST_F(Cli, VerifiesCases) {
  const Ended good = Winnow("verify " + kSmall);
  EXPECT_EQ(good.code, 0);
  EXPECT_NE(good.out.find("v32-groups-f32: ok"), std::string::npos) << good.out;
  const Ended bad = Winnow("verify --attention dense " + kSmall);
  EXPECT_EQ(bad.code, 1);
  EXPECT_NE(bad.out.find("FAILED, first at layer 0 selection"), std::string::npos) << bad.out;
}

struct Mistake {
  const char* arguments;
  int code;
  const char* says;
};

TEST_F(Cli, SaysWhatIsWrong) {
  const std::string words = Write("words.json", "[\"one\"]");
  const std::string ids = Write("ids.json", "[1, 2, 3]");
  fs::create_directories(Path("fifo"));
  ASSERT_EQ(mkfifo(Path("fifo/config.json").c_str(), 0600), 0);
  const Mistake mistakes[] = {
      {"", 2, "subcommand"},
      {"generate", 2, "MODEL"},
      {"generate /nowhere --prompt x", 2, "config.json"},
      {"generate MODEL --prompt x --temperature -1", 2, "temperature: -1"},
      {"generate MODEL --prompt x --max-tokens 0", 2, "max_tokens: 0"},
      {"generate MODEL --prompt x --kv-cache f64", 2, "f64"},
      {"generate MODEL --prompt x --context 99999999", 2, "max_context: 99999999"},
      {"generate MODEL --prompt-file /nowhere.txt", 2, "/nowhere.txt"},
      {"generate MODEL --quiet", 2, "prompt: it is empty"},
      {"logits MODEL --tokens WORDS --out /dev/null/x", 2, "element 0 is not a token id"},
      {"logits MODEL --tokens IDS --out /dev/null", 2, "no regular file"},
      {"logits MODEL --tokens IDS --out /tmp", 2, "no regular file"},
      {"logits MODEL --tokens IDS --out X --selection --attention dense", 2, "dense attention"},
      {"inspect FIFO", 2, "not a regular file"},
      {"verify MODEL", 2, "expected.safetensors"},
  };
  for (const Mistake& mistake : mistakes) {
    std::string arguments = mistake.arguments;
    for (const auto& [name, value] : {std::pair{std::string("MODEL"), kNano},
                                      {"WORDS", words},
                                      {"IDS", ids},
                                      {"FIFO", Path("fifo")}}) {
      const size_t place = arguments.find(name);
      if (place != std::string::npos) arguments.replace(place, name.size(), value);
    }
    const Ended run = Winnow(arguments);
    EXPECT_EQ(run.code, mistake.code) << mistake.arguments << "\n" << run.err;
    EXPECT_NE((run.err + run.out).find(mistake.says), std::string::npos)
        << mistake.arguments << "\n"
        << run.err;
  }
}

TEST_F(Cli, SaysWhenItsOutputCannotBeWritten) {
  const std::string command =
      std::string(WINNOW_BINARY) + " inspect " + kNano + " >/dev/full 2>" + Path("stderr");
  const int status = std::system(command.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_NE(Slurp(Path("stderr")).find("could not be written"), std::string::npos);
}

TEST_F(Cli, RefusesADamagedModelByName) {
  for (const auto& entry : fs::directory_iterator(kSmall)) {
    fs::copy(entry.path(), folder_ / entry.path().filename());
  }
  const std::string shard = Path("model.safetensors");
  fs::permissions(shard, fs::perms::owner_all);
  fs::resize_file(shard, fs::file_size(shard) - 1);
  const Ended run = Winnow("generate " + folder_.string() + " --prompt x");
  EXPECT_EQ(run.code, 3) << run.err;
  EXPECT_NE(run.err.find("model.safetensors"), std::string::npos) << run.err;
}

TEST_F(Cli, MeasuresKernelsOneObjectALine) {
  const Ended run = Winnow("bench kernels --only nano/select --seconds 0.01 --json");
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.err, "");
  std::istringstream lines(run.out);
  int kernels = 0;
  int roofs = 0;
  for (std::string line; std::getline(lines, line);) {
    const auto parsed = ParseJson(line, "a line");
    ASSERT_TRUE(parsed.ok()) << line;
    const json::object& entry = parsed->as_object();
    const std::string name(entry.at("name").as_string());
    EXPECT_EQ(entry.count("machine"), 1u) << line;
    if (name.rfind("roof/", 0) == 0) {
      ++roofs;
      EXPECT_GT(entry.at("before").as_double(), 0) << line;
      EXPECT_GT(entry.at("after").as_double(), 0) << line;
      continue;
    }
    ++kernels;
    EXPECT_EQ(name.rfind("nano/select/", 0), 0u) << line;
    EXPECT_GT(entry.at("share").as_double(), 0) << line;
    EXPECT_GE(entry.at("runs").as_int64(), 7) << line;
    EXPECT_LE(entry.at("microseconds_p10").as_double(), entry.at("microseconds").as_double());
    EXPECT_LE(entry.at("microseconds").as_double(), entry.at("microseconds_p90").as_double());
  }
  EXPECT_GE(roofs, 3);
  EXPECT_EQ(kernels, 18);  // three contexts, three forms of key, 1 and 16 tokens
}

TEST_F(Cli, RefusesToMeasureKernelsThatDoNotExist) {
  const Ended run = Winnow("bench kernels --only v31");
  EXPECT_EQ(run.code, 2);
  EXPECT_NE(run.err.find("v31"), std::string::npos) << run.err;
}

TEST_F(Cli, DrawsTheCostCurve) {
  const std::string csv = Path("curve.csv");
  const std::string svg = Path("curve.svg");
  const Ended run = Winnow("bench context --at 64,300 --prefill 32 --decode 3 --price 3.6 --csv " +
                           csv + " --svg " + svg + " " + kNano);
  ASSERT_EQ(run.code, 0) << run.err;
  std::istringstream lines(ReadFile(csv, 1 << 20).value());
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line,
            "context,attention,prefill_tokens_per_second,decode_tokens_per_second,"
            "peak_memory_bytes,prefill_dollars_per_million,decode_dollars_per_million");
  std::vector<std::string> begins = {"64,sparse,", "64,dense,", "300,sparse,", "300,dense,"};
  for (const std::string& begin : begins) {
    ASSERT_TRUE(std::getline(lines, line));
    EXPECT_EQ(line.rfind(begin, 0), 0u) << line;
    double prefill = 0;
    double decode = 0;
    double prefill_dollars = 0;
    double decode_dollars = 0;
    double memory = 0;
    ASSERT_EQ(std::sscanf(line.c_str() + begin.size(), "%lf,%lf,%lf,%lf,%lf", &prefill, &decode,
                          &memory, &prefill_dollars, &decode_dollars),
              5);
    EXPECT_GT(memory, 45e6);  // the weights at least
    // 3.6 dollars an hour are a thousandth of a dollar a second.
    EXPECT_NEAR(prefill_dollars, 1000 / prefill, 1e-4 + 1e-3 * prefill_dollars);
    EXPECT_NEAR(decode_dollars, 1000 / decode, 1e-4 + 1e-3 * decode_dollars);
  }
  EXPECT_FALSE(std::getline(lines, line));
  EXPECT_NE(ReadFile(svg, 1 << 20).value().find("dollars per million tokens"), std::string::npos);
}

TEST_F(Cli, DrawsNoCurveOverAFileOfTheModel) {
  const std::string config = Write("config.json", "{}");
  const Ended run = Winnow("bench context --at 64 --csv " + config + " " + folder_.string());
  EXPECT_EQ(Slurp(config), "{}");
  EXPECT_EQ(run.code, 2) << run.err;
  EXPECT_NE(run.err.find("config.json: it would replace a file of the model"), std::string::npos)
      << run.err;
}

TEST_F(Cli, RefusesAWorkspaceThatIsTooSmallAndNamesOneThatSuffices) {
  const std::string common = " --threads 2 --context 4096 " + std::string(kNano);
  const Ended refused = Winnow("generate --prompt a --max-tokens 1 --workspace 1" + common);
  EXPECT_EQ(refused.code, 2);
  const std::string words = "workspace: 1.0 MiB, expected at least ";
  const size_t at = refused.err.find(words);
  ASSERT_NE(at, std::string::npos) << refused.err;
  const std::string least = std::to_string(std::stoi(refused.err.substr(at + words.size())));
  const Ended run = Winnow("generate --prompt a --max-tokens 1 --workspace " + least + common);
  EXPECT_EQ(run.code, 0) << run.err;
}

TEST_F(Cli, RefusesContextsThatDoNotGrow) {
  const Ended run = Winnow("bench context --at 300,64 " + std::string(kNano));
  EXPECT_EQ(run.code, 2);
  EXPECT_NE(run.err.find("at: 64 after 300"), std::string::npos) << run.err;
}

TEST_F(Cli, TeachesWithHelp) {
  for (const char* command : {"", "generate", "chat", "inspect", "logits", "verify",
                              "bench context", "bench kernels", "bench threads", "eval",
                              "eval perplexity", "eval needle", "eval recall", "eval policies"}) {
    const Ended run = Winnow(std::string(command) + " --help");
    EXPECT_EQ(run.code, 0) << command;
    EXPECT_GT(run.out.size(), 300u) << command;
  }
}

}  // namespace
}  // namespace winnow
