#include "server/batch_queue.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "base/check.h"
#include "base/text.h"

namespace winnow::server {
namespace {

constexpr int64_t kMostRunning = 4;  // batches
constexpr int64_t kMaxLines = 50'000;
constexpr auto kRest = std::chrono::seconds(10);  // before what was interrupted is taken up again

int64_t Now() { return static_cast<int64_t>(std::time(nullptr)); }

std::string TextField(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains({name.data(), name.size()});
  if (value == nullptr || !value->is_string()) return {};
  return {value->get_string().data(), value->get_string().size()};
}

json::object Counts(int64_t total, int64_t completed, int64_t failed) {
  return {{"total", total}, {"completed", completed}, {"failed", failed}};
}

int64_t TotalOf(const json::object& object) {
  const json::value* counts = object.if_contains("request_counts");
  if (counts == nullptr || !counts->is_object()) return 0;
  const json::value* total = counts->get_object().if_contains("total");
  return total != nullptr && total->is_int64() ? total->get_int64() : 0;
}

json::value TextOrNull(const std::string& text) {
  return text.empty() ? json::value(nullptr) : json::value(text);
}

json::object ErrorsJson(const std::vector<BatchProblem>& problems) {
  json::array data;
  for (const BatchProblem& problem : problems) {
    data.push_back(json::object{
        {"code", TextOrNull(problem.code)},
        {"message", problem.message},
        {"param", TextOrNull(problem.param)},
        {"line", problem.line > 0 ? json::value(problem.line) : json::value(nullptr)}});
  }
  return {{"object", "list"}, {"data", std::move(data)}};
}

int64_t FileSize(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 ? static_cast<int64_t>(info.st_size) : 0;
}

}  // namespace

BatchQueue::BatchQueue(Service& service, std::unique_ptr<BatchStore> store)
    : service_(service), store_(std::move(store)) {}

Status BatchQueue::Start() {
  WINNOW_ASSIGN(const std::vector<StoredBatch> batches, store_->OpenBatches());
  for (const StoredBatch& batch : batches) Add(batch);
  std::lock_guard<std::mutex> lock(mutex_);
  if (stop_) return OkStatus();
  // One more, for those that are cancelled while others run.
  for (int64_t index = 0; index < kMostRunning + 1; ++index)
    threads_.emplace_back([this] { Work(); });
  return OkStatus();
}

void BatchQueue::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    for (const EntryPtr& entry : entries_) entry->stop.store(true);
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void BatchQueue::Add(const StoredBatch& batch) {
  auto entry = std::make_shared<Entry>();
  entry->id = batch.id;
  entry->owner = batch.owner;
  if (batch.status() == "cancelling") {
    entry->cancelled.store(true);
    entry->stop.store(true);
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const bool known = std::any_of(entries_.begin(), entries_.end(),
                                   [&](const EntryPtr& other) { return other->id == batch.id; });
    if (stop_ || known) return;
    entries_.push_back(std::move(entry));
  }
  changed_.notify_one();
}

Result<StoredBatch> BatchQueue::Cancel(const std::string& owner, const std::string& id) {
  WINNOW_ASSIGN(std::optional<StoredBatch> batch, store_->FindBatch(owner, id));
  if (!batch) return NotFound(fmt::format("batch: {}, expected one of this key", Quoted(id)));
  bool ended = false;
  WINNOW_TRY(Change(&*batch, [&ended](json::object& object) {
    const std::string status = TextField(object, "status");
    ended = IsEnd(status);
    if (ended || status == "cancelling") return;
    object["status"] = "cancelling";
    object["cancelling_at"] = Now();
  }));
  if (ended && batch->status() != "cancelled") {
    return InvalidArgument(fmt::format("batch: it is {} already", batch->status()));
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const EntryPtr& entry : entries_) {
      if (entry->id != id) continue;
      entry->cancelled.store(true);
      entry->stop.store(true);
    }
  }
  changed_.notify_all();
  return std::move(*batch);
}

void BatchQueue::FillCounts(StoredBatch* batch) const {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const EntryPtr& entry : entries_) {
    if (entry->id != batch->id || entry->total.load() == 0) continue;
    batch->object["request_counts"] =
        Counts(entry->total.load(), entry->completed.load(), entry->failed.load());
  }
}

