#include "ring.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace nvmeferry {
namespace {

using namespace abi;

/// user_data of the cancel request of Drain.
constexpr uint64_t kCancelData = ~0ull;

int Setup(uint32_t entries, UringParams* params) {
  return static_cast<int>(syscall(__NR_io_uring_setup, entries, params));
}

int Register(int fd, unsigned opcode, const void* arg, unsigned count) {
  const long result = syscall(__NR_io_uring_register, fd, opcode, arg, count);
  return result < 0 ? -errno : static_cast<int>(result);
}

uint32_t LoadAcquire(const uint32_t* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
void StoreRelease(uint32_t* at, uint32_t value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }

}  // namespace

std::unique_ptr<Ring> Ring::Make(uint32_t entries, bool wide, int eventFd, int* error) {
  const uint32_t width = wide ? kSetupSqe128 | kSetupCqe32 : 0;
  const uint32_t wanted[] = {
      kSetupClamp | kSetupSubmitAll | kSetupCoopTaskrun | kSetupSingleIssuer,
      kSetupClamp | kSetupSubmitAll | kSetupCoopTaskrun,
      kSetupClamp,
  };
  std::unique_ptr<Ring> ring(new Ring());
  UringParams params{};
  for (const uint32_t flags : wanted) {
    std::memset(&params, 0, sizeof params);
    params.flags = flags | width;
    ring->fd_ = Setup(entries, &params);
    if (ring->fd_ >= 0 || errno != EINVAL) break;
  }
  if (ring->fd_ < 0) {
    *error = errno;
    return nullptr;
  }
  ring->wide_ = wide;
  // before 5.5 buffers described by an iovec had to outlive the submission; those kernels use the pool
  const uint32_t needed = kFeatSingleMmap | kFeatNoDrop | kFeatSubmitStable;
  if ((params.features & needed) != needed) {
    *error = ENOSYS;
    return nullptr;
  }
  int result = ring->Map(params);
  if (result == 0) result = Register(ring->fd_, kRegisterEventfd, &eventFd, 1);
  // older kernels look at the flag without a barrier behind their completion (and those before 5.8 have none)
  if ((params.flags & kSetupSingleIssuer) == 0) ring->cqFlags_ = nullptr;
  if (result < 0) {
    *error = -result;
    return nullptr;
  }
  ring->Probe();
  return ring;
}

int Ring::Map(const UringParams& params) {
  sqEntries_ = params.sq_entries;
  const size_t sqBytes = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
  const size_t cqBytes = params.cq_off.cqes + params.cq_entries * (sizeof(Cqe) << (wide_ ? 1 : 0));
  ringBytes_ = sqBytes > cqBytes ? sqBytes : cqBytes;
  void* map = mmap(nullptr, ringBytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, kOffSqRing);
  if (map == MAP_FAILED) return -errno;
  ringMap_ = map;
  sqeBytes_ = params.sq_entries * (sizeof(Sqe) << (wide_ ? 1 : 0));
  map = mmap(nullptr, sqeBytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, kOffSqes);
  if (map == MAP_FAILED) return -errno;
  sqeMap_ = map;
  uint8_t* base = static_cast<uint8_t*>(ringMap_);
  auto word = [base](uint32_t offset) { return reinterpret_cast<uint32_t*>(base + offset); };
  sqHead_ = word(params.sq_off.head);
  sqTail_ = word(params.sq_off.tail);
  sqMask_ = *word(params.sq_off.ring_mask);
  sqFlags_ = word(params.sq_off.flags);
  sqArray_ = word(params.sq_off.array);
  cqHead_ = word(params.cq_off.head);
  cqTail_ = word(params.cq_off.tail);
  if (params.cq_off.flags != 0) cqFlags_ = word(params.cq_off.flags);
  cqMask_ = *word(params.cq_off.ring_mask);
  cqes_ = base + params.cq_off.cqes;
  return 0;
}

void Ring::Probe() {
  struct abi::Probe probe {};
  if (Register(fd_, kRegisterProbe, &probe, 256) < 0) return;
  auto has = [&probe](uint8_t op) { return op < probe.ops_len && (probe.ops[op].flags & 1) != 0; };
  auto set = [this](Op op) { supported_ |= 1ull << static_cast<uint32_t>(op); };
  if (has(kOpNop)) set(Op::Nop);
  if (has(kOpRead)) set(Op::Read);
  if (has(kOpWrite)) set(Op::Write);
  if (has(kOpFsync)) set(Op::Fsync), set(Op::Fdatasync);
  if (has(kOpFallocate)) set(Op::Fallocate);
  if (wide_ && has(kOpUringCmd)) set(Op::NvmeIo), set(Op::NvmeAdmin);
}

Ring::~Ring() {
  if (sqeMap_ != nullptr) munmap(sqeMap_, sqeBytes_);
  if (ringMap_ != nullptr) munmap(ringMap_, ringBytes_);
  if (fd_ >= 0) close(fd_);
}

bool Ring::supports(Op op) const { return (supported_ >> static_cast<uint32_t>(op)) & 1; }

Sqe* Ring::NextSqe() {
  const uint32_t tail = *sqTail_;
  if (tail - LoadAcquire(sqHead_) >= sqEntries_) return nullptr;
  const uint32_t index = tail & sqMask_;
  const size_t bytes = sizeof(Sqe) << (wide_ ? 1 : 0);
  uint8_t* sqe = static_cast<uint8_t*>(sqeMap_) + index * bytes;
  std::memset(sqe, 0, bytes);
  sqArray_[index] = index;
  return reinterpret_cast<Sqe*>(sqe);
}

bool Ring::Queue(const Job& job, bool filesRegistered) {
  Sqe* sqe = NextSqe();
  if (sqe == nullptr) return false;
  const Entry& e = job.entry;
  sqe->user_data = e.slot;
  sqe->fd = e.fd;
  if (filesRegistered && (e.flags & kFixedFile) != 0) {
    sqe->flags = kSqeFixedFile;
    sqe->fd = static_cast<int32_t>(e.fileIndex);
  }
  const bool fixedBuffer = (e.flags & kFixedBuffer) != 0;
  switch (static_cast<Op>(e.op)) {
    case Op::Read:
    case Op::Write: {
      const bool reads = e.op == static_cast<uint32_t>(Op::Read);
      sqe->off = e.offset;
      sqe->op_flags = e.mode;
      if (job.iov.size() == 1) {
        sqe->opcode = fixedBuffer ? (reads ? kOpReadFixed : kOpWriteFixed) : (reads ? kOpRead : kOpWrite);
        sqe->addr = reinterpret_cast<uint64_t>(job.iov[0].iov_base);
        sqe->len = static_cast<uint32_t>(job.iov[0].iov_len);
        if (fixedBuffer) sqe->buf_index = static_cast<uint16_t>(e.bufferIndex);
      } else {
        sqe->opcode = reads ? kOpReadv : kOpWritev;
        sqe->addr = reinterpret_cast<uint64_t>(job.iov.data());
        sqe->len = static_cast<uint32_t>(job.iov.size());
      }
      break;
    }
    case Op::Fsync:
    case Op::Fdatasync:
      sqe->opcode = kOpFsync;
      sqe->op_flags = e.op == static_cast<uint32_t>(Op::Fdatasync) ? kFsyncDatasync : 0;
      break;
    case Op::Fallocate:
      sqe->opcode = kOpFallocate;
      sqe->off = e.offset;
      sqe->addr = e.length;
      sqe->len = e.mode;
      break;
    case Op::NvmeIo:
    case Op::NvmeAdmin: {
      const bool admin = e.op == static_cast<uint32_t>(Op::NvmeAdmin);
      const bool vectored = job.iov.size() > 1;
      sqe->opcode = kOpUringCmd;
      sqe->off = 0;
      sqe->cmd_op =
          admin ? (vectored ? kNvmeUringAdminVec : kNvmeUringAdmin) : (vectored ? kNvmeUringIoVec : kNvmeUringIo);
      NvmeUringCmd cmd{};
      cmd.opcode = static_cast<uint8_t>(e.opcodeFlags);
      cmd.flags = static_cast<uint8_t>(e.opcodeFlags >> 8);
      cmd.nsid = e.nsid;
      cmd.cdw2 = e.cdw2;
      cmd.cdw3 = e.cdw3;
      cmd.metadata = reinterpret_cast<uint64_t>(job.metadata);
      cmd.metadata_len = e.metadataLength;
      if (vectored) {
        cmd.addr = reinterpret_cast<uint64_t>(job.iov.data());
        cmd.data_len = static_cast<uint32_t>(job.iov.size());
      } else if (job.iov.size() == 1) {
        cmd.addr = reinterpret_cast<uint64_t>(job.iov[0].iov_base);
        cmd.data_len = static_cast<uint32_t>(job.iov[0].iov_len);
      }
      std::memcpy(cmd.cdw10_15, e.cdw10_15, sizeof cmd.cdw10_15);
      cmd.timeout_ms = e.timeoutMs;
      std::memcpy(reinterpret_cast<uint8_t*>(sqe) + kSqeCmdOffset, &cmd, sizeof cmd);
      break;
    }
    default:
      sqe->opcode = kOpNop;
      sqe->fd = -1;
      sqe->flags = 0;
  }
  StoreRelease(sqTail_, *sqTail_ + 1);
  unsubmitted_++;
  return true;
}

int Ring::Enter() {
  if (cqFlags_ == nullptr) return Submit();
  // what the page cache has completes in this very call, and is taken right after it: an eventfd written for it would be a turn of the loop for nothing
  __atomic_store_n(cqFlags_, kCqEventfdDisabled, __ATOMIC_RELAXED);
  const int result = Submit();
  __atomic_store_n(cqFlags_, 0u, __ATOMIC_RELAXED);
  // either the kernel's threads see the flag gone, or the next Reap sees their completion
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return result;
}

int Ring::Submit() {
  while (unsubmitted_ > 0) {
    const long taken = syscall(__NR_io_uring_enter, fd_, unsubmitted_, 0, 0, nullptr, 0);
    if (taken < 0) {
      if (errno == EINTR) continue;
      return -errno;
    }
    if (taken == 0) return -EAGAIN;
    unsubmitted_ -= static_cast<uint32_t>(taken);
    inFlight_ += static_cast<uint32_t>(taken);
  }
  return 0;
}

uint32_t Ring::Reap(Completion* out, uint32_t max) {
  // completions that found the queue full wait in the kernel until somebody enters
  if ((LoadAcquire(sqFlags_) & kSqCqOverflow) != 0) syscall(__NR_io_uring_enter, fd_, 0, 0, kEnterGetEvents, nullptr, 0);
  uint32_t head = *cqHead_;
  const uint32_t tail = LoadAcquire(cqTail_);
  uint32_t count = 0;
  const unsigned shift = wide_ ? 5 : 4;
  for (; head != tail && count < max; head++) {
    const uint8_t* at = cqes_ + (static_cast<size_t>(head & cqMask_) << shift);
    const Cqe* cqe = reinterpret_cast<const Cqe*>(at);
    if (cqe->user_data == kCancelData) {
      inFlight_--;
      continue;
    }
    Completion& completion = out[count++];
    completion.slot = static_cast<uint32_t>(cqe->user_data);
    completion.result = cqe->res;
    completion.result0 = 0;
    completion.result1 = 0;
    if (wide_) {
      std::memcpy(&completion.result0, at + sizeof(Cqe), sizeof(uint32_t));
      std::memcpy(&completion.result1, at + sizeof(Cqe) + sizeof(uint32_t), sizeof(uint32_t));
    }
    inFlight_--;
  }
  StoreRelease(cqHead_, head);
  return count;
}

void Ring::Drain() {
  // what the kernel has not seen is simply dropped with the ring
  Completion sink[32];
  if (unsubmitted_ > 0) {
    StoreRelease(sqTail_, *sqTail_ - unsubmitted_);
    unsubmitted_ = 0;
  }
  while (Reap(sink, 32) > 0) {
  }
  if (inFlight_ == 0) return;
  Sqe* sqe = NextSqe();
  if (sqe != nullptr) {
    sqe->opcode = kOpAsyncCancel;
    sqe->fd = -1;
    sqe->op_flags = kCancelAll | kCancelAny;
    sqe->user_data = kCancelData;
    StoreRelease(sqTail_, *sqTail_ + 1);
    unsubmitted_++;
    if (Enter() < 0) {
      StoreRelease(sqTail_, *sqTail_ - unsubmitted_);
      unsubmitted_ = 0;
    }
  }
  while (inFlight_ > 0) {
    if (Reap(sink, 32) > 0) continue;
    if (inFlight_ == 0) break;
    if (syscall(__NR_io_uring_enter, fd_, 0, 1, kEnterGetEvents, nullptr, 0) < 0 && errno != EINTR) break;
  }
}

int Ring::RegisterFiles(uint32_t count) {
  std::unique_ptr<int32_t[]> none(new int32_t[count]);
  for (uint32_t i = 0; i < count; i++) none[i] = -1;
  return Register(fd_, kRegisterFiles, none.get(), count);
}

int Ring::UpdateFile(uint32_t index, int fd) {
  FilesUpdate update{index, 0, reinterpret_cast<uint64_t>(&fd)};
  const int result = Register(fd_, kRegisterFilesUpdate, &update, 1);
  return result < 0 ? result : 0;
}

int Ring::RegisterBuffers(uint32_t count) {
  RsrcRegister table{};
  table.nr = count;
  table.flags = kRsrcRegisterSparse;
  return Register(fd_, kRegisterBuffers2, &table, sizeof table);
}

int Ring::UpdateBuffer(uint32_t index, void* address, size_t length) {
  iovec buffer{address, length};
  uint64_t tag = 0;
  RsrcUpdate2 update{};
  update.offset = index;
  update.data = reinterpret_cast<uint64_t>(&buffer);
  update.tags = reinterpret_cast<uint64_t>(&tag);
  update.nr = 1;
  const int result = Register(fd_, kRegisterBuffersUpdate, &update, sizeof update);
  return result < 0 ? result : 0;
}

}  // namespace nvmeferry
