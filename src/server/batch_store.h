// The files and batches of /v1/files and /v1/batches, in one folder: contents as files that have
// names of ours, everything else in a SQLite database.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "server/database.h"
#include "winnow/status.h"

namespace winnow::server {

struct StoredFile {
  std::string id;     // "file-…"
  std::string owner;  // name of the API key
  std::string filename;
  std::string purpose;
  int64_t bytes = 0;
  int64_t created_at = 0;  // seconds since 1970
};

struct StoredBatch {
  std::string id;  // "batch_…"
  std::string owner;
  json::object object;  // as the API shows it
  // Files that results go to while it runs; they belong to nobody until it ends. Empty: none yet.
  std::string results_id;
  std::string errors_id;

  std::string status() const;
};

// Part of a list, in its order.
struct ListQuery {
  std::string owner;
  std::string purpose;  // of files; empty: all
  std::string after;    // id of the last one before; empty: from the beginning
  int64_t limit = 20;
  bool oldest_first = false;
};

// What an owner has in files.
struct StorageUse {
  int64_t files = 0;
  int64_t bytes = 0;
};

// Survives a kill at any moment: a file is in the database only when its content is on the disk,
// and contents that no one knows are removed by Open. Methods may be called from any thread. Errors
// name the folder or database; those of a full disk are kResourceExhausted.
class BatchStore {
 public:
  // Makes the folder if it is not there. kUnavailable if another process uses it.
  static Result<std::unique_ptr<BatchStore>> Open(const std::string& folder);
  ~BatchStore();
  BatchStore(const BatchStore&) = delete;
  BatchStore& operator=(const BatchStore&) = delete;

  // Where the content of a file is; `id` is one that this store gave.
  std::string PathOf(const std::string& id) const;

  // Gives `file` its id. kInvalidArgument if its owner then has more than `most`.
  Status AddFile(std::string_view content, const StorageUse& most, StoredFile* file);
  // Files and batches of others are as good as not there.
  Result<std::optional<StoredFile>> FindFile(const std::string& owner, const std::string& id);
  Result<std::vector<StoredFile>> ListFiles(const ListQuery& query);
  Status DeleteFile(const StoredFile& file);

  // kInvalidArgument if its owner then has more than `most_open` that have not ended.
  Status AddBatch(const StoredBatch& batch, int64_t most_open);
  Status SaveBatch(const StoredBatch& batch);
  // The same, and its files become its owner's: at once, or not at all.
  Status EndBatch(const StoredBatch& batch, const std::vector<StoredFile>& files);
  Result<std::optional<StoredBatch>> FindBatch(const std::string& owner, const std::string& id);
  Result<std::vector<StoredBatch>> ListBatches(const ListQuery& query);
  // Of all owners: those that have not ended, in the order in which they came.
  Result<std::vector<StoredBatch>> OpenBatches();

 private:
  BatchStore(std::string folder, int lock, Database database)
      : folder_(std::move(folder)), lock_(lock), database_(std::move(database)) {}

  Status Prepare();
  Status RemoveOrphans();
  Status WriteContent(const std::string& id, std::string_view content) const;
  Status InsertFile(const StoredFile& file);
  Status UpdateBatch(const StoredBatch& batch);
  Status CheckRoom(const StoredFile& file, const StorageUse& most);
  Result<StorageUse> Use(const std::string& owner);
  Result<std::vector<StoredBatch>> Batches(Statement* statement);

  const std::string folder_;
  const int lock_;
  std::mutex mutex_;
  Database database_;
};

// Whether a batch with this status has come to its end.
bool IsEnd(std::string_view status);

}  // namespace winnow::server