BatchQueue::EntryPtr BatchQueue::Next() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stop_) {
    const auto now = Clock::now();
    for (const EntryPtr& entry : entries_) {
      if (entry->running) continue;
      const bool room = num_running_ < kMostRunning && now >= entry->not_before &&
                        std::none_of(entries_.begin(), entries_.end(), [&](const EntryPtr& other) {
                          return other->running && other->owner == entry->owner;
                        });
      if (!room && !entry->cancelled.load()) continue;
      entry->running = true;
      ++num_running_;
      return entry;
    }
    changed_.wait_for(lock, std::chrono::seconds(1));
  }
  return nullptr;
}

void BatchQueue::Work() {
  while (const EntryPtr entry = Next()) {
    const bool ended = Process(*entry);
    std::lock_guard<std::mutex> lock(mutex_);
    entry->running = false;
    entry->not_before = Clock::now() + kRest;
    --num_running_;
    if (ended) entries_.erase(std::find(entries_.begin(), entries_.end(), entry));
    changed_.notify_all();
  }
}

bool BatchQueue::Process(Entry& entry) {
  auto found = store_->FindBatch(entry.owner, entry.id);
  if (!found.ok()) return false;
  if (!*found || IsEnd((*found)->status())) return true;
  StoredBatch& batch = **found;
  std::optional<BatchInput> input;
  Status status = Validate(entry, &batch, &input);
  if (status.ok() && IsEnd(batch.status())) return true;
  if (status.ok()) status = Run(entry, batch, *input);
  if (status.ok()) return End(entry, &batch, "completed").ok();
  switch (status.code()) {
    case StatusCode::kCancelled:
      return entry.cancelled.load() && End(entry, &batch, "cancelled").ok();
    case StatusCode::kResourceExhausted:
    case StatusCode::kUnavailable:
      return false;
    default:
      return End(entry, &batch, "failed", {{.code = "batch_error", .message = status.message()}})
          .ok();
  }
}

// Checks the input; then the batch is in progress, or has failed.
Status BatchQueue::Validate(Entry& entry, StoredBatch* batch, std::optional<BatchInput>* input) {
  const std::string file_id = TextField(batch->object, "input_file_id");
  WINNOW_ASSIGN(const std::optional<StoredFile> file, store_->FindFile(entry.owner, file_id));
  if (!file) {
    return End(entry, batch, "failed",
               {{.code = "file_not_found", .message = "its input file is not there"}});
  }
  BatchRules rules{.max_lines = kMaxLines,
                   .max_line_bytes = service_.options.max_body_bytes,
                   .model_names = service_.accepted_names,
                   .endpoint = ParseBatchEndpoint(TextField(batch->object, "endpoint"))};
  std::vector<BatchProblem> problems;
  auto opened =
      BatchInput::Open(store_->PathOf(file->id), std::move(rules), &entry.stop, &problems);
  if (!opened.ok()) return opened.error();
  if (!problems.empty()) return End(entry, batch, "failed", problems);
  input->emplace(std::move(*opened));
  if (batch->results_id.empty()) {
    batch->results_id = RandomId("file-");
    batch->errors_id = RandomId("file-");
  }
  return Change(batch, [&](json::object& object) {
    if (TextField(object, "status") != "validating") return;
    object["status"] = "in_progress";
    object["in_progress_at"] = Now();
    object["request_counts"] = Counts((*input)->size(), 0, 0);
  });
}

Status BatchQueue::Run(Entry& entry, const StoredBatch& batch, const BatchInput& input) {
  std::vector<bool> done(static_cast<size_t>(input.size()));
  entry.total.store(input.size());
  entry.completed.store(0);
  entry.failed.store(0);
  const auto known = [&](const BatchResult& result) {
    const std::optional<int64_t> request = input.Find(result.custom_id);
    if (!request || done[static_cast<size_t>(*request)]) {
      return Corrupt("a result of another request, expected one of each");
    }
    done[static_cast<size_t>(*request)] = true;
    ++(result.status == 200 ? entry.completed : entry.failed);
    return OkStatus();
  };
  WINNOW_ASSIGN(BatchOutput results, BatchOutput::Open(store_->PathOf(batch.results_id), known));
  WINNOW_ASSIGN(BatchOutput errors, BatchOutput::Open(store_->PathOf(batch.errors_id), known));
  entry.counted = true;
  BatchRun run;
  run.context = {.engine = service_.engine.load(),
                 .model = service_.model_names.front(),
                 .fingerprint = service_.fingerprint,
                 .dollars_per_hour = service_.options.dollars_per_hour,
                 .key = entry.owner + " (batch)",
                 .cache_salt = entry.owner + "\n"};
  run.input = &input;
  run.done = std::move(done);
  run.results = &results;
  run.errors = &errors;
  run.concurrency = [this] { return Concurrency(); };
  run.may_begin = [this, &entry] { return MayBegin(entry.owner); };
  run.observe = [this, &entry](const RequestRecord& seen) {
    RequestRecord record = seen;
    record.key = entry.owner;
    if (record.status != 499) ++(record.status == 200 ? entry.completed : entry.failed);
    for (const RequestObserver& observer : service_.observers) observer(record);
  };
  run.stop = &entry.stop;
  return RunBatch(run);
}

