#include "server/batch_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <set>

#include "base/check.h"
#include "base/file.h"
#include "base/output_file.h"
#include "base/text.h"
#include "server/answer_writer.h"
#include "server/json_text.h"

namespace winnow::server {
namespace {

// `place` gives lists their order; those of one second have one as well.
constexpr char kSchema[] =
    "PRAGMA journal_mode = WAL;"
    "PRAGMA synchronous = FULL;"
    "CREATE TABLE IF NOT EXISTS files ("
    "  place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,"
    "  filename TEXT NOT NULL, purpose TEXT NOT NULL, bytes INTEGER NOT NULL,"
    "  created_at INTEGER NOT NULL);"
    "CREATE INDEX IF NOT EXISTS files_owner ON files (owner, place);"
    "CREATE TABLE IF NOT EXISTS batches ("
    "  place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,"
    "  ended INTEGER NOT NULL, results_id TEXT NOT NULL, errors_id TEXT NOT NULL,"
    "  object TEXT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS batches_owner ON batches (owner, place);"
    "CREATE INDEX IF NOT EXISTS batches_ended ON batches (ended, place);";

constexpr char kFileColumns[] = "id, owner, filename, purpose, bytes, created_at";
constexpr char kBatchColumns[] = "id, owner, results_id, errors_id, object";

Status FolderError(const std::string& path, const char* action) {
  const int error = errno;
  const std::string message = fmt::format("{}: {}: {}", path, action, std::strerror(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) return ResourceExhausted(message);
  return InvalidArgument(message);
}

// A file that only this process writes; closed at the end of its life.
struct Descriptor {
  ~Descriptor() {
    if (value >= 0) close(value);
  }
  int value = -1;
};

Status WriteAll(int descriptor, const std::string& path, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(descriptor, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FolderError(path, "writing");
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return fsync(descriptor) == 0 ? OkStatus() : FolderError(path, "writing");
}

StoredFile ReadFileRow(const Statement& row) {
  return {.id = row.Text(0),
          .owner = row.Text(1),
          .filename = row.Text(2),
          .purpose = row.Text(3),
          .bytes = row.Int(4),
          .created_at = row.Int(5)};
}

Status RunStatement(Statement& statement) {
  const auto row = statement.Step();
  return row.ok() ? OkStatus() : row.error();
}

// "… WHERE owner = ?1 …": what lists of both kinds have in common. Parameters: owner, after,
// limit.
std::string ListSql(const char* columns, const char* table, const char* more, bool oldest_first) {
  return fmt::format(
      "SELECT {0} FROM {1} WHERE owner = ?1 {2} AND (?2 = '' OR place {3} "
      "(SELECT place FROM {1} WHERE id = ?2 AND owner = ?1)) ORDER BY place {4} LIMIT ?3",
      columns, table, more, oldest_first ? ">" : "<", oldest_first ? "ASC" : "DESC");
}

}  // namespace

std::string StoredBatch::status() const {
  const json::value* value = object.if_contains("status");
  if (value == nullptr || !value->is_string()) return "failed";
  return {value->get_string().data(), value->get_string().size()};
}

bool IsEnd(std::string_view status) {
  return status == "completed" || status == "failed" || status == "cancelled";
}

Result<std::unique_ptr<BatchStore>> BatchStore::Open(const std::string& folder) {
  for (const std::string& path : {folder, folder + "/data"}) {
    if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
      return FolderError(path, "making the folder");
    }
  }
  Descriptor lock;
  const std::string lock_path = folder + "/lock";
  lock.value = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock.value < 0) return FolderError(lock_path, "opening");
  if (flock(lock.value, LOCK_EX | LOCK_NB) != 0) {
    return Unavailable(folder + ": another server uses this folder");
  }
  WINNOW_ASSIGN(Database database, Database::Open(folder + "/index.sqlite", /*writable=*/true));
  std::unique_ptr<BatchStore> store(
      new BatchStore(folder, std::exchange(lock.value, -1), std::move(database)));
  WINNOW_TRY(store->Prepare());
  return store;
}

BatchStore::~BatchStore() { close(lock_); }

Status BatchStore::Prepare() {
  WINNOW_TRY(database_.Execute(kSchema));
  return RemoveOrphans();
}

// What an upload, a deletion or the end of a batch left when the process was killed.
Status BatchStore::RemoveOrphans() {
  std::set<std::string> known;
  WINNOW_ASSIGN(Statement files, database_.Prepare("SELECT id FROM files"));
  while (true) {
    WINNOW_ASSIGN(const bool row, files.Step());
    if (!row) break;
    known.insert(files.Text(0));
  }
  WINNOW_ASSIGN(const std::vector<StoredBatch> open_batches, OpenBatches());
  for (const StoredBatch& batch : open_batches) {
    known.insert(batch.results_id);
    known.insert(batch.errors_id);
  }
  for (const std::string& path : FilesIn(folder_ + "/data")) {
    const std::string name = FileName(path);
    if (name.starts_with("file-") && known.count(name) == 0) unlink(path.c_str());
  }
  return OkStatus();
}

std::string BatchStore::PathOf(const std::string& id) const { return folder_ + "/data/" + id; }

Status BatchStore::WriteContent(const std::string& id, std::string_view content) const {
  const std::string path = PathOf(id);
  Descriptor file;
  file.value = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file.value < 0) return FolderError(path, "making the file");
  if (const Status status = WriteAll(file.value, path, content); !status.ok()) {
    unlink(path.c_str());
    return status;
  }
  Descriptor folder;
  folder.value = open((folder_ + "/data").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder.value >= 0) fsync(folder.value);
  return OkStatus();
}

