// Status and Result<T>: how Winnow reports what the world did wrong.
//
// Files, configurations, requests and capacities fail with a Status. A broken promise of Winnow's
// own code is not a Status: it aborts (base/check.h).
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

namespace winnow {

enum class StatusCode {
  kOk = 0,
  kInvalidArgument,    // a request or flag that can never work
  kOutOfRange,         // a prompt that is longer than the context
  kNotFound,           // a file, model or field that is not there
  kUnsupported,        // understood, but not something Winnow does
  kCorrupt,            // a file whose bytes contradict themselves
  kResourceExhausted,  // memory, cache or queue is full
  kUnavailable,        // not ready, or going away
  kCancelled,          // the caller asked to stop
  kInternal,           // Winnow or the device failed
};

// "invalid_argument", "not_found", …
const char* StatusCodeName(StatusCode code);

// What went wrong, as "what was being read: what was found, what was expected", and optionally what
// to try. Cheap to move; an OK status holds no strings.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message, std::string hint = {})
      : code_(code), message_(std::move(message)), hint_(std::move(hint)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  const std::string& hint() const { return hint_; }

  // The message, and the hint on a line of its own.
  std::string ToString() const;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
  std::string hint_;
};

inline Status OkStatus() { return {}; }
inline Status InvalidArgument(std::string message, std::string hint = {}) {
  return {StatusCode::kInvalidArgument, std::move(message), std::move(hint)};
}
inline Status OutOfRange(std::string message, std::string hint = {}) {
  return {StatusCode::kOutOfRange, std::move(message), std::move(hint)};
}
inline Status NotFound(std::string message, std::string hint = {}) {
  return {StatusCode::kNotFound, std::move(message), std::move(hint)};
}
inline Status Unsupported(std::string message, std::string hint = {}) {
  return {StatusCode::kUnsupported, std::move(message), std::move(hint)};
}
inline Status Corrupt(std::string message, std::string hint = {}) {
  return {StatusCode::kCorrupt, std::move(message), std::move(hint)};
}
inline Status ResourceExhausted(std::string message, std::string hint = {}) {
  return {StatusCode::kResourceExhausted, std::move(message), std::move(hint)};
}
inline Status Unavailable(std::string message, std::string hint = {}) {
  return {StatusCode::kUnavailable, std::move(message), std::move(hint)};
}
inline Status Internal(std::string message, std::string hint = {}) {
  return {StatusCode::kInternal, std::move(message), std::move(hint)};
}

// Thrown by Result<T>::value() only, for callers who like exceptions. Nothing inside Winnow throws
// it.
class Error : public std::runtime_error {
 public:
  explicit Error(Status status)
      : std::runtime_error(status.ToString()), status_(std::move(status)) {}
  const Status& status() const { return status_; }

 private:
  Status status_;
};

// A value or the Status that explains its absence; shaped like std::expected.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Status status) : state_(std::in_place_index<1>, std::move(status)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // The status: OK when there is a value.
  Status status() const { return ok() ? Status() : std::get<1>(state_); }
  const Status& error() const { return std::get<1>(state_); }

  // The value. Only after ok().
  T& operator*() { return *std::get_if<0>(&state_); }
  const T& operator*() const { return *std::get_if<0>(&state_); }
  T* operator->() { return std::get_if<0>(&state_); }
  const T* operator->() const { return std::get_if<0>(&state_); }

  // The value, or a thrown Error.
  T& value() & {
    if (!ok()) throw Error(std::get<1>(state_));
    return std::get<0>(state_);
  }
  T&& value() && {
    if (!ok()) throw Error(std::get<1>(state_));
    return std::get<0>(std::move(state_));
  }

 private:
  std::variant<T, Status> state_;
};

}  // namespace winnow
