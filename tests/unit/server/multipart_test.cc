#include "server/multipart.h"

#include <gtest/gtest.h>

namespace winnow::server {
namespace {

const std::string kType = "multipart/form-data; boundary=XyZ";

// A body whose parts are what stands between boundaries, "\n" for CRLF.
std::string Form(const std::vector<std::string>& parts) {
  std::string body;
  for (const std::string& part : parts) {
    body += "--XyZ\r\n";
    for (const char letter : part) body += letter == '\n' ? "\r\n" : std::string(1, letter);
    body += "\r\n";
  }
  return body + "--XyZ--\r\n";
}

std::string Error(const std::string& body, const std::string& type = kType) {
  const auto parts = ParseForm(type, body);
  return parts.ok() ? "" : parts.error().message();
}

TEST(Multipart, ReadsWhatCurlSends) {
  const std::string body =
      Form({"Content-Disposition: form-data; name=\"purpose\"\n\nbatch",
            "Content-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\nContent-Type: "
            "application/octet-stream\n\n{\"a\":1}\n{\"b\":2}\n"});
  const auto parts = ParseForm(kType, body);
  ASSERT_TRUE(parts.ok()) << parts.error().message();
  ASSERT_EQ(parts->size(), 2u);
  EXPECT_EQ((*parts)[0].name, "purpose");
  EXPECT_EQ((*parts)[0].data, "batch");
  EXPECT_FALSE((*parts)[0].has_filename);
  EXPECT_EQ((*parts)[1].filename, "in.jsonl");
  EXPECT_TRUE((*parts)[1].has_filename);
  EXPECT_EQ((*parts)[1].data, "{\"a\":1}\r\n{\"b\":2}\r\n");
}

TEST(Multipart, KeepsBytesThatLookLikeABoundary) {
  const std::string data = std::string("\0\r\n--XyY\r\n-XyZ\r\n--Xy\r", 22);
  std::string body = "--XyZ\r\nContent-Disposition: form-data; name=a\r\n\r\n" + data;
  body += "\r\n--XyZ--";
  const auto parts = ParseForm(kType, body);
  ASSERT_TRUE(parts.ok()) << parts.error().message();
  EXPECT_EQ((*parts)[0].data, data);
}

TEST(Multipart, TakesAnEmptyPart) {
  const std::string body = Form({"Content-Disposition: form-data; name=\"a\"\n\n"});
  const auto parts = ParseForm(kType, body);
  ASSERT_TRUE(parts.ok()) << parts.error().message();
  EXPECT_EQ((*parts)[0].data, "");
}

TEST(Multipart, ReadsNamesInQuotes) {
  const auto parts = ParseForm("Multipart/Form-Data; charset=utf-8; Boundary=\"XyZ\"",
                               Form({"content-disposition: form-data; NAME=\"a; b=\\\"c\\\"\"; "
                                     "filename=\"C:\\x\\\\y\"\n\n1"}));
  ASSERT_TRUE(parts.ok()) << parts.error().message();
  EXPECT_EQ((*parts)[0].name, "a; b=\"c\"");
  EXPECT_EQ((*parts)[0].filename, "C:\\x\\y");
}

TEST(Multipart, RefusesOtherContentTypes) {
  for (const char* type :
       {"", "application/json", "multipart/mixed; boundary=XyZ", "multipart/form-data",
        "multipart/form-data; boundary=", "multipart/form-data; boundary=\"XyZ",
        "multipart/form-data; boundary=a; boundary=b", "multipart/form-data; boundary=\"a\tb\""}) {
    EXPECT_NE(Error("--XyZ--", type), "") << type;
  }
  EXPECT_NE(Error("--XyZ--", "multipart/form-data; boundary=" + std::string(71, 'x')), "");
}

TEST(Multipart, RefusesWhatIsNotAForm) {
  const std::string part = "Content-Disposition: form-data; name=\"a\"\n\n1";
  EXPECT_EQ(Error(Form({part})), "");
  EXPECT_EQ(Error("--XyZ--"), "");  // no parts
  EXPECT_EQ(Error(""), "form: it does not begin with its boundary");
  EXPECT_EQ(Error("preamble\r\n" + Form({part})), "form: it does not begin with its boundary");
  EXPECT_EQ(Error(Form({part}) + "more"),
            "form: something follows its last boundary, expected its end");
  EXPECT_NE(Error("--XyZ\nContent-Disposition: form-data; name=a\n\n1\n--XyZ--"), "");
  EXPECT_EQ(Error(Form({part, part})),
            "form: part 2: name \"a\" for the second time, expected it once");
  EXPECT_NE(Error(Form({"Content-Disposition: form-data\n\n1"})), "");
  EXPECT_NE(Error(Form({"Content-Disposition: attachment; name=\"a\"\n\n1"})), "");
  EXPECT_NE(Error(Form({"Content-Disposition: form-data; name=\"a\n\n1"})), "");
  EXPECT_NE(Error(Form({"Content-Disposition: form-data; name=\"a\" junk\n\n1"})), "");
  EXPECT_NE(Error(Form({"no colon\n\n1"})), "");
  EXPECT_NE(Error(Form({"Content-Disposition: form-data;\n name=\"a\"\n\n1"})), "");
  EXPECT_NE(
      Error(Form({part.substr(0, part.size() - 3) + "\nContent-Transfer-Encoding: base64\n\n1"})),
      "");
}

TEST(Multipart, BoundsPartsAndTheirHeaders) {
  std::vector<std::string> parts;
  for (int index = 0; index < 32; ++index) {
    parts.push_back("Content-Disposition: form-data; name=\"p" + std::to_string(index) + "\"\n\n1");
  }
  EXPECT_EQ(Error(Form(parts)), "");
  parts.push_back("Content-Disposition: form-data; name=\"last\"\n\n1");
  EXPECT_EQ(Error(Form(parts)), "form: more than 32 parts, expected fewer");
  const std::string name = "Content-Disposition: form-data; name=\"a\"\n";
  std::string lines;
  for (int index = 0; index < 7; ++index) lines += "X: 1\n";
  EXPECT_EQ(Error(Form({name + lines + "\n1"})), "");
  EXPECT_NE(Error(Form({name + lines + "X: 1\n\n1"})), "");
  EXPECT_NE(Error(Form({name + "X: " + std::string(5000, 'x') + "\n\n1"})), "");
}

TEST(Multipart, RefusesABodyThatWasCutAnywhere) {
  const std::string body =
      Form({"Content-Disposition: form-data; name=\"purpose\"\n\nbatch",
            "Content-Disposition: form-data; name=\"file\"; filename=\"x\"\n\nabc"});
  const size_t whole = body.size() - 2;  // what follows the last boundary may be missing
  for (size_t length = 0; length < body.size(); ++length) {
    EXPECT_EQ(ParseForm(kType, body.substr(0, length)).ok(), length == whole) << length;
  }
}

}  // namespace
}  // namespace winnow::server
