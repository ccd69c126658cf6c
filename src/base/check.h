// The macros of the house: broken invariants abort, failed statuses return.
#pragma once

#include "winnow/status.h"

namespace winnow {

// Prints "file:line: message" to standard error and aborts. For our own mistakes only: nothing that
// a file or a socket says may reach it.
[[noreturn]] void CheckFailed(const char* file, int line, const std::string& message);

}  // namespace winnow

// Aborts with `message` (anything a std::string is made from) when `condition` is false, in all
// builds.
#define WINNOW_CHECK(condition, message)                                  \
  do {                                                                    \
    if (!(condition)) ::winnow::CheckFailed(__FILE__, __LINE__, message); \
  } while (false)

// The same in builds without NDEBUG only; for the loops of kernels.
#ifdef NDEBUG
#define WINNOW_DCHECK(condition, message) \
  do {                                    \
    (void)sizeof(condition);              \
  } while (false)
#else
#define WINNOW_DCHECK(condition, message) WINNOW_CHECK(condition, message)
#endif

// Returns the Status of `expression` from the current function unless it is OK.
#define WINNOW_TRY(expression)                                                                    \
  do {                                                                                            \
    if (::winnow::Status winnow_status = (expression); !winnow_status.ok()) return winnow_status; \
  } while (false)

#define WINNOW_CONCAT_(a, b) a##b
#define WINNOW_CONCAT(a, b) WINNOW_CONCAT_(a, b)

// Declares or assigns `target` from a Result, or returns its Status:
//   WINNOW_ASSIGN(MappedFile file, MappedFile::Open(path));
#define WINNOW_ASSIGN(target, expression) \
  WINNOW_ASSIGN_(WINNOW_CONCAT(winnow_result_, __LINE__), target, expression)
#define WINNOW_ASSIGN_(result, target, expression) \
  auto result = (expression);                      \
  if (!result.ok()) return result.error();         \
  target = std::move(*result)
