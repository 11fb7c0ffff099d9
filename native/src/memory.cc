// Memory shared with other processes as ArrayBuffer. A mapping ends by `unmap` (the ArrayBuffer is detached first, so that no view reaches it
// any more), or when the ArrayBuffer is collected.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>

#include "functions.h"

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 0x0004U
#endif
#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_SEAL_SHRINK 0x0002
#define F_SEAL_GROW 0x0004
#endif

namespace nvmeferry {
namespace {

/// f_type of statfs(2).
constexpr uint32_t kHugetlbfsMagic = 0x958458f6;

enum MapFlag : uint32_t { kReadOnly = 1, kHugePages = 2, kPopulate = 4 };

struct Held {
  Mapping mapping;
  std::shared_ptr<Mappings> all;
  /// Set by `Collected` while somebody wants to know.
  bool* collected;
};

void Unmap(Held* held) {
  if (!held->mapping.mapped) return;
  held->mapping.mapped = false;
  held->all->erase(held->mapping.address);
  munmap(held->mapping.address, held->mapping.length);
}

void Collected(napi_env, void*, void* hint) {
  Held* held = static_cast<Held*>(hint);
  Unmap(held);
  if (held->collected != nullptr) *held->collected = true;
  delete held;
}

/// (fd or -1, offset, length, flags) -> ArrayBuffer or -errno
Napi::Value MapMemory(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = info[0].ToNumber().Int32Value();
  const int64_t offset = info[1].ToNumber().Int64Value();
  const int64_t length = info[2].ToNumber().Int64Value();
  const uint32_t flags = info[3].ToNumber().Uint32Value();
  if (length <= 0 || offset < 0) return Result(env, -EINVAL);
  int how = 0;
  int64_t mapped = length;
  if (fd < 0) {
    how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  } else {
    // touching a page past the end of the file would kill the process
    struct stat found;
    if (fstat(fd, &found) != 0) return Result(env, -errno);
    if (S_ISREG(found.st_mode) && (offset > found.st_size || length > found.st_size - offset)) {
      return Result(env, -ENXIO);
    }
    // a huge page is mapped as a whole, and only as a whole unmapped
    struct statfs system;
    if (fstatfs(fd, &system) == 0 && static_cast<uint32_t>(system.f_type) == kHugetlbfsMagic && system.f_bsize > 0) {
      const int64_t page = static_cast<int64_t>(system.f_bsize);
      mapped = (length + page - 1) / page * page;
    }
    // what is read-only is still mapped writable, as a private copy: a stray store then harms nobody, and does not kill the process
    how = (flags & kReadOnly) != 0 ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED;
  }
  if ((flags & kPopulate) != 0) how |= MAP_POPULATE;
  const size_t bytes = static_cast<size_t>(length);
  // V8 allows an address range one backing store only, and unmapping splits no page: lengths are kept as asked
  const size_t mappedBytes = static_cast<size_t>(mapped);
  void* address = mmap(nullptr, mappedBytes, PROT_READ | PROT_WRITE, how, fd < 0 ? -1 : fd, fd < 0 ? 0 : offset);
  if (address == MAP_FAILED) return Result(env, -errno);
  if ((flags & kHugePages) != 0) madvise(address, bytes, MADV_HUGEPAGE);
  // a forked child must not see later copies of guest memory
  madvise(address, mappedBytes, MADV_DONTFORK);
  EnvData* data = env.GetInstanceData<EnvData>();
  bool collected = false;
  Held* held = new Held{{address, mappedBytes, true}, data->mappings, &collected};
  napi_value buffer;
  if (napi_create_external_arraybuffer(env, address, bytes, Collected, held, &buffer) != napi_ok) {
    // longer than an ArrayBuffer can be (4 GiB with Node 20): it may have been given back already, and an exception be under way
    napi_value exception;
    napi_get_and_clear_last_exception(env, &exception);
    if (!collected) {
      munmap(address, mappedBytes);
      delete held;
    }
    return Result(env, -EFBIG);
  }
  held->collected = nullptr;
  (*data->mappings)[address] = &held->mapping;
  return Napi::Value(env, buffer);
}

/// (ArrayBuffer of MapMemory) -> 0 or -errno. The caller has made sure that nobody is using it.
Napi::Value UnmapMemory(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsArrayBuffer()) return Result(env, -EINVAL);
  void* address = nullptr;
  size_t length = 0;
  napi_get_arraybuffer_info(env, info[0], &address, &length);
  EnvData* data = env.GetInstanceData<EnvData>();
  const auto found = data->mappings->find(address);
  if (address == nullptr || found == data->mappings->end()) return Result(env, -EINVAL);
  Mapping* mapping = found->second;
  if (napi_detach_arraybuffer(env, info[0]) != napi_ok) return Result(env, -EBUSY);
  // `Held` itself goes with the ArrayBuffer; Mapping is its first member
  mapping->mapped = false;
  data->mappings->erase(found);
  return Result(env, munmap(mapping->address, mapping->length) == 0 ? 0 : -errno);
}

/// () -> mappings of this environment
Napi::Value MappingCount(const Napi::CallbackInfo& info) {
  return Result(info.Env(), static_cast<double>(info.Env().GetInstanceData<EnvData>()->mappings->size()));
}

/// (name, bytes, huge page size in bytes or 0) -> fd or -errno; sealed against a change of its size
Napi::Value MemfdCreate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string name = info[0].ToString().Utf8Value();
  const int64_t bytes = info[1].ToNumber().Int64Value();
  const double huge = info[2].ToNumber().DoubleValue();
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (huge > 0) flags |= MFD_HUGETLB | (static_cast<unsigned>(std::log2(huge)) << 26);
  const int fd = memfd_create(name.c_str(), flags);
  if (fd < 0) return Result(env, -errno);
  if (ftruncate(fd, bytes) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    const int error = errno;
    close(fd);
    return Result(env, -error);
  }
  return Result(env, fd);
}

