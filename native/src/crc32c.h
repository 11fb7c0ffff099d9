// CRC32C by the processor's instruction.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) || defined(__aarch64__)
#define NVMEFERRY_CRC32C
#endif

namespace nvmeferry {

#ifdef NVMEFERRY_CRC32C
/// This processor has the instruction.
bool Crc32cAvailable();
/// Continues `seed` (0 to start).
uint32_t Crc32c(const uint8_t* at, size_t length, uint32_t seed);
#endif

}  // namespace nvmeferry
