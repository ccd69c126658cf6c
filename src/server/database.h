// SQLite, as far as the ledger needs it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "winnow/status.h"

struct sqlite3;
struct sqlite3_stmt;

namespace winnow::server {

// A prepared statement. Columns and parameters count from 0. Lives no longer than its database.
class Statement {
 public:
  Statement& Bind(int parameter, int64_t value);
  Statement& Bind(int parameter, double value);
  Statement& Bind(int parameter, const std::string& value);

  // Runs to the next row: true if there is one. After false or an error, the statement can be bound
  // and run again.
  Result<bool> Step();

  int64_t Int(int column) const;
  double Double(int column) const;
  std::string Text(int column) const;

 private:
  friend class Database;
  struct Finalizer {
    void operator()(sqlite3_stmt* statement) const;
  };
  Statement(sqlite3_stmt* statement, std::string what)
      : statement_(statement), what_(std::move(what)) {}

  std::unique_ptr<sqlite3_stmt, Finalizer> statement_;
  std::string what_;  // the database in errors
};

// One connection. Not thread-safe: one thread at a time.
class Database {
 public:
  // Creates the file if `writable` and it is not there. kNotFound, kInvalidArgument or kCorrupt
  // naming the file.
  static Result<Database> Open(const std::string& path, bool writable);

  Result<Statement> Prepare(const std::string& sql) const;
  // Runs statements that return no rows.
  Status Execute(const std::string& sql) const;

 private:
  struct Closer {
    void operator()(sqlite3* handle) const;
  };
  Database(sqlite3* handle, std::string path) : handle_(handle), path_(std::move(path)) {}

  std::unique_ptr<sqlite3, Closer> handle_;
  std::string path_;
};

}  // namespace winnow::server
