// An object of JSON from text that must be one.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "base/json.h"

namespace winnow::server {

inline json::object Object(const std::string& text) {
  auto value = ParseJson(text, "test");
  EXPECT_TRUE(value.ok()) << text;
  return value.ok() ? value->as_object() : json::object();
}

}  // namespace winnow::server
