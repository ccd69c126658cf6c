// /v1/files and /v1/batches, in OpenAI's form.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

#include "base/text.h"
#include "server/batch_queue.h"
#include "server/batch_routes.h"
#include "server/json_fields.h"
#include "server/json_text.h"
#include "server/multipart.h"

namespace winnow::server {
namespace {

constexpr size_t kMaxFilename = 255;
constexpr int64_t kFormBytes = int64_t{64} << 10;  // of an upload, around its file
constexpr size_t kMaxMetadata = 16;
constexpr int64_t kMostOpenBatches = 100;  // of a key

ApiError NoSuch(const char* what, std::string_view id) {
  return {.status = 404,
          .message = fmt::format("{}: there is no {}", what, Quoted(id)),
          .code = "not_found"};
}

// What the store could not do is no fault of the client's, except where it says so.
ApiError StoreError(const Status& status, const char* code = "") {
  ApiError error = ToApiError(status);
  error.status = status.code() == StatusCode::kInvalidArgument ? 400
                 : status.code() == StatusCode::kNotFound      ? 404
                                                               : 503;
  error.retry_after = error.status == 503 ? 5 : 0;
  if (error.status == 400) error.code = code;
  if (error.status == 503) {
    // Such messages begin with a path, and where this server keeps its files is nobody's business.
    const size_t reason = error.message.find(": ");
    if (reason != std::string::npos) error.message = "files" + error.message.substr(reason);
  }
  return error;
}

json::object FileJson(const StoredFile& file) {
  return {{"id", file.id},
          {"object", "file"},
          {"bytes", file.bytes},
          {"created_at", file.created_at},
          {"expires_at", nullptr},
          {"filename", file.filename},
          {"purpose", file.purpose},
          {"status", "processed"},
          {"status_details", nullptr}};
}

// A list of which `more` says whether anything follows.
json::object ListJson(json::array data, bool more) {
  json::value first = nullptr;
  json::value last = nullptr;
  if (!data.empty()) {
    first = data.front().at("id");
    last = data.back().at("id");
  }
  return {{"object", "list"},
          {"data", std::move(data)},
          {"first_id", std::move(first)},
          {"last_id", std::move(last)},
          {"has_more", more}};
}

// The query of a list; asks for one more than `limit` says, so that one knows whether more follow.
std::optional<ApiError> ReadListQuery(const HttpRequest& request, int64_t limit, int64_t most,
                                      ListQuery* query) {
  query->owner = request.key;
  query->after = request.Query("after");
  query->purpose = request.Query("purpose");
  const std::string_view order = request.Query("order");
  if (!order.empty() && order != "asc" && order != "desc") {
    return BadField("order", Quoted(order) + ", expected asc or desc", "invalid_value");
  }
  query->oldest_first = order == "asc";
  const std::string_view text = request.Query("limit");
  if (!text.empty()) {
    limit = 0;
    for (const char digit : text.substr(0, 9)) {
      limit = digit >= '0' && digit <= '9' && limit >= 0 ? 10 * limit + (digit - '0') : -1;
    }
    if (text.size() > 9 || limit < 1 || limit > most) {
      return BadField("limit", fmt::format("{}, expected 1 to {}", Quoted(text), most),
                      "invalid_value");
    }
  }
  query->limit = limit + 1;
  return std::nullopt;
}

// The content of a file, read as it is sent.
class FileSource : public Source {
 public:
  explicit FileSource(int descriptor) : descriptor_(descriptor) {}
  ~FileSource() override { close(descriptor_); }
  bool Pull(std::string* bytes) override {
    constexpr size_t kPiece = 32 << 10;
    const size_t before = bytes->size();
    bytes->resize(before + kPiece);
    ssize_t count = 0;
    do {
      count = read(descriptor_, bytes->data() + before, kPiece);
    } while (count < 0 && errno == EINTR);
    bytes->resize(before + static_cast<size_t>(std::max<ssize_t>(count, 0)));
    return count > 0;
  }
  void KeepAlive(std::string*) override {}
  void Abandon() override {}

