// What the addon needs of the kernel's interfaces to user space, defined here so that it builds with any libc's headers (Debian 11, musl).
// Layouts are fixed for ever by the kernel: io_uring(7), io_uring_setup(2), io_uring_enter(2), io_uring_register(2), linux/nvme_ioctl.h.
#pragma once
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <cstddef>
#include <cstdint>

#ifndef __NR_io_uring_setup
#define __NR_io_uring_setup 425
#define __NR_io_uring_enter 426
#define __NR_io_uring_register 427
#endif

namespace nvmeferry::abi {

// ---- io_uring ------------------------------------------------------------------------------------------------------------------------

struct Sqe {
  uint8_t opcode;
  uint8_t flags;
  uint16_t ioprio;
  int32_t fd;
  union {
    uint64_t off;
    uint32_t cmd_op;
  };
  uint64_t addr;
  uint32_t len;
  uint32_t op_flags;  // rw_flags, fsync_flags, cancel_flags, uring_cmd_flags
  uint64_t user_data;
  uint16_t buf_index;
  uint16_t personality;
  int32_t file_index;
  uint64_t addr3;
  uint64_t pad;
};
static_assert(sizeof(Sqe) == 64);
/// Where the command of IORING_OP_URING_CMD starts; it has 80 bytes in a 128-byte SQE.
constexpr size_t kSqeCmdOffset = 48;
static_assert(offsetof(Sqe, addr3) == kSqeCmdOffset);

struct Cqe {
  uint64_t user_data;
  int32_t res;
  uint32_t flags;
  // two more u64 with IORING_SETUP_CQE32
};
static_assert(sizeof(Cqe) == 16);

struct SqOffsets {
  uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
  uint64_t user_addr;
};
struct CqOffsets {
  uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
  uint64_t user_addr;
};
struct UringParams {
  uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
  SqOffsets sq_off;
  CqOffsets cq_off;
};
static_assert(sizeof(UringParams) == 120);

constexpr uint32_t kSetupClamp = 1u << 4;
constexpr uint32_t kSetupSubmitAll = 1u << 7;      // 5.18
constexpr uint32_t kSetupCoopTaskrun = 1u << 8;    // 5.19
constexpr uint32_t kSetupSqe128 = 1u << 10;        // 5.19
constexpr uint32_t kSetupCqe32 = 1u << 11;         // 5.19
constexpr uint32_t kSetupSingleIssuer = 1u << 12;  // 6.0

constexpr uint32_t kFeatSingleMmap = 1u << 0;
constexpr uint32_t kFeatNoDrop = 1u << 1;
constexpr uint32_t kFeatSubmitStable = 1u << 2;

constexpr uint32_t kEnterGetEvents = 1u << 0;
constexpr uint32_t kSqCqOverflow = 1u << 1;
constexpr uint32_t kCqEventfdDisabled = 1u << 0;

constexpr int64_t kOffSqRing = 0;
constexpr int64_t kOffSqes = 0x10000000;

constexpr uint8_t kOpNop = 0;
constexpr uint8_t kOpReadv = 1;
constexpr uint8_t kOpWritev = 2;
constexpr uint8_t kOpFsync = 3;
constexpr uint8_t kOpReadFixed = 4;
constexpr uint8_t kOpWriteFixed = 5;
constexpr uint8_t kOpAsyncCancel = 14;
constexpr uint8_t kOpFallocate = 17;
constexpr uint8_t kOpRead = 22;
constexpr uint8_t kOpWrite = 23;
constexpr uint8_t kOpUringCmd = 46;

constexpr uint8_t kSqeFixedFile = 1u << 0;
constexpr uint32_t kFsyncDatasync = 1u << 0;
constexpr uint32_t kCancelAll = 1u << 0;
constexpr uint32_t kCancelAny = 1u << 2;

constexpr unsigned kRegisterFiles = 2;
constexpr unsigned kRegisterEventfd = 4;
constexpr unsigned kRegisterFilesUpdate = 6;
constexpr unsigned kRegisterProbe = 8;
constexpr unsigned kRegisterBuffers2 = 15;
constexpr unsigned kRegisterBuffersUpdate = 16;
constexpr uint32_t kRsrcRegisterSparse = 1u << 0;

struct FilesUpdate {
  uint32_t offset;
  uint32_t resv;
  uint64_t fds;
};
struct RsrcRegister {
  uint32_t nr;
  uint32_t flags;
  uint64_t resv2;
  uint64_t data;
  uint64_t tags;
};
struct RsrcUpdate2 {
  uint32_t offset;
  uint32_t resv;
  uint64_t data;
  uint64_t tags;
  uint32_t nr;
  uint32_t resv2;
};
struct ProbeOp {
  uint8_t op;
  uint8_t resv;
  uint16_t flags;  // bit 0: supported
  uint32_t resv2;
};
struct Probe {
  uint8_t last_op;
  uint8_t ops_len;
  uint16_t resv;
  uint32_t resv2[3];
  ProbeOp ops[256];
};

// ---- NVMe ----------------------------------------------------------------------------------------------------------------------------

/// Command of IORING_OP_URING_CMD on an NVMe character device.
struct NvmeUringCmd {
  uint8_t opcode;
  uint8_t flags;
  uint16_t rsvd1;
  uint32_t nsid;
  uint32_t cdw2;
  uint32_t cdw3;
  uint64_t metadata;
  uint64_t addr;
  uint32_t metadata_len;
  uint32_t data_len;  // vectored: number of iovecs
  uint32_t cdw10_15[6];
  uint32_t timeout_ms;
  uint32_t rsvd2;
};
static_assert(sizeof(NvmeUringCmd) == 72);

/// NVME_IOCTL_ADMIN64_CMD, NVME_IOCTL_IO64_CMD and, with `data_len` a count of iovecs, NVME_IOCTL_IO64_CMD_VEC.
struct NvmePassthruCmd64 {
  uint8_t opcode;
  uint8_t flags;
  uint16_t rsvd1;
  uint32_t nsid;
  uint32_t cdw2;
  uint32_t cdw3;
  uint64_t metadata;
  uint64_t addr;
  uint32_t metadata_len;
  uint32_t data_len;
  uint32_t cdw10_15[6];
  uint32_t timeout_ms;
  uint32_t rsvd2;
  uint64_t result;
};
static_assert(sizeof(NvmePassthruCmd64) == 80);

constexpr unsigned long kNvmeIoctlId = _IO('N', 0x40);
constexpr unsigned long kNvmeIoctlAdmin64 = _IOWR('N', 0x47, NvmePassthruCmd64);
constexpr unsigned long kNvmeIoctlIo64 = _IOWR('N', 0x48, NvmePassthruCmd64);
constexpr unsigned long kNvmeIoctlIo64Vec = _IOWR('N', 0x49, NvmePassthruCmd64);
constexpr unsigned long kNvmeIoctlRescan = _IO('N', 0x46);
constexpr uint32_t kNvmeUringIo = _IOWR('N', 0x80, NvmeUringCmd);
constexpr uint32_t kNvmeUringIoVec = _IOWR('N', 0x81, NvmeUringCmd);
constexpr uint32_t kNvmeUringAdmin = _IOWR('N', 0x82, NvmeUringCmd);
constexpr uint32_t kNvmeUringAdminVec = _IOWR('N', 0x83, NvmeUringCmd);

// ---- block devices, files ------------------------------------------------------------------------------------------------------------

constexpr unsigned long kBlkDiscard = _IO(0x12, 119);
constexpr unsigned long kBlkZeroOut = _IO(0x12, 127);
constexpr unsigned long kBlkGetSize64 = _IOR(0x12, 114, size_t);
constexpr unsigned long kBlkSectorSize = _IO(0x12, 104);
constexpr unsigned long kBlkPhysicalSectorSize = _IO(0x12, 123);
constexpr unsigned long kBlkReadOnly = _IO(0x12, 94);

}  // namespace nvmeferry::abi
