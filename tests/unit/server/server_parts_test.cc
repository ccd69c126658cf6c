// Small parts of the server: routes, keys, admission, receipts, errors and metrics.
#include <gtest/gtest.h>

#include "server/admission.h"
#include "server/api_keys.h"
#include "server/generations.h"
#include "server/json_text.h"
#include "server/metrics.h"
#include "server/receipt_json.h"
#include "server/request_log.h"
#include "server/router.h"

namespace winnow::server {
namespace {

TEST(Router, MatchesPathsExactlyAndDecodesWhatPatternsName) {
  Router router;
  router.Add({.method = "GET", .path = "/v1/files/{id}"});
  router.Add({.method = "DELETE", .path = "/v1/files/{id}"});
  router.Add({.method = "GET", .path = "/v1/files/{id}/content"});
  router.Add({.method = "GET", .path = "/v1/models/{name*}"});
  router.Add({.method = "GET", .path = "/"});
  EXPECT_EQ(router.Match("GET", "/v1/files/a%20b").params.at(0).second, "a b");
  EXPECT_EQ(router.Match("GET", "/v1/files/a/content").index, 2u);
  EXPECT_EQ(router.Match("GET", "/v1/models/a/b").params.at(0).second, "a/b");
  EXPECT_EQ(router.Match("HEAD", "/").index, 4u);
  EXPECT_EQ(router.Match("POST", "/v1/files/a").allowed, "GET, HEAD, DELETE");
  EXPECT_EQ(router.Match("POST", "/v1/files/a").route, nullptr);
  for (const char* path : {"/v1/files", "/v1/files/", "/v1/files/a/", "/v1/files/%zz",
                           "//v1/files/a", "/v1/files/a/b", "/V1/files/a", "/v1/models"}) {
    EXPECT_EQ(router.Match("GET", path).allowed, "") << path;
  }
}

TEST(ApiKeys, KnowsKeysByNameAndRepeatsNone) {
  const auto keys = ApiKeys::Load({"alice=secret", "plain", "aGVsbG8="}, "");
  ASSERT_TRUE(keys.ok()) << keys.status().ToString();
  EXPECT_EQ(keys->NameOf("secret"), "alice");
  EXPECT_EQ(keys->NameOf("plain"), "key-2");
  EXPECT_EQ(keys->NameOf("aGVsbG8="), "key-3");
  EXPECT_EQ(keys->NameOf("alice=secret"), std::nullopt);
  EXPECT_EQ(keys->NameOf(""), std::nullopt);
  const auto twice = ApiKeys::Load({"a=secret", "b=secret"}, "");
  ASSERT_FALSE(twice.ok());
  EXPECT_EQ(twice.error().message().find("secret"), std::string::npos);
  EXPECT_FALSE(ApiKeys::Load({"a name=x"}, "").ok());
  EXPECT_FALSE(ApiKeys::Load({""}, "").ok());
}

TEST(Chunks, MergeToWhatBothSaid) {
  Chunk chunk;
  chunk.text = "one";
  chunk.reasoning = "so";
  chunk.token_ids = {1};
  chunk.details.resize(1);
  chunk.prompt_details.resize(2);
  chunk.tool_calls.resize(1);
  Chunk next;
  next.text = " two";
  next.reasoning = " then";
  next.token_ids = {2, 3};
  next.details.resize(2);
  next.prompt_details.resize(1);
  next.tool_calls.resize(2);
  next.prefilled = 7;
  next.prompt_tokens = 8;
  next.finish = FinishReason::kStop;
  next.stop = "end";
  next.receipt.completion_tokens = 3;
  Merge(std::move(next), &chunk);
  EXPECT_EQ(chunk.text, "one two");
  EXPECT_EQ(chunk.reasoning, "so then");
  EXPECT_EQ(chunk.token_ids, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(chunk.details.size(), 3u);
  EXPECT_EQ(chunk.prompt_details.size(), 3u);
  EXPECT_EQ(chunk.tool_calls.size(), 3u);
  EXPECT_EQ(chunk.prefilled, 7);
  EXPECT_EQ(chunk.prompt_tokens, 8);
  EXPECT_EQ(chunk.finish, FinishReason::kStop);
  EXPECT_EQ(chunk.stop, "end");
  EXPECT_EQ(chunk.receipt.completion_tokens, 3);
}

HttpRequest Get(const std::string& path, Headers headers) {
  HttpRequest request;
  request.method = "GET";
  request.path = path;
  request.headers = std::move(headers);
  return request;
}

TEST(Admission, TellsNothingToThoseWithoutAKey) {
  Router router;
  router.Add({.method = "GET", .path = "/v1/models"});
  router.Add(
      {.method = "GET", .path = "/health", .open = true, .needs_model = false, .always = true});
  const Admission admission({}, *ApiKeys::Load({"k"}, ""), router);
  const auto status = [&](const std::string& path, Headers headers, AdmissionState state = {}) {
    headers.emplace_back("host", "localhost:8000");
    HttpRequest request = Get(path, std::move(headers));
    const auto response = admission.Decide(state, &request);
    return response ? response->status : 200;
  };
  EXPECT_EQ(status("/v1/models", {}), 401);
  EXPECT_EQ(status("/nothing", {}), 401);
  EXPECT_EQ(status("/health", {}), 200);
  EXPECT_EQ(status("/v1/models", {{"authorization", "Bearer k"}}), 200);
  EXPECT_EQ(status("/v1/models", {{"authorization", "bearer  k"}}), 200);
  EXPECT_EQ(status("/v1/models", {{"authorization", "Basic k"}}), 401);
  EXPECT_EQ(status("/v1/models", {{"x-api-key", "k"}}), 200);
  EXPECT_EQ(status("/nothing", {{"x-api-key", "k"}}), 404);
  EXPECT_EQ(status("/v1/models", {{"x-api-key", "k"}}, {.loading = true}), 503);
  EXPECT_EQ(status("/v1/models", {{"x-api-key", "k"}}, {.draining = true}), 503);
  EXPECT_EQ(status("/health", {}, {.loading = true, .draining = true}), 200);
}

TEST(Admission, ServesForeignNamesOnlyWhereTheyWereAllowed) {
  Router router;
  router.Add({.method = "GET", .path = "/"});
  const auto status = [&](bool loopback, std::vector<std::string> hosts, const std::string& host) {
    const Admission admission({.loopback = loopback, .allowed_hosts = std::move(hosts)}, {},
                              router);
    HttpRequest request = Get("/", {{"host", host}});
    const auto response = admission.Decide({}, &request);
    return response ? response->status : 200;
  };
  EXPECT_EQ(status(true, {}, "localhost"), 200);
  EXPECT_EQ(status(true, {}, "localhost.evil.example"), 421);
  EXPECT_EQ(status(true, {}, "evil.example:8000"), 421);
  EXPECT_EQ(status(true, {"winnow.example"}, "winnow.example:443"), 200);
  EXPECT_EQ(status(false, {}, "anything.example"), 200);
  EXPECT_EQ(status(false, {"winnow.example"}, "anything.example"), 421);
}

TEST(Receipts, PriceTheMachinesTime) {
  Receipt receipt;
  receipt.prompt_tokens = 100;
  receipt.cached_tokens = 60;
  receipt.computed_tokens = 40;
  receipt.completion_tokens = 10;
  receipt.prefill.seconds = 27.0;
  receipt.decode.seconds = 9.0;
  receipt.prefill.dense_seconds = 300.0;
  receipt.decode.dense_seconds = 60.0;
  EXPECT_DOUBLE_EQ(Dollars(receipt, 2.0), 0.02);
  EXPECT_DOUBLE_EQ(DenseDollarsModelled(receipt, 2.0), 0.2);
  const json::object priced = ReceiptJson(receipt, 2.0);
  EXPECT_DOUBLE_EQ(priced.at("dollars").as_double(), 0.02);
  EXPECT_DOUBLE_EQ(priced.at("dense_dollars_modelled").as_double(), 0.2);
  EXPECT_EQ(priced.at("prefill").at("tokens").as_int64(), 40);
  EXPECT_EQ(ReceiptJson(receipt, std::nullopt).if_contains("dollars"), nullptr);
  Receipt both;
  AddReceipt(receipt, &both);
  AddReceipt(receipt, &both);
  EXPECT_DOUBLE_EQ(Dollars(both, 2.0), 0.04);
  EXPECT_EQ(both.completion_tokens, 20);
}

TEST(Errors, HaveTheShapeOfEachApi) {
  ApiError error = ToApiError(ResourceExhausted("queue: it is full"));
  EXPECT_EQ(error.status, 429);
  EXPECT_EQ(ErrorBody(error, ErrorStyle::kOpenAi, "r"),
            "{\"error\":{\"type\":\"rate_limit_error\",\"message\":\"queue: it is full\","
            "\"param\":null,\"code\":null}}");
  EXPECT_EQ(ErrorBody(error, ErrorStyle::kAnthropic, "r"),
            "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":"
            "\"queue: it is full\"},\"request_id\":\"r\"}");
  EXPECT_EQ(ToApiError(Unavailable("x")).status, 503);
  EXPECT_EQ(ToApiError(Unsupported("x")).status, 400);
  EXPECT_EQ(ToApiError(Internal("x")).status, 500);
}

TEST(Metrics, CountValuesUpToEachBound) {
  Histogram histogram({1.0, 2.0});
  for (const double value : {0.5, 1.0, 1.5, 9.0}) histogram.Add(value);
  std::string text;
  histogram.Append("h", "help", "", &text);
  EXPECT_EQ(text,
            "# HELP h help\n# TYPE h histogram\n"
            "h_bucket{le=\"1\"} 2\nh_bucket{le=\"2\"} 3\nh_bucket{le=\"+Inf\"} 4\n"
            "h_sum 12\nh_count 4\n");
}

TEST(Log, SaysNothingOfPromptsUnlessAsked) {
  RequestRecord record;
  record.id = "r";
  record.path = "/v1/completions";
  record.status = 200;
  record.num_choices = 1;
  record.finish = "stop";
  record.receipt.completion_tokens = 3;
  const auto parsed = ParseJson(RequestLogLine(record), "line");
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->at("completion_tokens").as_int64(), 3);
  EXPECT_EQ(parsed->as_object().if_contains("request"), nullptr);
  record.prompt = "{\"prompt\":\"x\"}";
  EXPECT_NE(RequestLogLine(record).find("\"request\""), std::string::npos);
}

TEST(Http, DecodesPercentSigns) {
  EXPECT_EQ(PercentDecode("a%2Fb+c", true), "a/b c");
  EXPECT_EQ(PercentDecode("a+b", false), "a+b");
  EXPECT_EQ(PercentDecode("%4", false), std::nullopt);
  EXPECT_EQ(PercentDecode("%zz", false), std::nullopt);
}

}  // namespace
}  // namespace winnow::server
