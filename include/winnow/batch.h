// Many requests from a file, their results into another: OpenAI's batch format, without a server.
// docs/batch.md describes both files.
//
//   winnow::Batch batch = winnow::Batch::Open(options).value();      // checks every line
//   winnow::Engine engine = winnow::Engine::Load(options.engine).value();
//   winnow::Status status = batch.Run(engine);                       // goes on where it stopped
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "winnow/status.h"
#include "winnow/winnow.h"

namespace winnow {

struct BatchOptions {
  EngineOptions engine;  // what Run's engine was loaded with
  std::string input;     // JSON Lines
  std::string output;    // likewise; what it has already is not run again
  // What "model" may be in requests, as ServerOptions has it.
  std::vector<std::string> served_model_names;
  int64_t concurrency = 0;                 // generations that run together; 0: max_sequences
  std::optional<double> dollars_per_hour;  // of the machine, for receipts
};

// What one Run did.
struct BatchSummary {
  int64_t requests = 0;      // in the input
  int64_t done_before = 0;   // had a result when the batch was opened
  int64_t answered = 0;      // since then
  int64_t refused = 0;       // likewise; their results have a status_code other than 200
  int64_t interrupted = 0;   // begun, and to be run again
  Receipt receipt;           // of all that ran, interrupted ones included
  double seconds = 0;        // that passed
  double dollars = 0;        // of the machine's time; 0 without a price
  double dense_dollars = 0;  // modelled: what dense attention would have made of them
};

class Batch {
 public:
  // Checks every line of the input, reads the results that the output has, and cuts off what a kill
  // left of one more. Writes nothing else. kInvalidArgument, kNotFound or kUnavailable naming file,
  // line and field.
  static Result<Batch> Open(const BatchOptions& options);
  Batch(Batch&&) noexcept;
  Batch& operator=(Batch&&) noexcept;
  ~Batch();

  // Called on Run's thread after each result and about ten times a second.
  using Watch = std::function<void(const BatchSummary&)>;

  // Runs what has no result. Results are appended as they come and are on the disk within about a
  // second. kCancelled after Stop, kResourceExhausted if a result cannot be written: the output is
  // whole then, and the batch can be opened again. To be called once.
  Status Run(Engine& engine, const Watch& watch = {});
  // So far.
  const BatchSummary& summary() const;

  // Has Run return soon. From any thread or signal handler.
  void Stop();

 private:
  struct State;
  explicit Batch(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace winnow
