// The ceilings of this machine for some threads and one instruction set.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "backend/backend.h"
#include "cpu/cpu_backend.h"

namespace winnow::cpu {

struct CpuContext;

// Takes about half a second, and several times the caches' size of memory for that time.
// kResourceExhausted when there is no such memory.
Result<Roofs> MeasureRoofs(CpuContext& context, InstructionSet set);

// Bytes of all last-level caches that the processors of `read` share, where read(path) gives the
// text of a file below /sys/devices/system/cpu, or nothing; 64 MiB where the system does not say.
int64_t LastLevelCacheBytes(const std::function<std::string(const std::string& path)>& read);

}  // namespace winnow::cpu
