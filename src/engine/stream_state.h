// The pipe between the engine thread and the holder of a Stream.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

#include "winnow/winnow.h"

namespace winnow {

struct StreamState {
  std::atomic<bool> cancelled{false};

  std::mutex mutex;  // guards what follows
  std::condition_variable changed;
  std::deque<Chunk> chunks;
  Status error;
  bool finished = false;       // nothing follows
  std::function<void()> wake;  // may be empty

  void Put(Chunk chunk) {
    std::lock_guard<std::mutex> lock(mutex);
    finished = chunk.finish != FinishReason::kNone;
    chunks.push_back(std::move(chunk));
    Announce();
  }

  void Fail(Status status) {
    std::lock_guard<std::mutex> lock(mutex);
    error = std::move(status);
    finished = true;
    Announce();
  }

 private:
  void Announce() {
    changed.notify_all();
    if (wake) wake();
  }
};

}  // namespace winnow
