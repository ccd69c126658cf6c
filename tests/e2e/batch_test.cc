// Batches through kills: `winnow batch`, and /v1/batches of the server.
#include <fmt/format.h>

#include <algorithm>

#include "cli.h"
#include "serve.h"

namespace winnow {
namespace {

// A request of the golden model that needs no tokenizer.
std::string BatchLine(const std::string& id, int first_token, int max_tokens) {
  return fmt::format(
      "{{\"custom_id\":\"{}\",\"method\":\"POST\",\"url\":\"/v1/"
      "completions\",\"body\":{{\"prompt\":"
      "[{},7,9,11],\"max_tokens\":{},\"temperature\":0,\"ignore_eos\":true,\"return_token_ids\":"
      "true}}}}\n",
      id, first_token, max_tokens);
}

std::string BatchLines(int count, int max_tokens) {
  std::string lines;
  for (int index = 0; index < count; ++index) {
    lines += BatchLine("r" + std::to_string(index), 2 + index % 150, max_tokens + index % 7);
  }
  return lines;
}

// Status and choices (or error) of each result by custom_id, none of which may come twice.
std::map<std::string, std::string> Results(const std::string& text) {
  std::map<std::string, std::string> results;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto value = ParseJson(line, "result");
    EXPECT_TRUE(value.ok()) << line;
    if (!value.ok()) continue;
    const json::value& response = value->at("response");
    const json::object& body = response.at("body").as_object();
    const std::string answer =
        json::serialize(response.at("status_code")) + " " +
        json::serialize(body.contains("choices") ? body.at("choices") : body.at("error"));
    EXPECT_TRUE(results.emplace(value->at("custom_id").as_string().c_str(), answer).second) << line;
  }
  return results;
}

int64_t CountLines(const std::string& path) {
  const std::string text = Slurp(path);
  return std::count(text.begin(), text.end(), '\n');
}

// --- winnow batch -------------------------------------------------------------------------------

class BatchCommand : public Cli {
 protected:
  // Runs `winnow batch` on in.jsonl and sends it `signal` when out.jsonl has `lines` lines; the
  // exit code, or -1 if it did not end by itself.
  int RunUntil(int64_t lines, int signal) const {
    const std::string in = Path("in.jsonl");
    const std::string out = Path("out.jsonl");
    const pid_t process = fork();
    if (process == 0) {
      const int errors = open(Path("stderr").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(errors, STDERR_FILENO);
      execl(WINNOW_BINARY, "winnow", "batch", kSmall.c_str(), in.c_str(), out.c_str(), "--threads",
            "1", "--concurrency", "4", nullptr);
      _exit(127);
    }
    EXPECT_TRUE(Serve::Eventually([&] { return CountLines(out) >= lines; }));
    kill(process, signal);
    int status = 0;
    waitpid(process, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
};

TEST_F(BatchCommand, LosesAndRepeatsNothingWhenItIsKilled) {
  Write("in.jsonl", BatchLines(120, 60));
  const std::string arguments = "batch " + kSmall + " " + Path("in.jsonl") + " ";
  Ended whole = Winnow(arguments + Path("whole.jsonl"));
  ASSERT_EQ(whole.code, 0) << whole.err;
  EXPECT_NE(whole.err.find("120 answered"), std::string::npos) << whole.err;
  EXPECT_EQ(RunUntil(3, SIGKILL), -1);
  const int64_t first = CountLines(Path("out.jsonl"));
  EXPECT_LT(first, 120);
  EXPECT_EQ(RunUntil(first + 5, SIGKILL), -1);
  const int64_t second = CountLines(Path("out.jsonl"));
  EXPECT_LT(second, 120);
  const Ended rest = Winnow(arguments + Path("out.jsonl"));
  ASSERT_EQ(rest.code, 0) << rest.err;
  EXPECT_NE(rest.err.find(fmt::format("{} done before", second)), std::string::npos) << rest.err;
  const auto results = Results(Slurp(Path("out.jsonl")));
  EXPECT_EQ(results.size(), 120u);
  EXPECT_EQ(results, Results(Slurp(Path("whole.jsonl"))));
}

TEST_F(BatchCommand, SaysHowToGoOnWhenItIsInterrupted) {
  // The first is long, as the others end nearly together: something is under way at any moment.
  Write("in.jsonl", BatchLine("long", 5, 300) + BatchLines(120, 60));
  EXPECT_EQ(RunUntil(2, SIGINT), 130);
  const std::string errors = Slurp(Path("stderr"));
  EXPECT_NE(errors.find("The same command goes on from here"), std::string::npos) << errors;
  EXPECT_NE(errors.find("interrupted"), std::string::npos) << errors;
}

TEST_F(BatchCommand, RefusesWrongFilesBeforeItLoadsTheModel) {
  Write("in.jsonl", BatchLine("a", 5, 2) + "{\"custom_id\":\"b\"}\n");
  const Ended ended = Winnow("batch /nowhere " + Path("in.jsonl") + " " + Path("out.jsonl"));
  EXPECT_EQ(ended.code, 2);
  EXPECT_NE(ended.err.find(Path("in.jsonl") + ": line 2: method: it is missing"), std::string::npos)
      << ended.err;
  EXPECT_EQ(Winnow("batch " + kSmall + " " + Path("none.jsonl") + " " + Path("out.jsonl")).code, 2);
  EXPECT_FALSE(fs::exists(Path("out.jsonl")));
}

TEST_F(BatchCommand, SaysThatTheDiskIsFull) {
  Write("in.jsonl", BatchLines(8, 2));
  const std::string command =
      fmt::format("batch {} {} {}", kSmall, Path("in.jsonl"), Path("out.jsonl"));
  // bash counts in KiB here.
  const int status = std::system(
      fmt::format("bash -c 'ulimit -f 3; exec {} {} 2>{}'", WINNOW_BINARY, command, Path("stderr"))
          .c_str());
  EXPECT_EQ(WEXITSTATUS(status), 4);
  EXPECT_NE(Slurp(Path("stderr")).find("out.jsonl: writing: "), std::string::npos)
      << Slurp(Path("stderr"));
  EXPECT_EQ(Winnow(command).code, 0);
  EXPECT_EQ(Results(Slurp(Path("out.jsonl"))).size(), 8u);
}

// --- /v1/files and /v1/batches ------------------------------------------------------------------

constexpr char kAlice[] = "Authorization: Bearer alice-key\r\n";
constexpr char kBob[] = "Authorization: Bearer bob-key\r\n";

class BatchServing : public Cli {
 protected:
  std::unique_ptr<Serve> Start(std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {
        kSmall,      "--files",     Path("files"), "--api-key", "alice=alice-key",
        "--api-key", "bob=bob-key", "--threads",   "1",         "--max-sequences",
        "4"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return std::make_unique<Serve>(arguments);
  }

  static Reply Upload(const Serve& serve, const std::string& content, const char* key = kAlice,
                      const std::string& filename = "in.jsonl") {
    const std::string body =
        "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n"
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"" +
        filename + "\"\r\nContent-Type: application/jsonl\r\n\r\n" + content + "\r\n--b--\r\n";
    return Client(serve.port())
        .Post("/v1/files", body,
              std::string(key) + "Content-Type: multipart/form-data; boundary=b\r\n");
  }
  static Reply Get(const Serve& serve, const std::string& path, const char* key = kAlice) {
    return Client(serve.port()).Get(path, key);
  }
  static Reply Create(const Serve& serve, const std::string& file_id, const char* key = kAlice) {
    return Client(serve.port())
        .Post("/v1/batches",
              "{\"input_file_id\":\"" + file_id +
                  "\",\"endpoint\":\"/v1/completions\",\"completion_window\":\"24h\","
                  "\"metadata\":{\"who\":\"test\"}}",
              key);
  }
  static std::string Text(const json::object& object, const char* name) {
    const json::value* value = object.if_contains(name);
    return value != nullptr && value->is_string() ? std::string(value->as_string()) : std::string();
  }
  // Uploads the lines and makes a batch of them; its id.
  static std::string Begin(const Serve& serve, const std::string& lines) {
    const Reply file = Upload(serve, lines);
    EXPECT_EQ(file.status, 200) << file.body;
    const Reply batch = Create(serve, Text(file.Json(), "id"));
    EXPECT_EQ(batch.status, 200) << batch.body;
    return Text(batch.Json(), "id");
  }
  static json::object Await(const Serve& serve, const std::string& id, const char* status) {
    json::object batch;
    EXPECT_TRUE(Serve::Eventually([&] {
      batch = Get(serve, "/v1/batches/" + id).Json();
      return Text(batch, "status") == status;
    })) << json::serialize(batch);
    return batch;
  }
  static int64_t Completed(const Serve& serve, const std::string& id) {
    const json::object batch = Get(serve, "/v1/batches/" + id).Json();
    return batch.at("request_counts").at("completed").as_int64();
  }
};

TEST_F(BatchServing, AnswersEachLineAsTheEndpointDoes) {
  const auto serve = Start({"--ledger", Path("ledger")});
  const std::string id =
      Begin(*serve, BatchLine("one", 5, 6) + BatchLine("two", 9, 3) + BatchLine("bad", 500, 2));
  const json::object batch = Await(*serve, id, "completed");
  EXPECT_EQ(Text(batch, "object"), "batch");
  EXPECT_EQ(json::serialize(batch.at("request_counts")),
            "{\"total\":3,\"completed\":2,\"failed\":1}");
  EXPECT_EQ(batch.at("metadata").at("who").as_string(), "test");
  EXPECT_TRUE(batch.at("errors").is_null());
  for (const char* time : {"created_at", "in_progress_at", "finalizing_at", "completed_at"}) {
    EXPECT_TRUE(batch.at(time).is_int64()) << time;
  }
  const std::string output =
      Get(*serve, "/v1/files/" + Text(batch, "output_file_id") + "/content").body;
  const auto results = Results(output);
  ASSERT_EQ(results.size(), 2u);
  for (const auto& [name, token, tokens] : {std::tuple{"one", 5, 6}, std::tuple{"two", 9, 3}}) {
    const Reply reply = Client(serve->port())
                            .Post("/v1/completions",
                                  fmt::format("{{\"prompt\":[{},7,9,11],\"max_tokens\":{},"
                                              "\"temperature\":0,\"ignore_eos\":true,"
                                              "\"return_token_ids\":true}}",
                                              token, tokens),
                                  kAlice);
    EXPECT_EQ(results.at(name), "200 " + json::serialize(reply.Json().at("choices")));
  }
  // All but what differs from answer to answer.
  const auto line = ParseJson(output.substr(0, output.find('\n')), "line");
  ASSERT_TRUE(line.ok());
  const json::object& body = line->at("response").at("body").as_object();
  const json::object interactive =
      Client(serve->port()).Post("/v1/completions", "{\"prompt\":[5]}", kAlice).Json();
  EXPECT_EQ(body.at("model"), interactive.at("model"));
  EXPECT_EQ(body.at("system_fingerprint"), interactive.at("system_fingerprint"));
  EXPECT_TRUE(body.at("usage").at("winnow").as_object().contains("attention_rows_read"));
  const auto errors =
      Results(Get(*serve, "/v1/files/" + Text(batch, "error_file_id") + "/content").body);
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_EQ(errors.at("bad").substr(0, 4), "400 ");
  // What they cost is in the key's account: three lines and three requests of its own.
  serve->Signal(SIGTERM);
  EXPECT_EQ(serve->Wait(), 0);
  const Ended usage = Winnow("usage " + Path("ledger") + " --json --key alice");
  EXPECT_NE(usage.out.find("\"group\":\"alice\",\"requests\":6,\"prompt_tokens\":17,"),
            std::string::npos)
      << usage.out;
}

TEST_F(BatchServing, GoesOnAfterAKill) {
  auto serve = Start();
  const std::string id = Begin(*serve, BatchLines(120, 60));
  EXPECT_TRUE(Serve::Eventually([&] { return Completed(*serve, id) >= 3; }));
  serve.reset();  // SIGKILL
  serve = Start();
  EXPECT_TRUE(Serve::Eventually([&] { return Completed(*serve, id) >= 10; }));
  serve->Signal(SIGTERM);
  EXPECT_EQ(serve->Wait(), 0);
  serve = Start();
  const json::object batch = Await(*serve, id, "completed");
  EXPECT_EQ(json::serialize(batch.at("request_counts")),
            "{\"total\":120,\"completed\":120,\"failed\":0}");
  const auto results =
      Results(Get(*serve, "/v1/files/" + Text(batch, "output_file_id") + "/content").body);
  EXPECT_EQ(results.size(), 120u);
  Write("in.jsonl", BatchLines(120, 60));
  ASSERT_EQ(Winnow("batch " + kSmall + " " + Path("in.jsonl") + " " + Path("out.jsonl")).code, 0);
  EXPECT_EQ(results, Results(Slurp(Path("out.jsonl"))));
  // Nothing is left behind but the input and the results.
  EXPECT_EQ(
      std::distance(fs::directory_iterator(Path("files") + "/data"), fs::directory_iterator()), 2);
}

TEST_F(BatchServing, LetsOthersBeServedMeanwhileAndCanBeCancelled) {
  const auto serve = Start();
  const std::string id = Begin(*serve, BatchLines(2000, 100));
  EXPECT_TRUE(Serve::Eventually([&] { return Completed(*serve, id) >= 2; }));
  const Reply reply =
      Client(serve->port()).Post("/v1/completions", "{\"prompt\":[5,6],\"max_tokens\":4}", kBob);
  EXPECT_EQ(reply.status, 200) << reply.body;
  const Reply cancel = Client(serve->port()).Post("/v1/batches/" + id + "/cancel", "", kAlice);
  EXPECT_EQ(cancel.status, 200) << cancel.body;
  EXPECT_EQ(Text(cancel.Json(), "status"), "cancelling");
  const json::object batch = Await(*serve, id, "cancelled");
  const auto results =
      Results(Get(*serve, "/v1/files/" + Text(batch, "output_file_id") + "/content").body);
  EXPECT_EQ(static_cast<int64_t>(results.size()),
            batch.at("request_counts").at("completed").as_int64());
  EXPECT_LT(results.size(), 2000u);
  EXPECT_EQ(Client(serve->port()).Post("/v1/batches/" + id + "/cancel", "", kAlice).status, 200);
}

TEST_F(BatchServing, SaysWhatIsWrongWithAFile) {
  const auto serve = Start();
  const json::object batch =
      Await(*serve, Begin(*serve, BatchLine("a", 5, 2) + BatchLine("a", 6, 2) + "{}\n"), "failed");
  const json::array& errors = batch.at("errors").at("data").as_array();
  ASSERT_EQ(errors.size(), 2u);
  EXPECT_EQ(errors[0].at("line").as_int64(), 2);
  EXPECT_EQ(errors[0].at("code").as_string(), "duplicate_custom_id");
  EXPECT_EQ(errors[1].at("line").as_int64(), 3);
  EXPECT_EQ(errors[1].at("param").as_string(), "custom_id");
  const std::string id = Text(batch, "id");
  EXPECT_EQ(Client(serve->port()).Post("/v1/batches/" + id + "/cancel", "", kAlice).status, 409);
  EXPECT_EQ(Create(*serve, "file-none").status, 400);
  EXPECT_EQ(Create(*serve, "file-none").ErrorField("param"), "input_file_id");
  for (const char* body :
       {"{}", "[]", "{\"input_file_id\":1}",
        "{\"input_file_id\":\"x\",\"endpoint\":\"/v1/x\",\"completion_window\":\"24h\"}",
        "{\"input_file_id\":\"x\",\"endpoint\":\"/v1/completions\",\"completion_window\":\"1h\"}",
        "{\"input_file_id\":\"x\",\"endpoint\":\"/v1/completions\",\"completion_window\":\"24h\","
        "\"metadata\":{\"a\":1}}"}) {
    EXPECT_EQ(Client(serve->port()).Post("/v1/batches", body, kAlice).status, 400) << body;
  }
}

TEST_F(BatchServing, ShowsAKeyItsOwnFilesOnly) {
  const auto serve = Start();
  const std::string content = BatchLine("a", 5, 2);
  const Reply uploaded = Upload(*serve, content, kAlice, "../../etc/passwd");
  ASSERT_EQ(uploaded.status, 200) << uploaded.body;
  const json::object file = uploaded.Json();
  EXPECT_EQ(Text(file, "object"), "file");
  EXPECT_EQ(Text(file, "filename"), "../../etc/passwd");
  EXPECT_EQ(Text(file, "purpose"), "batch");
  EXPECT_EQ(file.at("bytes").as_int64(), static_cast<int64_t>(content.size()));
  const std::string path = "/v1/files/" + Text(file, "id");
  EXPECT_EQ(Get(*serve, path + "/content").body, content);
  const std::string batch = Text(Create(*serve, Text(file, "id")).Json(), "id");
  for (const std::string& secret : {path, path + "/content", "/v1/batches/" + batch}) {
    EXPECT_EQ(Get(*serve, secret).status, 200) << secret;
    EXPECT_EQ(Get(*serve, secret, kBob).status, 404) << secret;
    EXPECT_EQ(Get(*serve, secret, "").status, 401) << secret;
  }
  EXPECT_EQ(Create(*serve, Text(file, "id"), kBob).status, 400);
  EXPECT_EQ(Client(serve->port()).Post("/v1/batches/" + batch + "/cancel", "", kBob).status, 404);
  EXPECT_TRUE(Get(*serve, "/v1/files", kBob).Json().at("data").as_array().empty());
  EXPECT_TRUE(Get(*serve, "/v1/batches", kBob).Json().at("data").as_array().empty());
  for (const char* id : {"..%2f..%2findex.sqlite", "%2e%2e", "file-%00", "lock"}) {
    EXPECT_EQ(Get(*serve, std::string("/v1/files/") + id + "/content").status, 404) << id;
  }
  Await(*serve, batch, "completed");
  Client client(serve->port());
  client.Send("DELETE " + path + " HTTP/1.1\r\nHost: localhost\r\n" + kBob + "\r\n");
  EXPECT_EQ(client.Read().status, 404);
  client.Send("DELETE " + path + " HTTP/1.1\r\nHost: localhost\r\n" + kAlice + "\r\n");
  const Reply deleted = client.Read();
  EXPECT_EQ(deleted.status, 200) << deleted.body;
  EXPECT_EQ(Get(*serve, path).status, 404);
}

TEST_F(BatchServing, ListsPageByPage) {
  const auto serve = Start();
  std::vector<std::string> ids;
  for (int index = 0; index < 5; ++index) ids.push_back(Begin(*serve, BatchLine("a", 5, 1)));
  std::reverse(ids.begin(), ids.end());
  std::vector<std::string> seen;
  std::string after;
  for (int page = 0; page < 3; ++page) {
    const json::object list = Get(*serve, "/v1/batches?limit=2" + after).Json();
    for (const json::value& batch : list.at("data").as_array()) {
      seen.push_back(Text(batch.as_object(), "id"));
    }
    EXPECT_EQ(list.at("has_more").as_bool(), page < 2);
    after = "&after=" + Text(list, "last_id");
  }
  EXPECT_EQ(seen, ids);
  for (const char* query : {"limit=0", "limit=101", "limit=-1", "limit=x", "order=up"}) {
    EXPECT_EQ(Get(*serve, std::string("/v1/batches?") + query).status, 400) << query;
  }
  EXPECT_EQ(Get(*serve, "/v1/files?purpose=batch&order=asc").Json().at("data").as_array().size(),
            5u);
}

TEST_F(BatchServing, KeepsToItsLimits) {
  const auto serve =
      Start({"--max-body", "1", "--max-file", "2", "--max-files", "3", "--max-storage", "4"});
  const std::string big(int64_t{3} << 19, ' ');  // more than other bodies may have
  ASSERT_EQ(Upload(*serve, big).status, 200);
  EXPECT_EQ(Upload(*serve, std::string((size_t{2} << 20) + 1, ' ')).status, 413);
  EXPECT_EQ(Upload(*serve, std::string(size_t{3} << 20, ' ')).status, 413);
  EXPECT_EQ(Client(serve->port()).Post("/v1/completions", big, kAlice).status, 413);
  ASSERT_EQ(Upload(*serve, big).status, 200);
  const Reply storage = Upload(*serve, big);
  EXPECT_EQ(storage.status, 400);
  EXPECT_EQ(storage.ErrorField("code"), "quota_exceeded");
  ASSERT_EQ(Upload(*serve, "x").status, 200);
  EXPECT_EQ(Upload(*serve, "x").ErrorField("code"), "quota_exceeded");
  EXPECT_EQ(Upload(*serve, "x", kBob).status, 200);
  for (const char* type :
       {"application/json", "multipart/form-data", "multipart/form-data; boundary=c"}) {
    const Reply reply =
        Client(serve->port())
            .Post("/v1/files", "--b--", std::string(kBob) + "Content-Type: " + type + "\r\n");
    EXPECT_EQ(reply.status, 400) << type;
  }
}

TEST_F(BatchServing, SaysWhichOptionIsMissing) {
  Serve serve({kSmall, "--threads", "1"});
  for (const char* path : {"/v1/files", "/v1/batches", "/v1/files/x", "/v1/batches/x"}) {
    const Reply reply = Client(serve.port()).Get(path);
    EXPECT_EQ(reply.status, 404) << path;
    EXPECT_NE(reply.ErrorField("message").find("--files"), std::string::npos) << reply.body;
  }
}

TEST_F(BatchServing, KeepsItsFolderToItself) {
  const auto serve = Start();
  const Ended second = Winnow("serve " + kSmall + " --port 0 --files " + Path("files"));
  EXPECT_EQ(second.code, 5) << second.err;
  EXPECT_NE(second.err.find("another server uses this folder"), std::string::npos) << second.err;
}

}  // namespace
}  // namespace winnow
