#include "operation.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "kernel-abi.h"

namespace nvmeferry {
namespace {

template <typename Call>
int64_t Retried(Call call) {
  int64_t result;
  do {
    result = call();
  } while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : result;
}

int64_t Ranged(int fd, unsigned long request, const Entry& entry) {
  uint64_t range[2] = {entry.offset, entry.length};
  return Retried([&] { return ioctl(fd, request, range); });
}

int64_t Nvme(Job& job) {
  const Entry& e = job.entry;
  abi::NvmePassthruCmd64 cmd{};
  cmd.opcode = static_cast<uint8_t>(e.opcodeFlags);
  cmd.flags = static_cast<uint8_t>(e.opcodeFlags >> 8);
  cmd.nsid = e.nsid;
  cmd.cdw2 = e.cdw2;
  cmd.cdw3 = e.cdw3;
  cmd.metadata = reinterpret_cast<uint64_t>(job.metadata);
  cmd.metadata_len = e.metadataLength;
  for (int i = 0; i < 6; i++) cmd.cdw10_15[i] = e.cdw10_15[i];
  cmd.timeout_ms = e.timeoutMs;
  unsigned long request = e.op == static_cast<uint32_t>(Op::NvmeAdmin) ? abi::kNvmeIoctlAdmin64 : abi::kNvmeIoctlIo64;
  if (job.iov.size() == 1) {
    cmd.addr = reinterpret_cast<uint64_t>(job.iov[0].iov_base);
    cmd.data_len = static_cast<uint32_t>(job.iov[0].iov_len);
  } else if (job.iov.size() > 1) {
    if (request == abi::kNvmeIoctlAdmin64) return -EINVAL;
    request = abi::kNvmeIoctlIo64Vec;
    cmd.addr = reinterpret_cast<uint64_t>(job.iov.data());
    cmd.data_len = static_cast<uint32_t>(job.iov.size());
  }
  // not retried after EINTR: the command may have been executed
  const int result = ioctl(e.fd, request, &cmd);
  if (result < 0) return -errno;
  job.completion.result0 = static_cast<uint32_t>(cmd.result);
  job.completion.result1 = static_cast<uint32_t>(cmd.result >> 32);
  return result;
}

}  // namespace

uint64_t Job::bytes() const {
  uint64_t total = 0;
  for (const iovec& piece : iov) total += piece.iov_len;
  return total;
}

void Perform(Job& job) {
  const Entry& e = job.entry;
  const int fd = e.fd;
  const int count = static_cast<int>(job.iov.size());
  const off_t offset = static_cast<off_t>(e.offset);
  int64_t result = -EINVAL;
  switch (static_cast<Op>(e.op)) {
    case Op::Nop:
      result = 0;
      break;
    case Op::Read:
      result = Retried([&] { return preadv2(fd, job.iov.data(), count, offset, static_cast<int>(e.mode)); });
      break;
    case Op::Write:
      result = Retried([&] { return pwritev2(fd, job.iov.data(), count, offset, static_cast<int>(e.mode)); });
      break;
    case Op::Fsync:
      result = Retried([&] { return fsync(fd); });
      break;
    case Op::Fdatasync:
      result = Retried([&] { return fdatasync(fd); });
      break;
    case Op::Fallocate:
      result = Retried([&] { return fallocate(fd, static_cast<int>(e.mode), offset, static_cast<off_t>(e.length)); });
      break;
    case Op::Discard:
      result = Ranged(fd, abi::kBlkDiscard, e);
      break;
    case Op::ZeroOut:
      result = Ranged(fd, abi::kBlkZeroOut, e);
      break;
    case Op::NvmeIo:
    case Op::NvmeAdmin:
      result = Nvme(job);
      break;
  }
  job.completion.slot = e.slot;
  job.completion.result = static_cast<int32_t>(result);
}

}  // namespace nvmeferry
