// Threads for what would hold up the io thread: parsing, tokenizing, submitting.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace winnow::server {

// Tasks begin in the order of Post. Destruction drops those that have not begun and waits for the
// others.
class WorkerPool {
 public:
  explicit WorkerPool(int num_threads) {
    for (int index = 0; index < num_threads; ++index) threads_.emplace_back([this] { Work(); });
  }
  ~WorkerPool() { Stop(); }
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  void Post(std::function<void()> task) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (stop_) return;
      tasks_.push_back(std::move(task));
    }
    changed_.notify_one();
  }

  void Stop() {
    std::deque<std::function<void()>> dropped;  // destroyed without the lock
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      dropped.swap(tasks_);
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }

 private:
  void Work() {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
        if (stop_) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace winnow::server
