// One request of a batch while it runs: its generations, and the answer they become.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/answer_writer.h"
#include "server/batch_line.h"
#include "server/request_record.h"
#include "winnow/winnow.h"

namespace winnow::server {

// What answers say of the model, and for whom it runs.
struct BatchContext {
  Engine* engine = nullptr;
  std::string model;  // for requests that name none
  std::string fingerprint;
  std::optional<double> dollars_per_hour;
  std::string key;         // Request::key
  std::string cache_salt;  // goes before the requests' own
};

// One thread at a time. Destruction cancels what runs.
class BatchTask {
 public:
  BatchTask(const BatchContext& context, BatchLine line);
  ~BatchTask();
  BatchTask(const BatchTask&) = delete;
  BatchTask& operator=(const BatchTask&) = delete;

  // Whether there are generations to submit.
  bool waiting() const { return !failed() && next_ < static_cast<int64_t>(num_choices_); }
  // Submits one; `wake` is called as Stream::Notify says. What the engine refuses for good makes
  // the request fail, which is OK; other errors say that it may be tried again, or that the engine
  // has gone.
  Status Submit(const std::function<void()>& wake);
  // Takes what the generations have.
  void Take();
  // Whether there is nothing more to submit or take.
  bool ended() const;
  // Not OK if the engine has gone away in the middle: there is no answer then.
  const Status& interrupted() const { return interrupted_; }
  // Ends what runs, and waits for it, so that record() says what it cost.
  void Cancel();

  int64_t open_streams() const;
  // The line of the result, when it has ended.
  std::string ResultText();
  // What is known of it, when it has ended or was cancelled.
  const RequestRecord& record();

 private:
  struct Choice {
    Stream stream;
    bool finished = false;
    Receipt receipt;
  };

  bool failed() const { return error_.has_value(); }
  void Prepare(Request* request) const;
  std::optional<ApiError> MakeWriter();
  void Take(size_t index);
  Receipt Total() const;

  const BatchContext& context_;
  BatchLine line_;
  std::unique_ptr<AnswerWriter> writer_;
  std::vector<Choice> choices_;
  size_t num_choices_ = 0;
  int64_t next_ = 0;  // choice to submit
  std::optional<ApiError> error_;
  Status interrupted_;
  RequestRecord record_;
};

}  // namespace winnow::server
