// CRC32C by the processor's instruction (SSE4.2, ARMv8 CRC), three streams at once where the length allows, because the instruction takes three
// cycles and starts one each. Without the instruction: not exported, and JavaScript uses what it has.
#include <cstring>

#include "crc32c.h"
#include "functions.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#define CRC_TARGET __attribute__((target("sse4.2")))
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#define CRC_TARGET __attribute__((target("+crc")))
#endif

namespace nvmeferry {

#ifdef CRC_TARGET
namespace {

#if defined(__x86_64__)
CRC_TARGET inline uint64_t Step(uint64_t crc, uint64_t word) { return _mm_crc32_u64(crc, word); }
CRC_TARGET inline uint32_t StepByte(uint32_t crc, uint8_t byte) { return _mm_crc32_u8(crc, byte); }
bool HasInstruction() { return __builtin_cpu_supports("sse4.2"); }
#else
CRC_TARGET inline uint64_t Step(uint64_t crc, uint64_t word) { return __crc32cd(static_cast<uint32_t>(crc), word); }
CRC_TARGET inline uint32_t StepByte(uint32_t crc, uint8_t byte) { return __crc32cb(crc, byte); }
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
bool HasInstruction() { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
#endif

inline uint64_t Word(const uint8_t* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

/// Advances a CRC over `kBlock` zero bytes by four table look-ups: the operation is linear.
template <size_t kBlock>
struct Shift {
  uint32_t table[4][256];
  Shift() {
    // one zero bit at a time for each of the 32 basis vectors
    uint32_t basis[32];
    for (int bit = 0; bit < 32; bit++) {
      uint32_t crc = 1u << bit;
      for (size_t i = 0; i < kBlock * 8; i++) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82f63b78u : crc >> 1;
      basis[bit] = crc;
    }
    for (int byte = 0; byte < 4; byte++) {
      for (int value = 0; value < 256; value++) {
        uint32_t crc = 0;
        for (int bit = 0; bit < 8; bit++) {
          if ((value >> bit) & 1) crc ^= basis[byte * 8 + bit];
        }
        table[byte][value] = crc;
      }
    }
  }
  uint32_t operator()(uint32_t crc) const {
    return table[0][crc & 255] ^ table[1][(crc >> 8) & 255] ^ table[2][(crc >> 16) & 255] ^ table[3][crc >> 24];
  }
};

template <size_t kBlock>
CRC_TARGET const uint8_t* Streams(const uint8_t* at, const uint8_t* end, uint64_t* crc) {
  static const Shift<kBlock> shift;
  while (static_cast<size_t>(end - at) >= 3 * kBlock) {
    uint64_t a = *crc, b = 0, c = 0;
    for (size_t i = 0; i < kBlock; i += 8) {
      a = Step(a, Word(at + i));
      b = Step(b, Word(at + kBlock + i));
      c = Step(c, Word(at + 2 * kBlock + i));
    }
    *crc = shift(shift(static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b)) ^ static_cast<uint32_t>(c);
    at += 3 * kBlock;
  }
  return at;
}

}  // namespace

bool Crc32cAvailable() { return HasInstruction(); }

CRC_TARGET uint32_t Crc32c(const uint8_t* at, size_t length, uint32_t seed) {
  uint64_t crc = ~seed & 0xffffffffu;
  const uint8_t* end = at + length;
  at = Streams<1360>(at, end, &crc);
  at = Streams<168>(at, end, &crc);
  for (; end - at >= 8; at += 8) crc = Step(crc, Word(at));
  uint32_t result = static_cast<uint32_t>(crc);
  for (; at < end; at++) result = StepByte(result, *at);
  return ~result;
}

namespace {

/// (Uint8Array, crc so far) -> crc
napi_value Crc32cCall(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2];
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  void* data = nullptr;
  size_t length = 0;
  uint32_t seed = 0;
  napi_get_typedarray_info(env, arguments[0], nullptr, &length, &data, nullptr, nullptr);
  if (count > 1) napi_get_value_uint32(env, arguments[1], &seed);
  napi_value result;
  napi_create_uint32(env, Crc32c(static_cast<const uint8_t*>(data), data == nullptr ? 0 : length, seed), &result);
  return result;
}

}  // namespace

void DefineCrc32c(Napi::Env env, Napi::Object exports) {
  if (!Crc32cAvailable()) return;
  napi_value function;
  napi_create_function(env, "crc32c", NAPI_AUTO_LENGTH, Crc32cCall, nullptr, &function);
  exports.Set("crc32c", Napi::Value(env, function));
}
#else
void DefineCrc32c(Napi::Env, Napi::Object) {}
#endif

}  // namespace nvmeferry
