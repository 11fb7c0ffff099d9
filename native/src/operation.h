// The packed form in which JavaScript hands over operations, and what one of them does when a thread performs it by plain system calls.
// src/native/operation-layout.ts mirrors it; addon.cc exports the sizes so that a mismatch is found when the addon loads.
#pragma once
#include <sys/uio.h>

#include <cstdint>
#include <vector>

namespace nvmeferry {

enum class Op : uint32_t {
  Nop = 0,
  Read = 1,
  Write = 2,
  Fsync = 3,
  Fdatasync = 4,
  Fallocate = 5,
  Discard = 6,
  ZeroOut = 7,
  NvmeIo = 8,
  NvmeAdmin = 9,
};
constexpr uint32_t kOpCount = 10;

/// One operation of a batch: 32 words, written by JavaScript in place.
struct Entry {
  uint32_t op;
  int32_t fd;
  uint32_t flags;
  uint32_t slot;
  uint64_t offset;
  uint64_t length;
  uint32_t mode;         // RWF_ flags, or the mode of fallocate
  uint32_t bufferCount;  // views in pins[slot]: 0, 1, or an array of that many
  uint32_t bufferSkip;   // bytes of the first view (or of the registered buffer) that are done
  uint32_t bufferIndex;  // registered buffer
  uint32_t metadataLength;
  uint32_t fileIndex;
  uint32_t rsvd[2];
  // NVMe
  uint32_t opcodeFlags;
  uint32_t nsid;
  uint32_t cdw2;
  uint32_t cdw3;
  uint32_t cdw10_15[6];
  uint32_t timeoutMs;
  uint32_t rsvd2[5];
};
static_assert(sizeof(Entry) == 128);

constexpr uint32_t kFixedFile = 1u << 0;
constexpr uint32_t kFixedBuffer = 1u << 1;
constexpr uint32_t kPool = 1u << 2;    // by a thread, whatever the engine is
constexpr uint32_t kInline = 1u << 3;  // by the caller at once: it only moves memory

/// What comes back: 4 words each.
struct Completion {
  uint32_t slot;
  int32_t result;  // bytes, NVMe status, or -errno
  uint32_t result0;
  uint32_t result1;
};
static_assert(sizeof(Completion) == 16);

/// An entry with its memory looked up. `iov` keeps its place until the operation completes: the kernel may read it late.
struct Job {
  Entry entry;
  std::vector<iovec> iov;
  void* metadata = nullptr;
  Completion completion;
  /// Total of `iov`.
  uint64_t bytes() const;
};

/// Blocks. Fills `job.completion`.
void Perform(Job& job);

}  // namespace nvmeferry