Result<StorageUse> BatchStore::Use(const std::string& owner) {
  WINNOW_ASSIGN(
      Statement statement,
      database_.Prepare("SELECT count(*), coalesce(sum(bytes), 0) FROM files WHERE owner = ?1"));
  statement.Bind(0, owner);
  WINNOW_ASSIGN([[maybe_unused]] const bool row, statement.Step());
  return StorageUse{.files = statement.Int(0), .bytes = statement.Int(1)};
}

Status BatchStore::InsertFile(const StoredFile& file) {
  WINNOW_ASSIGN(Statement statement,
                database_.Prepare(fmt::format("INSERT INTO files ({}) VALUES (?1,?2,?3,?4,?5,?6)",
                                              kFileColumns)));
  statement.Bind(0, file.id)
      .Bind(1, file.owner)
      .Bind(2, file.filename)
      .Bind(3, file.purpose)
      .Bind(4, file.bytes)
      .Bind(5, file.created_at);
  return RunStatement(statement);
}

Status BatchStore::CheckRoom(const StoredFile& file, const StorageUse& most) {
  WINNOW_ASSIGN(const StorageUse use, Use(file.owner));
  if (use.files >= most.files) {
    return InvalidArgument(
        fmt::format("file: {} files are kept for this key, expected at most {}: delete some first",
                    use.files + 1, most.files));
  }
  if (file.bytes > most.bytes - use.bytes) {
    return InvalidArgument(fmt::format(
        "file: {} bytes beside {} that are kept for this key, expected together at most {}: delete "
        "some files first",
        file.bytes, use.bytes, most.bytes));
  }
  return OkStatus();
}

Status BatchStore::AddFile(std::string_view content, const StorageUse& most, StoredFile* file) {
  file->bytes = static_cast<int64_t>(content.size());
  {
    std::lock_guard<std::mutex> lock(mutex_);
    WINNOW_TRY(CheckRoom(*file, most));
    file->id = RandomId("file-");
  }
  WINNOW_TRY(WriteContent(file->id, content));
  std::lock_guard<std::mutex> lock(mutex_);
  Status status = CheckRoom(*file, most);  // others may have come in the meantime
  if (status.ok()) status = InsertFile(*file);
  if (!status.ok()) unlink(PathOf(file->id).c_str());
  return status;
}

Result<std::optional<StoredFile>> BatchStore::FindFile(const std::string& owner,
                                                       const std::string& id) {
  std::lock_guard<std::mutex> lock(mutex_);
  WINNOW_ASSIGN(Statement statement,
                database_.Prepare(fmt::format("SELECT {} FROM files WHERE owner = ?1 AND id = ?2",
                                              kFileColumns)));
  statement.Bind(0, owner).Bind(1, id);
  WINNOW_ASSIGN(const bool row, statement.Step());
  if (!row) return std::optional<StoredFile>();
  return std::optional(ReadFileRow(statement));
}

Result<std::vector<StoredFile>> BatchStore::ListFiles(const ListQuery& query) {
  std::lock_guard<std::mutex> lock(mutex_);
  WINNOW_ASSIGN(Statement statement,
                database_.Prepare(ListSql(kFileColumns, "files", "AND (?4 = '' OR purpose = ?4)",
                                          query.oldest_first)));
  statement.Bind(0, query.owner).Bind(1, query.after).Bind(2, query.limit).Bind(3, query.purpose);
  std::vector<StoredFile> files;
  while (true) {
    WINNOW_ASSIGN(const bool row, statement.Step());
    if (!row) return files;
    files.push_back(ReadFileRow(statement));
  }
}

Status BatchStore::DeleteFile(const StoredFile& file) {
  std::lock_guard<std::mutex> lock(mutex_);
  WINNOW_ASSIGN(Statement statement,
                database_.Prepare("DELETE FROM files WHERE owner = ?1 AND id = ?2"));
  statement.Bind(0, file.owner).Bind(1, file.id);
  WINNOW_TRY(RunStatement(statement));
  unlink(PathOf(file.id).c_str());
  return OkStatus();
}

