// What the checks and the times of DSA's kernels share.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cuda/dsa/lightning_indexer_sm90.h"
#include "cuda/dsa/token_selection_sm90.h"
#include "device.h"

namespace winnow::cuda {

// Each in a file of its own: dsa_check_selection.cu, dsa_check_attention.cu, dsa_times.cu.
void CheckIndexers();
void CheckSelections();
void CheckAttention();
void TimeShapes(int topk);

inline int multiprocessors = 0;
inline int failures = 0;
inline std::mt19937_64 generator(20260101);

inline void Report(const std::string& name, bool ok, const std::string& detail) {
  std::printf("%s %s %s\n", ok ? "ok  " : "FAIL", name.c_str(), detail.c_str());
  std::fflush(stdout);
  failures += !ok;
}

inline float Uniform(float low, float high) {
  return std::uniform_real_distribution<float>(low, high)(generator);
}
inline float Normal() { return std::normal_distribution<float>()(generator); }

inline uint16_t ToBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline float FromBf16(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }
inline float FromE4m3(uint8_t code) {
  const int exponent = code >> 3 & 15;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(code & 7), -9)
                              : std::ldexp(1.0f + static_cast<float>(code & 7) / 8, exponent - 7);
  return code & 0x80 ? -magnitude : magnitude;
}

template <typename Body>
void Parallel(int64_t count, const Body& body) {
  const int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      for (int64_t i = t; i < count; i += threads) body(i);
    });
  }
  for (std::thread& thread : pool) thread.join();
}

// Words of the command line: names are wanted that have one of them.
inline std::vector<std::string> words;
inline bool Wanted(const std::string& name) {
  if (words.empty()) return true;
  return std::any_of(words.begin(), words.end(),
                     [&](const std::string& w) { return name.find(w) != std::string::npos; });
}

// ---- A paged cache of index keys and the tokens that look at it ---------------------------------

struct Batch {
  std::vector<int32_t> positions, sequences, page_table;
  int64_t table_stride = 0;
  int64_t num_pages = 0;

  // contexts[t]: candidates of token t; of_sequence[t]: whose they are.
  Batch(const std::vector<int>& contexts, const std::vector<int>& of_sequence) {
    const int sequences_count = *std::max_element(of_sequence.begin(), of_sequence.end()) + 1;
    const int longest = *std::max_element(contexts.begin(), contexts.end());
    table_stride = (longest + 63) / 64;
    num_pages = sequences_count * table_stride;
    page_table.resize(static_cast<size_t>(num_pages));
    std::iota(page_table.begin(), page_table.end(), 0);
    std::shuffle(page_table.begin(), page_table.end(), generator);
    for (size_t t = 0; t < contexts.size(); ++t) {
      positions.push_back(contexts[t] - 1);
      sequences.push_back(of_sequence[t]);
    }
  }
  int64_t Slot(int64_t token, int64_t position) const {
    return page_table[static_cast<size_t>(sequences[static_cast<size_t>(token)] * table_stride +
                                          position / 64)] *
               64 +
           position % 64;
  }
  int64_t tokens() const { return static_cast<int64_t>(positions.size()); }
};

struct DeviceBatch {
  Device<int32_t> positions, sequences, page_table;
  explicit DeviceBatch(const Batch& b)
      : positions(b.positions), sequences(b.sequences), page_table(b.page_table) {}
};

// What a selection from ranges keeps between them.
struct Candidates {
  Device<uint32_t> keys, counts, worst;
  Device<int32_t> positions;

  Candidates(int64_t tokens, int64_t topk)
      : keys(static_cast<size_t>(tokens * RunningRoom(topk))),
        counts(static_cast<size_t>(tokens)),
        worst(static_cast<size_t>(tokens)),
        positions(static_cast<size_t>(tokens * RunningRoom(topk))) {}
  RunningSelection Running() const {
    return {keys.get(), positions.get(), counts.get(), worst.get()};
  }
};

}  // namespace winnow::cuda
