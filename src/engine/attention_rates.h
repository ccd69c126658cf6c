// How long attention takes on this machine, by the row: what it takes to say how long dense
// attention would have taken.
#pragma once

#include "engine/cost.h"
#include "engine/model_runner.h"

namespace winnow {

class AttentionRates {
 public:
  // Not measured.
  AttentionRates() = default;

  // Runs the model's own attention and indexer over the first pages of its cache, which it
  // overwrites, in both phases. Takes about a second.
  static Result<AttentionRates> Measure(ModelRunner& runner);

  bool measured() const { return prompt_.dense_row > 0; }

  // The time that a step's share took, with its sparse attention and indexer replaced by dense
  // attention at the measured rates. Never below the time of everything else.
  double DenseSeconds(const RunCounts& counts, double seconds) const;

 private:
  struct Rates {  // seconds
    double dense_row = 0;
    double sparse_row = 0;
    double index_key = 0;
  };

  Rates prompt_;  // many tokens of a sequence at a time
  Rates answer_;  // one
};

}  // namespace winnow
