// Times of the calendar, in UTC.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace winnow::server {

// Seconds since 1970 of "2026-11-01" or "2026-11-01T12:00:00"; nothing if it is neither.
std::optional<double> ParseUtc(std::string_view text);

// "2026-11-01T12:00:00Z"
std::string FormatUtc(double time);

enum class Period { kHour, kDay, kMonth };

// The beginning of the period that `time` is in, and of the next one.
double PeriodStart(Period period, double time);
double PeriodEnd(Period period, double time);

}  // namespace winnow::server