int64_t BatchQueue::Concurrency() const {
  const ServerOptions& options = service_.options;
  const int64_t all = options.batch_concurrency > 0
                          ? options.batch_concurrency
                          : std::max<int64_t>(options.engine.max_sequences / 2, 1);
  std::lock_guard<std::mutex> lock(mutex_);
  return std::max<int64_t>(all / std::max<int64_t>(num_running_, 1), 1);
}

bool BatchQueue::MayBegin(const std::string& owner) const {
  HttpRequest request;
  request.method = "POST";
  request.path = "/v1/batches";
  request.key = owner;
  return std::all_of(service_.gates.begin(), service_.gates.end(),
                     [&request](const Gate& gate) { return !gate(request); });
}

Status BatchQueue::CountResults(Entry& entry, const StoredBatch& batch) const {
  if (entry.counted || batch.results_id.empty()) return OkStatus();
  entry.completed.store(0);
  entry.failed.store(0);
  for (const std::string& id : {batch.results_id, batch.errors_id}) {
    const auto counted = BatchOutput::Open(store_->PathOf(id), [&entry](const BatchResult& result) {
      ++(result.status == 200 ? entry.completed : entry.failed);
      return OkStatus();
    });
    if (!counted.ok()) return counted.error();
  }
  return OkStatus();
}

// What there is of results becomes files of the owner's, and the batch ends.
Status BatchQueue::End(Entry& entry, StoredBatch* batch, const std::string& status,
                       const std::vector<BatchProblem>& problems) {
  const Status counted = CountResults(entry, *batch);
  if (status == "completed") {
    WINNOW_TRY(counted);
    WINNOW_TRY(Change(batch, [](json::object& object) {
      object["status"] = "finalizing";
      object["finalizing_at"] = Now();
    }));
  }
  std::lock_guard<std::mutex> lock(changing_);
  WINNOW_ASSIGN(std::optional<StoredBatch> saved, store_->FindBatch(batch->owner, batch->id));
  if (!saved) return OkStatus();
  json::object& object = saved->object;
  std::vector<StoredFile> files;
  for (const bool errors : {false, true}) {
    const std::string& id = errors ? saved->errors_id : saved->results_id;
    if (id.empty()) continue;
    const int64_t bytes = FileSize(store_->PathOf(id));
    if (bytes == 0) {
      unlink(store_->PathOf(id).c_str());
      continue;
    }
    object[errors ? "error_file_id" : "output_file_id"] = id;
    files.push_back({.id = id,
                     .owner = saved->owner,
                     .filename = saved->id + (errors ? "_error.jsonl" : "_output.jsonl"),
                     .purpose = "batch_output",
                     .bytes = bytes,
                     .created_at = Now()});
  }
  object["status"] = status;
  object[status + "_at"] = Now();
  if (!problems.empty()) object["errors"] = ErrorsJson(problems);
  if (counted.ok() && TotalOf(object) > 0) {
    object["request_counts"] = Counts(TotalOf(object), entry.completed.load(), entry.failed.load());
  }
  WINNOW_TRY(store_->EndBatch(*saved, files));
  *batch = std::move(*saved);
  return OkStatus();
}

Status BatchQueue::Change(StoredBatch* batch, const std::function<void(json::object&)>& change) {
  std::lock_guard<std::mutex> lock(changing_);
  WINNOW_ASSIGN(std::optional<StoredBatch> saved, store_->FindBatch(batch->owner, batch->id));
  if (!saved) return NotFound(fmt::format("batch: {}, expected one that is there", batch->id));
  change(saved->object);
  if (!batch->results_id.empty()) {
    saved->results_id = batch->results_id;
    saved->errors_id = batch->errors_id;
  }
  WINNOW_TRY(store_->SaveBatch(*saved));
  *batch = std::move(*saved);
  return OkStatus();
}

}  // namespace winnow::server
