// The requests of a batch: a file of lines, all of them checked before the first one runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "server/batch_line.h"
#include "winnow/status.h"

namespace winnow::server {

// Something wrong with a file of requests.
struct BatchProblem {
  int64_t line = 0;  // from 1; 0: the file as a whole
  std::string code;
  std::string param;
  std::string message;
};

// Does not change once made. Requests are numbered from 0 in the order of the file; lines without
// anything in them are none.
class BatchInput {
 public:
  static constexpr size_t kMostProblems = 20;

  // Maps the file and checks every line. Appends to `problems` what is wrong, the first
  // kMostProblems of it; the result is of use only if nothing is. kCancelled soon after `stop`
  // becomes true (may be null); otherwise errors are those of MappedFile::Open.
  static Result<BatchInput> Open(const std::string& path, BatchRules rules,
                                 const std::atomic<bool>* stop,
                                 std::vector<BatchProblem>* problems);

  int64_t size() const { return static_cast<int64_t>(places_.size()); }
  int64_t LineNumber(int64_t request) const { return places_[static_cast<size_t>(request)].number; }
  // The request that has this custom_id, if one has.
  std::optional<int64_t> Find(const std::string& custom_id) const;
  // Reads a request again. kCorrupt if the file has changed since.
  Status Read(int64_t request, BatchLine* line) const;

 private:
  struct Place {
    int64_t offset = 0;
    int64_t length = 0;
    int64_t number = 0;
  };
  BatchInput(MappedFile file, BatchRules rules)
      : file_(std::move(file)), rules_(std::move(rules)) {}
  Status Check(const std::atomic<bool>* stop, std::vector<BatchProblem>* problems);
  void CheckLine(const Place& place, std::vector<BatchProblem>* problems);
  std::string_view Text(const Place& place) const;

  MappedFile file_;
  BatchRules rules_;
  std::vector<Place> places_;
  std::map<std::string, int64_t> requests_;  // by custom_id; ordered, so that none is slow to find
};

// The problems as one error: "in.jsonl: line 3: custom_id: it is missing", a line each.
Status ProblemsStatus(const std::string& path, const std::vector<BatchProblem>& problems);

}  // namespace winnow::server
