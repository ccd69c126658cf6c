// Batch: what winnow/batch.h promises, from the parts that the server's batches have as well.
#include "winnow/batch.h"

#include <atomic>
#include <chrono>

#include "base/check.h"
#include "base/output_file.h"
#include "base/text.h"
#include "server/batch_input.h"
#include "server/batch_output.h"
#include "server/batch_runner.h"
#include "server/model_name.h"
#include "server/receipt_json.h"

namespace winnow {
namespace {

using server::BatchInput;
using server::BatchOutput;
using server::BatchResult;

constexpr int64_t kMaxLineBytes = int64_t{64} << 20;

Status CheckFiles(const BatchOptions& options) {
  if (SameFile(options.input, options.output)) {
    return InvalidArgument(options.output + ": input and output are one file, expected two");
  }
  for (const std::string& file : FilesIn(options.engine.model_dir)) {
    if (SameFile(options.output, file)) {
      return InvalidArgument(options.output + ": it would replace a file of the model");
    }
  }
  return OkStatus();
}

}  // namespace

struct Batch::State {
  State(BatchOptions its_options, BatchInput its_input, BatchOutput its_output)
      : options(std::move(its_options)),
        input(std::move(its_input)),
        output(std::move(its_output)) {}

  void Observe(const server::RequestRecord& record);

  const BatchOptions options;
  BatchInput input;
  BatchOutput output;
  std::vector<bool> done;
  std::atomic<bool> stop{false};
  BatchSummary summary;
};

Batch::Batch(std::unique_ptr<State> state) : state_(std::move(state)) {}
Batch::Batch(Batch&&) noexcept = default;
Batch& Batch::operator=(Batch&&) noexcept = default;
Batch::~Batch() = default;

Result<Batch> Batch::Open(const BatchOptions& options) {
  WINNOW_TRY(CheckFiles(options));
  server::BatchRules rules{
      .max_line_bytes = kMaxLineBytes,
      .model_names = server::AcceptedNames(options.served_model_names, options.engine.model_dir)};
  std::vector<server::BatchProblem> problems;
  WINNOW_ASSIGN(BatchInput input,
                BatchInput::Open(options.input, std::move(rules), nullptr, &problems));
  WINNOW_TRY(server::ProblemsStatus(options.input, problems));

  std::vector<bool> done(static_cast<size_t>(input.size()));
  int64_t done_before = 0;
  WINNOW_ASSIGN(
      BatchOutput output, BatchOutput::Open(options.output, [&](const BatchResult& result) {
        const std::optional<int64_t> request = input.Find(result.custom_id);
        if (!request) {
          return InvalidArgument(
              fmt::format("custom_id: {}, which {} does not have, expected results "
                          "of its requests",
                          Quoted(result.custom_id), options.input));
        }
        if (done[static_cast<size_t>(*request)]) {
          return InvalidArgument(fmt::format("custom_id: {} for the second time, expected it once",
                                             Quoted(result.custom_id)));
        }
        done[static_cast<size_t>(*request)] = true;
        ++done_before;
        return OkStatus();
      }));
  auto state = std::make_unique<State>(options, std::move(input), std::move(output));
  state->done = std::move(done);
  state->summary.requests = state->input.size();
  state->summary.done_before = done_before;
  return Batch(std::move(state));
}

void Batch::State::Observe(const server::RequestRecord& record) {
  server::AddReceipt(record.receipt, &summary.receipt);
  if (record.status == 499) {
    ++summary.interrupted;
  } else if (record.status == 200) {
    ++summary.answered;
  } else {
    ++summary.refused;
  }
  if (!options.dollars_per_hour) return;
  summary.dollars = server::Dollars(summary.receipt, *options.dollars_per_hour);
  summary.dense_dollars = server::DenseDollarsModelled(summary.receipt, *options.dollars_per_hour);
}

Status Batch::Run(Engine& engine, const Watch& watch) {
  State& state = *state_;
  const BatchOptions& options = state.options;
  const auto names = server::ModelNames(options.served_model_names, options.engine.model_dir);
  const auto start = std::chrono::steady_clock::now();
  const auto look = [&] {
    const auto passed = std::chrono::steady_clock::now() - start;
    state.summary.seconds = std::chrono::duration<double>(passed).count();
    if (watch) watch(state.summary);
  };
  server::BatchRun run;
  run.context = {.engine = &engine,
                 .model = names.front(),
                 .fingerprint = server::Fingerprint(engine.info(), options.engine),
                 .dollars_per_hour = options.dollars_per_hour};
  run.input = &state.input;
  run.done = state.done;
  run.results = &state.output;
  run.errors = &state.output;
  const int64_t concurrency =
      options.concurrency > 0 ? options.concurrency : options.engine.max_sequences;
  run.concurrency = [&] {
    look();
    return concurrency;
  };
  run.observe = [&](const server::RequestRecord& record) { state.Observe(record); };
  run.stop = &state.stop;
  const Status status = server::RunBatch(run);
  look();
  return status;
}

const BatchSummary& Batch::summary() const { return state_->summary; }

void Batch::Stop() { state_->stop.store(true); }

}  // namespace winnow
