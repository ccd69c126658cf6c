// Files: whole small ones as strings, large ones mapped.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "winnow/status.h"

namespace winnow {

// The last part of a path, which is what errors call a file.
std::string FileName(std::string_view path);

// The bytes of the regular file at `path`. kNotFound if it cannot be opened, kInvalidArgument if it
// is longer than `max_bytes`.
Result<std::string> ReadFile(const std::string& path, int64_t max_bytes);

// A file mapped for reading. Pages are read when they are first touched, so mapping a 60 GB file
// costs nothing. The first mapping installs a handler for SIGBUS: when the file shrinks while it is
// mapped, the lost pages read as zeros and `intact` turns false; faults elsewhere go to the handler
// that was there before. Movable; views stay valid until destruction.
class MappedFile {
 public:
  static Result<MappedFile> Open(const std::string& path);

  MappedFile();
  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) noexcept;
  ~MappedFile();

  const std::string& path() const;
  const uint8_t* data() const;
  int64_t size() const;  // bytes, as of Open

  // False once a page was found missing. Whoever computed from the bytes must then discard the
  // result.
  bool intact() const;

 private:
  struct Mapping;
  explicit MappedFile(std::unique_ptr<Mapping> mapping);
  std::unique_ptr<Mapping> mapping_;
};

}  // namespace winnow