 private:
  const int descriptor_;
};

// --- Files --------------------------------------------------------------------------------------

const FormPart* FindPart(const std::vector<FormPart>& parts, std::string_view name) {
  for (const FormPart& part : parts) {
    if (part.name == name) return &part;
  }
  return nullptr;
}

std::optional<ApiError> CheckUpload(const std::vector<FormPart>& parts, int64_t max_bytes) {
  const FormPart* purpose = FindPart(parts, "purpose");
  if (purpose == nullptr) {
    return BadField("purpose", "it is missing", "missing_required_parameter");
  }
  if (purpose->data != "batch") {
    return BadField("purpose", Quoted(purpose->data) + ", expected \"batch\"", "invalid_value");
  }
  const FormPart* file = FindPart(parts, "file");
  if (file == nullptr) return BadField("file", "it is missing", "missing_required_parameter");
  if (!file->has_filename) {
    return BadField("file", "it has no filename, expected a file", "invalid_value");
  }
  const int64_t bytes = static_cast<int64_t>(file->data.size());
  if (bytes > max_bytes) {
    ApiError error = BadField(
        "file", fmt::format("{} bytes, expected at most {}", bytes, max_bytes), "file_too_large");
    error.status = 413;
    return error;
  }
  return std::nullopt;
}

void Upload(Service& service, BatchStore& store, const HttpRequest& request,
            const Responder& responder) {
  const ServerOptions& options = service.options;
  const auto parts = ParseForm(request.Header("content-type"), request.body);
  if (!parts.ok()) return Refuse(request, responder, ToApiError(parts.error()));
  if (auto error = CheckUpload(*parts, options.max_file_bytes)) {
    return Refuse(request, responder, *error);
  }
  const FormPart& part = *FindPart(*parts, "file");
  StoredFile file{.owner = request.key,
                  .filename = ValidUtf8(part.filename.substr(0, kMaxFilename)),
                  .purpose = "batch",
                  .created_at = static_cast<int64_t>(std::time(nullptr))};
  const Status added = store.AddFile(
      part.data, {.files = options.max_files, .bytes = options.max_stored_bytes}, &file);
  if (!added.ok()) return Refuse(request, responder, StoreError(added, "quota_exceeded"));
  Reply(responder, FileJson(file));
}

void ListFiles(BatchStore& store, const HttpRequest& request, const Responder& responder) {
  ListQuery query;
  if (auto error = ReadListQuery(request, 10'000, 10'000, &query)) {
    return Refuse(request, responder, *error);
  }
  const auto files = store.ListFiles(query);
  if (!files.ok()) return Refuse(request, responder, StoreError(files.error()));
  json::array data;
  for (const StoredFile& file : *files) {
    if (static_cast<int64_t>(data.size()) + 1 < query.limit) data.push_back(FileJson(file));
  }
  Reply(responder, ListJson(std::move(data), static_cast<int64_t>(files->size()) == query.limit));
}

// The file that the path names; else the request is refused.
std::optional<StoredFile> RequestedFile(BatchStore& store, const HttpRequest& request,
                                        const Responder& responder) {
  auto file = store.FindFile(request.key, std::string(request.Param("id")));
  if (!file.ok()) {
    Refuse(request, responder, StoreError(file.error()));
    return std::nullopt;
  }
  if (!*file) Refuse(request, responder, NoSuch("files", request.Param("id")));
  return std::move(*file);
}

void GetFile(BatchStore& store, const HttpRequest& request, const Responder& responder) {
  if (const auto file = RequestedFile(store, request, responder)) Reply(responder, FileJson(*file));
}

// Whether a batch that has not ended reads the file.
Result<bool> InUse(BatchStore& store, const StoredFile& file) {
  auto batches = store.OpenBatches();
  if (!batches.ok()) return batches.error();
  for (const StoredBatch& batch : *batches) {
    const json::value* input = batch.object.if_contains("input_file_id");
    if (input != nullptr && input->is_string() && input->get_string() == file.id.c_str()) {
      return true;
    }
  }
  return false;
}

void DeleteFile(BatchStore& store, const HttpRequest& request, const Responder& responder) {
  const auto file = RequestedFile(store, request, responder);
  if (!file) return;
  const auto in_use = InUse(store, *file);
  if (!in_use.ok()) return Refuse(request, responder, StoreError(in_use.error()));
  if (*in_use) {
    return Refuse(request, responder,
                  {.status = 409,
                   .message = "files: a batch that has not ended reads this one, expected it to "
                              "end or to be cancelled first",
                   .code = "file_in_use"});
  }
  const Status deleted = store.DeleteFile(*file);
  if (!deleted.ok()) return Refuse(request, responder, StoreError(deleted));
  Reply(responder, {{"id", file->id}, {"object", "file"}, {"deleted", true}});
}

void FileContent(BatchStore& store, const HttpRequest& request, const Responder& responder) {
  const auto file = RequestedFile(store, request, responder);
  if (!file) return;
  HttpResponse head;
  head.content_type = "application/octet-stream";
  if (request.method == "HEAD") return responder.Send(std::move(head));
  const int descriptor = open(store.PathOf(file->id).c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    return Refuse(request, responder,
                  {.status = 503,
                   .message = "files: the content of this one cannot be read",
                   .retry_after = 5});
  }
  responder.Stream(std::move(head), std::make_shared<FileSource>(descriptor));
}

// --- Batches ------------------------------------------------------------------------------------

void CheckMetadata(Fields& fields, json::value* metadata) {
  const json::object* object = fields.Object("metadata");
  if (object == nullptr) return;
  if (object->size() > kMaxMetadata) {
    return fields.Refuse(
        "metadata", fmt::format("{} fields, expected at most {}", object->size(), kMaxMetadata),
        "object_above_max_properties");
  }
  for (const auto& member : *object) {
    if (member.key().size() > 64 || !member.value().is_string() ||
        member.value().get_string().size() > 512) {
      return fields.Refuse("metadata",
                           "expected names of at most 64 bytes and texts of at most 512",
                           "invalid_value");
    }
  }
  *metadata = *object;
}

std::optional<ApiError> ReadBatch(const json::object& body, json::object* object) {
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  std::string input_file_id;
  std::string endpoint;
  std::string window;
  json::value metadata;
  for (const char* name : {"input_file_id", "endpoint", "completion_window"}) fields.Require(name);
  fields.String("input_file_id", &input_file_id);
  fields.String("endpoint", &endpoint);
  fields.String("completion_window", &window);
  CheckMetadata(fields, &metadata);
  if (!ParseBatchEndpoint(endpoint)) {
    fields.Refuse("endpoint",
                  Quoted(endpoint) + ", expected /v1/chat/completions or /v1/completions",
                  "invalid_value");
  }
  if (window != "24h") {
    fields.Refuse("completion_window", Quoted(window) + ", expected \"24h\"", "invalid_value");
  }
  if (error) return error;
  *object = {{"id", RandomId("batch_")},
             {"object", "batch"},
             {"endpoint", endpoint},
             {"errors", nullptr},
             {"input_file_id", input_file_id},
             {"completion_window", window},
             {"status", "validating"},
             {"output_file_id", nullptr},
             {"error_file_id", nullptr},
             {"created_at", static_cast<int64_t>(std::time(nullptr))},
             {"in_progress_at", nullptr},
             {"expires_at", nullptr},
             {"finalizing_at", nullptr},
             {"completed_at", nullptr},
             {"failed_at", nullptr},
             {"expired_at", nullptr},
             {"cancelling_at", nullptr},
             {"cancelled_at", nullptr},
             {"request_counts", {{"total", 0}, {"completed", 0}, {"failed", 0}}},
             {"metadata", std::move(metadata)}};
  return std::nullopt;
}

void CreateBatch(Service& service, BatchQueue& queue, const HttpRequest& request,
                 const Responder& responder) {
  const auto body = Body(request, responder);
  if (!body) return;
  for (const Gate& gate : service.gates) {
    if (auto error = gate(request)) return Refuse(request, responder, *error);
  }
  StoredBatch batch{.owner = request.key};
  if (auto error = ReadBatch(*body, &batch.object)) return Refuse(request, responder, *error);
  batch.id = batch.object["id"].get_string().c_str();
  const std::string file_id = batch.object["input_file_id"].get_string().c_str();
  const auto file = queue.store().FindFile(request.key, file_id);
  if (!file.ok()) return Refuse(request, responder, StoreError(file.error()));
  if (!*file || (*file)->purpose != "batch") {
    return Refuse(
        request, responder,
        BadField("input_file_id", Quoted(file_id) + ", expected a file with the purpose \"batch\"",
                 "file_not_found"));
  }
  const Status added = queue.store().AddBatch(batch, kMostOpenBatches);
  if (!added.ok()) return Refuse(request, responder, StoreError(added, "quota_exceeded"));
  queue.Add(batch);
  Reply(responder, batch.object);
}

void ListBatches(BatchQueue& queue, const HttpRequest& request, const Responder& responder) {
  ListQuery query;
  if (auto error = ReadListQuery(request, 20, 100, &query)) {
    return Refuse(request, responder, *error);
  }
  auto batches = queue.store().ListBatches(query);
  if (!batches.ok()) return Refuse(request, responder, StoreError(batches.error()));
  json::array data;
  for (StoredBatch& batch : *batches) {
    if (static_cast<int64_t>(data.size()) + 1 == query.limit) break;
    queue.FillCounts(&batch);
    data.push_back(std::move(batch.object));
  }
  Reply(responder, ListJson(std::move(data), static_cast<int64_t>(batches->size()) == query.limit));
}

void GetBatch(BatchQueue& queue, const HttpRequest& request, const Responder& responder) {
  auto batch = queue.store().FindBatch(request.key, std::string(request.Param("id")));
  if (!batch.ok()) return Refuse(request, responder, StoreError(batch.error()));
  if (!*batch) return Refuse(request, responder, NoSuch("batches", request.Param("id")));
  queue.FillCounts(&**batch);
  Reply(responder, (*batch)->object);
}

void CancelBatch(BatchQueue& queue, const HttpRequest& request, const Responder& responder) {
  auto batch = queue.Cancel(request.key, std::string(request.Param("id")));
  if (!batch.ok()) {
    ApiError error = StoreError(batch.error(), "batch_ended");
    if (error.status == 404) error = NoSuch("batches", request.Param("id"));
    if (error.status == 400) error.status = 409;
    return Refuse(request, responder, error);
  }
  queue.FillCounts(&*batch);
  Reply(responder, batch->object);
}

void NotEnabled(const HttpRequest& request, const Responder& responder) {
  Refuse(request, responder,
         {.status = 404,
          .message = "files: this server keeps none, expected it to be started with --files DIR",
          .code = "not_enabled"});
}

}  // namespace

Result<std::shared_ptr<BatchQueue>> AddBatchRoutes(Router& router, Service& service) {
  std::shared_ptr<BatchQueue> queue;
  if (!service.options.files.empty()) {
    auto store = BatchStore::Open(service.options.files);
    if (!store.ok()) return store.error();
    queue = std::make_shared<BatchQueue>(service, std::move(*store));
  }
  const auto add = [&](const char* method, const char* path, auto handle, int64_t max_body = 0) {
    Route route{.method = method,
                .path = path,
                .handler = NotEnabled,
                .needs_model = false,
                .max_body_bytes = max_body};
    if (queue) {
      route.handler = [&service, queue, handle](const HttpRequest& request,
                                                const Responder& responder) {
        handle(service, *queue, request, responder);
      };
    }
    router.Add(std::move(route));
  };
  using Http = const HttpRequest&;
  using Out = const Responder&;
  add(
      "POST", "/v1/files",
      [](Service& s, BatchQueue& q, Http request, Out out) { Upload(s, q.store(), request, out); },
      queue ? service.options.max_file_bytes + kFormBytes : 0);
  add("GET", "/v1/files",
      [](Service&, BatchQueue& q, Http request, Out out) { ListFiles(q.store(), request, out); });
  add("GET", "/v1/files/{id}",
      [](Service&, BatchQueue& q, Http request, Out out) { GetFile(q.store(), request, out); });
  add("DELETE", "/v1/files/{id}",
      [](Service&, BatchQueue& q, Http request, Out out) { DeleteFile(q.store(), request, out); });
  add("GET", "/v1/files/{id}/content",
      [](Service&, BatchQueue& q, Http request, Out out) { FileContent(q.store(), request, out); });
  add("POST", "/v1/batches",
      [](Service& s, BatchQueue& q, Http request, Out out) { CreateBatch(s, q, request, out); });
  add("GET", "/v1/batches",
      [](Service&, BatchQueue& q, Http request, Out out) { ListBatches(q, request, out); });
  add("GET", "/v1/batches/{id}",
      [](Service&, BatchQueue& q, Http request, Out out) { GetBatch(q, request, out); });
  add("POST", "/v1/batches/{id}/cancel",
      [](Service&, BatchQueue& q, Http request, Out out) { CancelBatch(q, request, out); });
  return queue;
}

}  // namespace winnow::server
