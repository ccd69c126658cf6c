// A draw as draw_token.h defines it, by sorting: what devices are held to. Masses are its own, and
// held to e^x by draw_token_test.cc.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backend/draw_token.h"

namespace winnow {

struct PlainToken {
  int32_t id = 0;
  float logit = 0;
  uint64_t mass = 0;
};

// The tokens that may be drawn, ascending by id.
inline std::vector<PlainToken> PlainKept(const std::vector<float>& logits, const DrawRule& rule) {
  std::vector<PlainToken> tokens;
  const size_t limit = std::min(logits.size(), static_cast<size_t>(std::max(rule.below, 0)));
  for (size_t id = 0; id < limit; ++id) {
    float logit = logits[id];
    if (std::isnan(logit) || logit == -std::numeric_limits<float>::infinity()) continue;
    if (std::fabs(logit) < std::numeric_limits<float>::min()) logit = 0;
    tokens.push_back({static_cast<int32_t>(id), logit, 0});
  }
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const PlainToken& a, const PlainToken& b) { return a.logit > b.logit; });
  if (tokens.empty() || std::isinf(tokens[0].logit)) return {};
  if (rule.temperature < std::numeric_limits<double>::min()) return {tokens[0]};
  if (rule.top_k > 0 && static_cast<size_t>(rule.top_k) < tokens.size()) {
    tokens.resize(static_cast<size_t>(rule.top_k));
  }
  const double scale = ExponentScale(rule.temperature);
  const float largest = tokens[0].logit;
  for (PlainToken& token : tokens) token.mass = MassOf(ExponentOf(token.logit, largest, scale));
  std::erase_if(tokens, [&](const PlainToken& token) {
    return static_cast<double>(token.mass) < rule.min_p * std::ldexp(1.0, 40);
  });
  uint64_t total = 0;
  for (const PlainToken& token : tokens) total += token.mass;
  uint64_t sum = 0;
  size_t run = 0;
  while (run < tokens.size() &&
         (run == 0 ||
          (static_cast<double>(sum) < rule.top_p * static_cast<double>(total) && sum < total))) {
    sum += tokens[run++].mass;
  }
  tokens.resize(run);
  std::sort(tokens.begin(), tokens.end(),
            [](const PlainToken& a, const PlainToken& b) { return a.id < b.id; });
  return tokens;
}

inline int32_t PlainDraw(const std::vector<float>& logits, const DrawRule& rule) {
  const std::vector<PlainToken> tokens = PlainKept(logits, rule);
  if (tokens.empty()) return -1;
  if (tokens.size() == 1) return tokens[0].id;
  uint64_t total = 0;
  for (const PlainToken& token : tokens) total += token.mass;
  uint64_t place = static_cast<uint64_t>(
      static_cast<unsigned __int128>(rule.random) * static_cast<unsigned __int128>(total) >> 64);
  for (const PlainToken& token : tokens) {
    if (place < token.mass) return token.id;
    place -= token.mass;
  }
  return -2;
}

struct DrawCase {
  std::string name;
  std::vector<float> logits;
};

// Rows that are hard to draw from, of a vocabulary of so many.
inline std::vector<DrawCase> DrawCases(int64_t size, uint32_t seed) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::mt19937 bits(seed);
  const auto make = [&](auto logit) {
    std::vector<float> row(static_cast<size_t>(size));
    for (float& value : row) value = logit();
    return row;
  };
  const auto normal = [&] { return std::normal_distribution<float>(0, 2.5f)(bits); };
  std::vector<DrawCase> cases = {
      {"normal", make(normal)},
      {"ties", make([&] { return std::floor(normal()); })},
      {"many ties", make([&] { return bits() % 8 ? 1.5f : 2.0f; })},
      {"equal", make([] { return -2.5f; })},
      {"equal zeros", make([&] { return bits() % 2 ? 0.0f : -0.0f; })},
      {"tiny", make([&] { return normal() * 1e-39f; })},
      {"huge", make([&] { return normal() * 1e37f; })},
      {"one bit apart", make([&] { return 1 + static_cast<float>(bits() % 64) * 0x1p-23f; })},
      {"holes", make([&] { return bits() % 3 ? (bits() % 2 ? NAN : -kInfinity) : normal(); })},
      {"nothing", make([&] { return bits() % 2 ? NAN : -kInfinity; })},
      {"rising", make([at = 0.0f]() mutable { return at += 0.01f; })},
  };
  std::vector<float> one(static_cast<size_t>(size), -kInfinity);
  one[bits() % one.size()] = -3;
  cases.push_back({"one", std::move(one)});
  std::vector<float> infinite = make(normal);
  infinite[bits() % infinite.size()] = kInfinity;
  cases.push_back({"infinite", std::move(infinite)});
  return cases;
}

// Rules of every kind for a vocabulary of so many, each with numbers at the ends and between.
inline std::vector<DrawRule> DrawRules(int64_t size, uint32_t seed) {
  std::mt19937_64 bits(seed);
  const int32_t all = static_cast<int32_t>(size);
  std::vector<DrawRule> kinds = {
      {},
      {.temperature = 0.7},
      {.temperature = 0.7, .top_p = 0.95},
      {.temperature = 1, .top_p = 0.5},
      {.temperature = 100, .top_p = 0.3},
      {.temperature = 1e-6, .top_p = 0.9},
      {.temperature = 5e-324},
      {.temperature = 1e-300},
      {.temperature = 1, .top_p = 1e-12},
      {.top_k = 1, .temperature = 2},
      {.top_k = 2, .temperature = 2},
      {.top_k = 50, .temperature = 1},
      {.top_k = all / 2 + 1, .temperature = 1, .top_p = 0.8},
      {.top_k = all, .temperature = 1},
      {.top_k = std::numeric_limits<int32_t>::max(), .temperature = 3, .top_p = 0.999},
      {.temperature = 1, .min_p = 0.05},
      {.temperature = 1, .min_p = 1},
      {.top_k = 40, .temperature = 0.8, .top_p = 0.9, .min_p = 0.02},
  };
  std::vector<DrawRule> rules;
  for (DrawRule rule : kinds) {
    for (const uint64_t random : {uint64_t{0}, ~uint64_t{0}, bits()}) {
      rule.random = random;
      rule.below = bits() % 3 ? std::numeric_limits<int32_t>::max() : all - all / 10;
      rules.push_back(rule);
    }
  }
  return rules;
}

inline std::string Describe(const DrawRule& rule) {
  return "below " + std::to_string(rule.below) + ", top_k " + std::to_string(rule.top_k) +
         ", temperature " + std::to_string(rule.temperature) + ", top_p " +
         std::to_string(rule.top_p) + ", min_p " + std::to_string(rule.min_p) + ", random " +
         std::to_string(rule.random);
}

}  // namespace winnow
