#include "server/database.h"

#include <sqlite3.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/text.h"

namespace winnow::server {
namespace {

constexpr int kBusyMilliseconds = 5000;

Status ErrorOf(int code, const std::string& path, const std::string& message) {
  const std::string text = path + ": " + message;
  switch (code & 0xFF) {
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
      return Corrupt(text + ", expected a SQLite database");
    case SQLITE_FULL:
    case SQLITE_BUSY:
      return ResourceExhausted(text);
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return InvalidArgument(text);
    default:
      return Internal(text);
  }
}

}  // namespace

void Statement::Finalizer::operator()(sqlite3_stmt* statement) const {
  sqlite3_finalize(statement);
}

void Database::Closer::operator()(sqlite3* handle) const { sqlite3_close(handle); }

Statement& Statement::Bind(int parameter, int64_t value) {
  sqlite3_bind_int64(statement_.get(), parameter + 1, value);
  return *this;
}

Statement& Statement::Bind(int parameter, double value) {
  sqlite3_bind_double(statement_.get(), parameter + 1, value);
  return *this;
}

Statement& Statement::Bind(int parameter, const std::string& value) {
  sqlite3_bind_text64(statement_.get(), parameter + 1, value.data(), value.size(), SQLITE_TRANSIENT,
                      SQLITE_UTF8);
  return *this;
}

Result<bool> Statement::Step() {
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  const std::string message = sqlite3_errmsg(sqlite3_db_handle(statement_.get()));
  sqlite3_reset(statement_.get());
  if (code == SQLITE_DONE) return false;
  return ErrorOf(code, what_, message);
}

int64_t Statement::Int(int column) const { return sqlite3_column_int64(statement_.get(), column); }

double Statement::Double(int column) const {
  return sqlite3_column_double(statement_.get(), column);
}

std::string Statement::Text(int column) const {
  const auto* text = sqlite3_column_text(statement_.get(), column);
  const int size = sqlite3_column_bytes(statement_.get(), column);
  return text ? std::string(reinterpret_cast<const char*>(text), static_cast<size_t>(size))
              : std::string();
}

Result<Database> Database::Open(const std::string& path, bool writable) {
  struct stat info;
  if (!writable && stat(path.c_str(), &info) != 0)
    return NotFound(path + ": there is no such file");
  if (!writable && !S_ISREG(info.st_mode))
    return InvalidArgument(path + ": expected a file that is a database");
  sqlite3* handle = nullptr;
  const int flags = writable ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY;
  const int code = sqlite3_open_v2(path.c_str(), &handle, flags, nullptr);
  Database database(handle, path);
  if (handle == nullptr) return ResourceExhausted(path + ": no memory to open it");
  if (code != SQLITE_OK) return ErrorOf(code, path, sqlite3_errmsg(handle));
  sqlite3_busy_timeout(handle, kBusyMilliseconds);
  return database;
}

Result<Statement> Database::Prepare(const std::string& sql) const {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v2(handle_.get(), sql.c_str(), -1, &statement, nullptr);
  if (code != SQLITE_OK) return ErrorOf(code, path_, sqlite3_errmsg(handle_.get()));
  return Statement(statement, path_);
}

Status Database::Execute(const std::string& sql) const {
  const int code = sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? OkStatus() : ErrorOf(code, path_, sqlite3_errmsg(handle_.get()));
}

}  // namespace winnow::server