Status BatchStore::AddBatch(const StoredBatch& batch, int64_t most_open) {
  std::lock_guard<std::mutex> lock(mutex_);
  WINNOW_ASSIGN(Statement count,
                database_.Prepare("SELECT count(*) FROM batches WHERE owner = ?1 AND ended = 0"));
  count.Bind(0, batch.owner);
  WINNOW_ASSIGN([[maybe_unused]] const bool row, count.Step());
  if (count.Int(0) >= most_open) {
    return InvalidArgument(
        fmt::format("batches: {} of this key have not ended, expected at most {}: wait for one",
                    count.Int(0) + 1, most_open));
  }
  WINNOW_ASSIGN(Statement statement,
                database_.Prepare(fmt::format(
                    "INSERT INTO batches ({}, ended) VALUES (?1,?2,?3,?4,?5,?6)", kBatchColumns)));
  statement.Bind(0, batch.id)
      .Bind(1, batch.owner)
      .Bind(2, batch.results_id)
      .Bind(3, batch.errors_id)
      .Bind(4, JsonText(batch.object))
      .Bind(5, int64_t{IsEnd(batch.status())});
  return RunStatement(statement);
}

Status BatchStore::UpdateBatch(const StoredBatch& batch) {
  WINNOW_ASSIGN(Statement statement,
                database_.Prepare("UPDATE batches SET ended = ?2, results_id = ?3, errors_id = ?4, "
                                  "object = ?5 WHERE id = ?1"));
  statement.Bind(0, batch.id)
      .Bind(1, int64_t{IsEnd(batch.status())})
      .Bind(2, batch.results_id)
      .Bind(3, batch.errors_id)
      .Bind(4, JsonText(batch.object));
  return RunStatement(statement);
}

Status BatchStore::SaveBatch(const StoredBatch& batch) {
  std::lock_guard<std::mutex> lock(mutex_);
  return UpdateBatch(batch);
}

Status BatchStore::EndBatch(const StoredBatch& batch, const std::vector<StoredFile>& files) {
  std::lock_guard<std::mutex> lock(mutex_);
  WINNOW_TRY(database_.Execute("BEGIN IMMEDIATE"));
  Status status = UpdateBatch(batch);
  for (const StoredFile& file : files) {
    if (status.ok()) status = InsertFile(file);
  }
  if (status.ok()) status = database_.Execute("COMMIT");
  if (!status.ok()) {
    // What went wrong is told already.
    [[maybe_unused]] const Status undone = database_.Execute("ROLLBACK");
  }
  return status;
}

Result<std::vector<StoredBatch>> BatchStore::Batches(Statement* statement) {
  std::vector<StoredBatch> batches;
  while (true) {
    WINNOW_ASSIGN(const bool row, statement->Step());
    if (!row) return batches;
    auto object = ParseJson(statement->Text(4), folder_ + "/index.sqlite");
    if (!object.ok()) return object.error();
    if (!object->is_object()) {
      return Corrupt(folder_ + "/index.sqlite: a batch is no object, expected one");
    }
    batches.push_back({.id = statement->Text(0),
                       .owner = statement->Text(1),
                       .object = std::move(object->get_object()),
                       .results_id = statement->Text(2),
                       .errors_id = statement->Text(3)});
  }
}

Result<std::optional<StoredBatch>> BatchStore::FindBatch(const std::string& owner,
                                                         const std::string& id) {
  std::lock_guard<std::mutex> lock(mutex_);
  WINNOW_ASSIGN(Statement statement,
                database_.Prepare(fmt::format("SELECT {} FROM batches WHERE owner = ?1 AND id = ?2",
                                              kBatchColumns)));
  statement.Bind(0, owner).Bind(1, id);
  WINNOW_ASSIGN(std::vector<StoredBatch> batches, Batches(&statement));
  if (batches.empty()) return std::optional<StoredBatch>();
  return std::optional(std::move(batches.front()));
}

Result<std::vector<StoredBatch>> BatchStore::ListBatches(const ListQuery& query) {
  std::lock_guard<std::mutex> lock(mutex_);
  WINNOW_ASSIGN(Statement statement,
                database_.Prepare(ListSql(kBatchColumns, "batches", "", query.oldest_first)));
  statement.Bind(0, query.owner).Bind(1, query.after).Bind(2, query.limit);
  return Batches(&statement);
}

Result<std::vector<StoredBatch>> BatchStore::OpenBatches() {
  std::lock_guard<std::mutex> lock(mutex_);
  WINNOW_ASSIGN(Statement statement,
                database_.Prepare(fmt::format(
                    "SELECT {} FROM batches WHERE ended = 0 ORDER BY place", kBatchColumns)));
  return Batches(&statement);
}

}  // namespace winnow::server
