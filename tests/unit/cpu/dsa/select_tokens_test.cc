// The streamed selection against the two definitions in sequence: equal on every instruction set,
// for every number of threads and any cut of the batch.
#include <gtest/gtest.h>

#include "dsa_problem.h"

namespace winnow::cpu {
namespace {

void ExpectTheDefinitions(const SelectProblem& problem, const std::string& what) {
  static const std::vector<NamedBackend>* backends = new auto(AllBackends());
  static unsigned seed = 0;
  const SelectCase problem_case(problem, ++seed);
  const Selected expected = problem_case.Expected();
  for (const NamedBackend& named : *backends) {
    for (int64_t chunk : {int64_t{1} << 30, int64_t{5}}) {
      const Selected selected = problem_case.Run(*named.backend, chunk);
      ASSERT_EQ(selected.counts, expected.counts) << what << ", " << named.name << ", " << chunk;
      ASSERT_EQ(selected.positions, expected.positions)
          << what << ", " << named.name << ", " << chunk;
      ASSERT_EQ(selected.slots, expected.slots) << what << ", " << named.name << ", " << chunk;
    }
  }
}

constexpr IndexKeyType kKeyTypes[] = {IndexKeyType::kF32, IndexKeyType::kBf16, IndexKeyType::kE4m3,
                                      IndexKeyType::kInt8};

TEST(SelectTokens, GivesWhatTheDefinitionsGiveForEveryKeyType) {
  for (IndexKeyType type : kKeyTypes) {
    ExpectTheDefinitions({.type = type,
                          .topk = 50,
                          .sequences = {{200, Range(170, 200)}, {64, {63}}, {131, Range(0, 131)}}},
                         Name(type));
  }
}

TEST(SelectTokens, BreaksTiesTowardTheLowerPosition) {
  for (IndexKeyType type : kKeyTypes) {
    for (Values values : {Values::kFew, Values::kAllSame}) {
      ExpectTheDefinitions({.type = type,
                            .index_dim = 16,
                            .topk = 33,
                            .values = values,
                            .sequences = {{700, {699, 40, 33, 32, 31, 500}}}},
                           Name(type));
    }
  }
}

TEST(SelectTokens, NeverChoosesNanAndSurvivesInfinities) {
  for (IndexKeyType type : kKeyTypes) {
    for (Values values : {Values::kHostile, Values::kAllNan}) {
      ExpectTheDefinitions({.type = type,
                            .index_dim = 64,
                            .topk = 40,
                            .values = values,
                            .sequences = {{300, {299, 100, 41, 40, 39, 0}}}},
                           Name(type));
    }
  }
}

TEST(SelectTokens, HoldsAroundTheEdgesOfK) {
  for (int64_t topk : {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1 << 30}) {
    ExpectTheDefinitions({.index_heads = 3,
                          .index_dim = 32,
                          .topk = topk,
                          .sequences = {{1, {0}}, {129, Range(60, 129)}, {16, {15}}}},
                         "K = " + std::to_string(topk));
  }
}

TEST(SelectTokens, HoldsForEveryShapeOfTheIndexer) {
  for (int64_t index_heads : {1, 2, 3, 4, 7, 32, 64}) {
    for (int64_t index_dim : {1, 2, 16, 128, 256, 2048}) {
      if (index_dim == 2048 && index_heads > 7 && index_heads < 64)
        continue;  // the definition is slow
      ExpectTheDefinitions({.index_heads = index_heads,
                            .index_dim = index_dim,
                            .topk = 20,
                            .sequences = {{70, {69, 30}}, {90, Range(75, 90)}}},
                           std::to_string(index_heads) + " heads of " + std::to_string(index_dim));
    }
  }
}

TEST(SelectTokens, ReadsPagesOfAnySizeInAnyOrder) {
  for (int64_t page_size : {16, 32, 48, 64, 80, 256}) {
    ExpectTheDefinitions(
        {.index_dim = 32,
         .topk = 30,
         .page_size = page_size,
         .sequences = {{page_size, {static_cast<int32_t>(page_size) - 1}},
                       {page_size + 1, {static_cast<int32_t>(page_size)}},
                       {3 * page_size + 5, Range(static_cast<int32_t>(3 * page_size),
                                                 static_cast<int32_t>(3 * page_size) + 5)}}},
        "pages of " + std::to_string(page_size));
  }
}

TEST(SelectTokens, CutsLongContextsWithoutATrace) {
  for (Values values : {Values::kNormal, Values::kFew}) {
    ExpectTheDefinitions({.index_heads = 2,
                          .index_dim = 16,
                          .topk = 600,
                          .values = values,
                          .sequences = {{9001, {9000}}, {4500, {4400, 4401}}}},
                         "long contexts");
  }
}

TEST(SelectTokens, KeepsRisingAndFallingScores) {
  // Sequences in which each later key scores higher, and lower: the sieve's worst and best cases
  // come from the order alone, which chance does not make.
  ExpectTheDefinitions({.type = IndexKeyType::kF32,
                        .index_heads = 1,
                        .index_dim = 16,
                        .topk = 100,
                        .values = Values::kRising,
                        .sequences = {{3000, {2999, 1500}}}},
                       "rising");
  ExpectTheDefinitions({.type = IndexKeyType::kF32,
                        .index_heads = 1,
                        .index_dim = 16,
                        .topk = 100,
                        .values = Values::kFalling,
                        .sequences = {{3000, {2999, 1500}}}},
                       "falling");
}

}  // namespace
}  // namespace winnow::cpu