/// (count at the beginning) -> fd or -errno
Napi::Value EventfdCreate(const Napi::CallbackInfo& info) {
  const int fd = eventfd(info[0].ToNumber().Uint32Value(), EFD_CLOEXEC | EFD_NONBLOCK);
  return Result(info.Env(), fd < 0 ? -errno : fd);
}

/// (fd) -> its count, which is then 0; 0 if it was
Napi::Value EventfdRead(const Napi::CallbackInfo& info) {
  uint64_t value = 0;
  int32_t fd = -1;
  napi_get_value_int32(info.Env(), info[0], &fd);
  if (read(fd, &value, sizeof value) < 0) return Result(info.Env(), errno == EAGAIN ? 0 : -errno);
  return Result(info.Env(), static_cast<double>(value));
}

/// (fd, increment) -> 0 or -errno
Napi::Value EventfdWrite(const Napi::CallbackInfo& info) {
  int32_t fd = -1;
  uint32_t increment = 0;
  napi_get_value_int32(info.Env(), info[0], &fd);
  napi_get_value_uint32(info.Env(), info[1], &increment);
  const uint64_t value = increment;
  return Result(info.Env(), write(fd, &value, sizeof value) < 0 ? -errno : 0);
}

/// (fd) -> 0 or -errno. Of a received eventfd: a peer that fills it must not stop who signals it.
Napi::Value SetNonBlocking(const Napi::CallbackInfo& info) {
  int32_t fd = -1;
  napi_get_value_int32(info.Env(), info[0], &fd);
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return Result(info.Env(), -errno);
  return Result(info.Env(), 0);
}

}  // namespace

void DefineMemory(Napi::Env env, Napi::Object exports) {
  exports.Set("mapMemory", Napi::Function::New<MapMemory>(env, "mapMemory"));
  exports.Set("unmapMemory", Napi::Function::New<UnmapMemory>(env, "unmapMemory"));
  exports.Set("mappingCount", Napi::Function::New<MappingCount>(env, "mappingCount"));
  exports.Set("memfdCreate", Napi::Function::New<MemfdCreate>(env, "memfdCreate"));
  exports.Set("eventfdCreate", Napi::Function::New<EventfdCreate>(env, "eventfdCreate"));
  exports.Set("eventfdRead", Napi::Function::New<EventfdRead>(env, "eventfdRead"));
  exports.Set("eventfdWrite", Napi::Function::New<EventfdWrite>(env, "eventfdWrite"));
  exports.Set("setNonBlocking", Napi::Function::New<SetNonBlocking>(env, "setNonBlocking"));
}

}  // namespace nvmeferry
