// Values from outside as errors show them.
#include "base/text.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

TEST(Quoted, LeavesOrdinaryTextAlone) {
  EXPECT_EQ(Quoted("model.norm.weight"), "\"model.norm.weight\"");
  EXPECT_EQ(Quoted(""), "\"\"");
  EXPECT_EQ(Quoted("\xc3\xa9"), "\"\xc3\xa9\"");
}

TEST(Quoted, EscapesWhatWouldBreakALineOrATerminal) {
  EXPECT_EQ(Quoted("a\nb\x1b[2J"), "\"a\\x0ab\\x1b[2J\"");
  EXPECT_EQ(Quoted("say \"hi\" \\"), "\"say \\\"hi\\\" \\\\\"");
  EXPECT_EQ(Quoted(std::string_view("\0\x7f", 2)), "\"\\x00\\x7f\"");
}

TEST(Quoted, CutsAfterEightyBytes) {
  EXPECT_EQ(Quoted(std::string(80, 'x')), "\"" + std::string(80, 'x') + "\"");
  EXPECT_EQ(Quoted(std::string(5000, 'x')), "\"" + std::string(80, 'x') + "\"\xe2\x80\xa6");
}

}  // namespace
}  // namespace winnow
