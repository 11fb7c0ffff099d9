// Calls on open files that Node lacks and that return at once.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "functions.h"
#include "kernel-abi.h"

namespace nvmeferry {
namespace {

/// (fd, shared) -> 0 or -errno; -EAGAIN: somebody else holds it
Napi::Value LockFile(const Napi::CallbackInfo& info) {
  const int how = (info[1].ToBoolean().Value() ? LOCK_SH : LOCK_EX) | LOCK_NB;
  int result;
  do {
    result = flock(info[0].ToNumber().Int32Value(), how);
  } while (result != 0 && errno == EINTR);
  return Result(info.Env(), result == 0 ? 0 : -errno);
}

/// (fd, offset, hole) -> offset of the next hole, or of the next data (-ENXIO: none)
Napi::Value Seek(const Napi::CallbackInfo& info) {
  const off_t at = lseek(info[0].ToNumber().Int32Value(), static_cast<off_t>(info[1].ToNumber().Int64Value()),
                         info[2].ToBoolean().Value() ? SEEK_HOLE : SEEK_DATA);
  return Result(info.Env(), at < 0 ? -errno : static_cast<double>(at));
}

/// (fd) -> { sizeBytes, logicalBlockSize, physicalBlockSize, readOnly, major, minor } or -errno
Napi::Value BlockDevice(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = info[0].ToNumber().Int32Value();
  struct stat found;
  if (fstat(fd, &found) != 0) return Result(env, -errno);
  if (!S_ISBLK(found.st_mode)) return Result(env, -ENOTBLK);
  uint64_t size = 0;
  int logical = 0;
  unsigned physical = 0;
  int readOnly = 0;
  if (ioctl(fd, abi::kBlkGetSize64, &size) != 0 || ioctl(fd, abi::kBlkSectorSize, &logical) != 0) {
    return Result(env, -errno);
  }
  ioctl(fd, abi::kBlkPhysicalSectorSize, &physical);
  ioctl(fd, abi::kBlkReadOnly, &readOnly);
  Napi::Object result = Napi::Object::New(env);
  result.Set("sizeBytes", static_cast<double>(size));
  result.Set("logicalBlockSize", logical);
  result.Set("physicalBlockSize", physical);
  result.Set("readOnly", readOnly != 0);
  result.Set("major", static_cast<double>(major(found.st_rdev)));
  result.Set("minor", static_cast<double>(minor(found.st_rdev)));
  return result;
}

/// (fd, on) -> 0 or -errno: O_DIRECT
Napi::Value SetDirect(const Napi::CallbackInfo& info) {
  const int fd = info[0].ToNumber().Int32Value();
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return Result(info.Env(), -errno);
  const int wanted = info[1].ToBoolean().Value() ? flags | O_DIRECT : flags & ~O_DIRECT;
  return Result(info.Env(), fcntl(fd, F_SETFL, wanted) == 0 ? 0 : -errno);
}

/// (Uint8Array) -> its address modulo 4096
Napi::Value AlignmentOf(const Napi::CallbackInfo& info) {
  if (!info[0].IsTypedArray()) return Result(info.Env(), -EINVAL);
  const uintptr_t address = reinterpret_cast<uintptr_t>(info[0].As<Napi::Uint8Array>().Data());
  return Result(info.Env(), static_cast<double>(address & 4095));
}

/// (fd of an NVMe namespace node) -> NSID or -errno
Napi::Value NvmeNsid(const Napi::CallbackInfo& info) {
  const int nsid = ioctl(info[0].ToNumber().Int32Value(), abi::kNvmeIoctlId);
  return Result(info.Env(), nsid < 0 ? -errno : nsid);
}

/// (fd of an NVMe controller node) -> 0 or -errno: looks for namespaces anew
Napi::Value NvmeRescan(const Napi::CallbackInfo& info) {
  const int result = ioctl(info[0].ToNumber().Int32Value(), abi::kNvmeIoctlRescan);
  return Result(info.Env(), result < 0 ? -errno : 0);
}

}  // namespace

void DefineFileCalls(Napi::Env env, Napi::Object exports) {
  exports.Set("lockFile", Napi::Function::New<LockFile>(env, "lockFile"));
  exports.Set("seek", Napi::Function::New<Seek>(env, "seek"));
  exports.Set("blockDevice", Napi::Function::New<BlockDevice>(env, "blockDevice"));
  exports.Set("setDirect", Napi::Function::New<SetDirect>(env, "setDirect"));
  exports.Set("alignmentOf", Napi::Function::New<AlignmentOf>(env, "alignmentOf"));
  exports.Set("nvmeNsid", Napi::Function::New<NvmeNsid>(env, "nvmeNsid"));
  exports.Set("nvmeRescan", Napi::Function::New<NvmeRescan>(env, "nvmeRescan"));
}

}  // namespace nvmeferry
