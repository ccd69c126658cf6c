// examples/needles.json and its kin: statements to hide, questions to ask.
#pragma once

#include <string>
#include <vector>

#include "winnow/status.h"

namespace winnow::eval {

struct Needle {
  std::string statement;
  std::string question;
  std::string answer;
};

struct NeedleFile {
  std::string name;            // the last part of its path, for errors
  std::string absent_answer;   // what the model says of what is not there
  std::string quote_question;  // "{passage}" stands for the passage
  std::vector<Needle> needles;

  std::string QuoteQuestion(const std::string& passage) const;
};

// At least one needle, no text blank, no statement and no question twice: what is asked as absent
// must be absent. Errors name the file, the field and what was found.
Result<NeedleFile> ReadNeedleFile(const std::string& path);

// The same, with a hint where the file is missing and nobody named it: `default_path` is what is
// read then.
Result<NeedleFile> ReadNeedles(const std::string& path, const std::string& default_path);

}  // namespace winnow::eval
