#include "server/utc_time.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <ctime>

namespace winnow::server {
namespace {

std::tm Calendar(double time) {
  const std::time_t seconds = static_cast<std::time_t>(std::floor(time));
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  return parts;
}

double Seconds(std::tm parts) { return static_cast<double>(timegm(&parts)); }

// Whether `text` is "dddd-dd-dd" or that and "Tdd:dd:dd", with d for a digit.
bool HasShape(std::string_view text) {
  constexpr std::string_view kShape = "dddd-dd-ddTdd:dd:dd";
  if (text.size() != 10 && text.size() != kShape.size()) return false;
  for (size_t index = 0; index < text.size(); ++index) {
    const bool digit = text[index] >= '0' && text[index] <= '9';
    if (kShape[index] == 'd' ? !digit : text[index] != kShape[index]) return false;
  }
  return true;
}

}  // namespace

std::optional<double> ParseUtc(std::string_view text) {
  if (!text.empty() && text.back() == 'Z' && text.size() == 20) text.remove_suffix(1);
  if (!HasShape(text)) return std::nullopt;
  const auto number = [&](size_t first, size_t count) {
    int value = 0;
    for (size_t index = first; index < first + count; ++index)
      value = value * 10 + text[index] - '0';
    return value;
  };
  std::tm parts{};
  parts.tm_year = number(0, 4) - 1900;
  parts.tm_mon = number(5, 2) - 1;
  parts.tm_mday = number(8, 2);
  if (text.size() > 10) {
    parts.tm_hour = number(11, 2);
    parts.tm_min = number(14, 2);
    parts.tm_sec = number(17, 2);
  }
  const double time = Seconds(parts);
  // What the calendar does not have, such as the 31st of June, comes back as another day.
  const std::string back = FormatUtc(time);
  return back.compare(0, text.size(), text) == 0 ? std::optional<double>(time) : std::nullopt;
}

std::string FormatUtc(double time) {
  const std::tm parts = Calendar(time);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

double PeriodStart(Period period, double time) {
  std::tm parts = Calendar(time);
  parts.tm_min = parts.tm_sec = 0;
  if (period != Period::kHour) parts.tm_hour = 0;
  if (period == Period::kMonth) parts.tm_mday = 1;
  return Seconds(parts);
}

double PeriodEnd(Period period, double time) {
  std::tm parts = Calendar(PeriodStart(period, time));
  if (period == Period::kHour) ++parts.tm_hour;
  if (period == Period::kDay) ++parts.tm_mday;
  if (period == Period::kMonth) ++parts.tm_mon;
  return Seconds(parts);
}

}  // namespace winnow::server
