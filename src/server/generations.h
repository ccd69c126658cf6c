// The running generations behind one answer: chunks from the engine, through a writer, to the
// client.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/answer_writer.h"
#include "server/http.h"
#include "server/request_record.h"
#include "winnow/winnow.h"

namespace winnow::server {

// `chunk`, and what a stream said after it, become one.
void Merge(Chunk next, Chunk* chunk);

// Streams of all choices of an answer. Made on any thread; everything else happens on the io
// thread. When the client goes, the streams are cancelled and read to their ends, so that the
// record says what they cost. `held` is let go of with the last stream.
class Generations : public Source, public Later, public std::enable_shared_from_this<Generations> {
 public:
  Generations(std::vector<Stream> streams, std::unique_ptr<AnswerWriter> writer,
              std::shared_ptr<RequestRecord> record, int64_t n, std::string request_id,
              std::shared_ptr<void> held);
  ~Generations() override;

  // Begins: from here on `responder` is woken. Answers with events if `stream`, else as a whole.
  void Answer(const Responder& responder, bool stream);

  bool Pull(std::string* bytes) override;
  void KeepAlive(std::string* bytes) override;
  std::optional<HttpResponse> Poll() override;
  void Cancel() override;
  void Abandon() override;

 private:
  struct Choice {
    Stream stream;
    bool finished = false;
    int64_t prefilled = 0;
    int64_t prompt_tokens = 0;
    Receipt receipt;
    std::chrono::steady_clock::time_point last_token{};
  };

  // Takes some of what the streams have, about 32 KiB of events at most, and wakes itself if there
  // is more; false when all have ended.
  bool Take(std::string* events);
  std::optional<Chunk> NextChunks(Choice* choice);
  void Measure(Choice* choice, const Chunk& chunk);
  void Finish();
  Receipt Total() const;
  void ReadToTheEnd();

  std::vector<Choice> choices_;
  std::unique_ptr<AnswerWriter> writer_;
  std::shared_ptr<RequestRecord> record_;
  const int64_t n_;
  const std::string request_id_;
  std::shared_ptr<void> held_;
  std::optional<ApiError> error_;
  bool ended_ = false;
  bool abandoned_ = false;
  size_t first_choice_ = 0;  // whose turn it is
  std::function<void()> wake_;
  std::function<void(std::function<void()>)> post_;  // to the io thread
  std::shared_ptr<Generations> self_;                // while it reads to the end on its own
};

}  // namespace winnow::server
