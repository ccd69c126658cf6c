// Hands out the pages of the KV cache.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace winnow {

// Not thread-safe: only the engine thread calls it.
class PagePool {
 public:
  explicit PagePool(int64_t num_pages) : num_pages_(num_pages) {
    // The page given back last is handed out next, and low pages before high ones: memory that was
    // never touched stays untouched as long as possible.
    for (int64_t page = num_pages - 1; page >= 0; --page) {
      free_.push_back(static_cast<int32_t>(page));
    }
  }

  std::optional<int32_t> Take() {
    if (free_.empty()) return std::nullopt;
    const int32_t page = free_.back();
    free_.pop_back();
    return page;
  }
  void Give(int32_t page) { free_.push_back(page); }

  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_pages() const { return num_pages_; }

 private:
  int64_t num_pages_;
  std::vector<int32_t> free_;
};

}  // namespace winnow
