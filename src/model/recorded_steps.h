// What a device keeps of the steps that come again and again: those of answers, one token of each
// of some sequences.
#pragma once

#include <algorithm>
#include <vector>

#include "backend/backend.h"

namespace winnow {

// Recordings of the shapes seen last.
class RecordedSteps {
 public:
  static constexpr int64_t kMaxTokens =
      128;  // of a step: with more, launches are not what it costs

  // All that the arguments of a step's operations depend on, beside what never changes.
  struct Shape {
    const void* cache = nullptr;  // its first rows
    int64_t num_tokens = 0;
    int64_t max_pages = 0;  // of the page table
    bool select = false;
    bool operator==(const Shape&) const = default;
  };

  // The recording of this shape, empty where it is new.
  Recording& Find(const Shape& shape) {
    ++turn_;
    for (Entry& entry : entries_) {
      if (entry.shape == shape) {
        entry.used = turn_;
        return entry.recording;
      }
    }
    if (entries_.size() == kKept) {
      entries_.erase(
          std::min_element(entries_.begin(), entries_.end(),
                           [](const Entry& a, const Entry& b) { return a.used < b.used; }));
    }
    entries_.push_back({shape, turn_, nullptr});
    return entries_.back().recording;
  }

 private:
  static constexpr size_t kKept = 64;

  struct Entry {
    Shape shape;
    int64_t used = 0;
    Recording recording;
  };

  std::vector<Entry> entries_;
  int64_t turn_ = 0;
};

}  // namespace winnow
