// What sparse attention keeps of a model, measured on any text: docs/eval.md defines every number.
//
// Each function loads the model itself, checks everything that can be checked before the work
// begins, outputs included, and returns tables for people and one JSON object for programs. Outputs
// never replace what is read.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "winnow/status.h"
#include "winnow/winnow.h"

namespace winnow {

// What all evaluations take.
struct EvalOptions {
  EngineOptions engine;            // `attention` and `max_context` are the evaluation's own affair
  std::vector<std::string> texts;  // UTF-8 files, at least one
  std::string json;                // a file to write the JSON object to; empty: none
  std::string svg;                 // a file to write a plot to; empty: none
  uint64_t seed = 1;               // of everything that is drawn
  // Called with the fraction done and what is being done; false ends the evaluation (kCancelled).
  // May be empty.
  std::function<bool(double, const std::string&)> progress;
  // Called with a line to show at once: that work will take long. May be empty.
  std::function<void(const std::string&)> notice;
};

struct EvalReport {
  std::string table;  // lines of text
  std::string json;   // one object
  std::string svg;    // a plot
};

struct PerplexityOptions {
  EvalOptions eval;
  int64_t length = 0;  // tokens of a window; 0: the text's, at most what the model was made for
};

// Perplexity by position, dense and sparse side by side, on the same tokens.
Result<EvalReport> EvaluatePerplexity(const PerplexityOptions& options);

struct NeedleOptions {
  EvalOptions eval;
  std::string needles = "examples/needles.json";
  // Tokens of prompt and answer together, all different.
  std::vector<int64_t> lengths = {2048, 4096, 8192, 16384};
  int64_t depths = 10;  // needles in a document
  int64_t trials = 1;   // documents of each length
  bool sparse = true;
  bool dense = true;
};

// Facts found, absences admitted and passages continued, over depth and length.
Result<EvalReport> EvaluateNeedle(const NeedleOptions& options);

struct RecallOptions {
  EvalOptions eval;
  int64_t length = 8192;
  int64_t queries = 64;
};

// What the indexer's selection keeps of dense attention, layer by layer, for each form of the index
// keys.
Result<EvalReport> EvaluateRecall(const RecallOptions& options);

struct PoliciesOptions {
  EvalOptions eval;
  int64_t length = 8192;
  std::string needles = "examples/needles.json";
  int64_t depths = 10;
};

// Other ways to choose as many tokens, beside DSA: perplexity and facts found.
Result<EvalReport> EvaluatePolicies(const PoliciesOptions& options);

}  // namespace winnow
