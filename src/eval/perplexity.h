// Perplexity by position, dense and sparse side by side.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace winnow::eval {

// Positions [first, end) of a window: [0, k), [k, 2k), [2k, 4k), … for k = index_topk.
struct Bucket {
  int64_t first = 0;
  int64_t end = 0;
};
int64_t BucketOf(int64_t position, int64_t topk);
Bucket BucketAt(int64_t index, int64_t topk);

// Sums of -ln p over the same predictions.
struct LossSum {
  int64_t tokens = 0;
  double dense = 0;
  double sparse = 0;

  void Add(const LossSum& other);
};

// exp of the mean; NaN of nothing.
double Perplexity(double sum, int64_t tokens);
// How far sparse lies above dense, in percent.
double SparseRatio(const LossSum& sum);

struct TextLosses {
  std::string name;
  int64_t tokens = 0;  // of the text, without beginnings of sentences
  int64_t windows = 0;
  std::vector<LossSum> buckets;  // by BucketOf

  LossSum Total() const;
  // Of positions with more context than index_topk.
  LossSum Beyond() const;
};

// Windows of at most `length` tokens, `bos` (-1: none) in front of each; a rest of fewer than two
// tokens is left out.
std::vector<std::vector<int32_t>> CutWindows(const std::vector<int32_t>& tokens, int64_t length,
                                             int32_t bos);

}  // namespace winnow::eval
