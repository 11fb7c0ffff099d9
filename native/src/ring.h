// One io_uring, by raw system calls. Not thread-safe: the ring belongs to the thread that made it.
#pragma once
#include <cstdint>
#include <memory>

#include "kernel-abi.h"
#include "operation.h"

namespace nvmeferry {

class Ring {
 public:
  /// @param wide 128-byte SQEs and 32-byte CQEs, for NVMe commands
  /// @param error set to errno when there is no ring
  static std::unique_ptr<Ring> Make(uint32_t entries, bool wide, int eventFd, int* error);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  bool supports(Op op) const;
  bool wide() const { return wide_; }
  uint32_t entries() const { return sqEntries_; }
  uint32_t inFlight() const { return inFlight_; }
  /// In the submission queue and not yet taken by the kernel.
  uint32_t unsubmitted() const { return unsubmitted_; }

  /// Queues `job`, which stays where it is until it completes. False if there is no room.
  bool Queue(const Job& job, bool filesRegistered);
  /// Gives the kernel what is queued. What completes meanwhile wakes nobody: reap afterwards. @returns 0 or -errno (-EAGAIN, -EBUSY: try again later)
  int Enter();
  /// Drops what the kernel did not take, naming each slot.
  template <typename Each>
  void Abandon(Each each) {
    for (; unsubmitted_ > 0; unsubmitted_--) {
      const uint32_t tail = *sqTail_ - 1;
      const uint8_t* sqe = static_cast<uint8_t*>(sqeMap_) + ((tail & sqMask_) * (sizeof(abi::Sqe) << (wide_ ? 1 : 0)));
      each(static_cast<uint32_t>(reinterpret_cast<const abi::Sqe*>(sqe)->user_data));
      __atomic_store_n(sqTail_, tail, __ATOMIC_RELEASE);
    }
  }
  /// Takes up to `max` completions.
  uint32_t Reap(Completion* out, uint32_t max);
  /// Cancels what can be cancelled and waits for everything.
  void Drain();

  int RegisterFiles(uint32_t count);
  int UpdateFile(uint32_t index, int fd);
  int RegisterBuffers(uint32_t count);
  int UpdateBuffer(uint32_t index, void* address, size_t length);

 private:
  Ring() = default;
  int Map(const abi::UringParams& params);
  int Submit();
  abi::Sqe* NextSqe();
  void Probe();

  int fd_ = -1;
  bool wide_ = false;
  uint32_t sqEntries_ = 0;
  uint32_t sqMask_ = 0;
  uint32_t cqMask_ = 0;
  uint32_t unsubmitted_ = 0;
  uint32_t inFlight_ = 0;
  void* ringMap_ = nullptr;
  size_t ringBytes_ = 0;
  void* sqeMap_ = nullptr;
  size_t sqeBytes_ = 0;
  uint32_t* sqHead_ = nullptr;
  uint32_t* sqTail_ = nullptr;
  uint32_t* sqArray_ = nullptr;
  uint32_t* sqFlags_ = nullptr;
  uint32_t* cqHead_ = nullptr;
  uint32_t* cqTail_ = nullptr;
  /// Null where wake-ups cannot be held back without losing one.
  uint32_t* cqFlags_ = nullptr;
  uint8_t* cqes_ = nullptr;
  uint64_t supported_ = 0;
};

}  // namespace nvmeferry
