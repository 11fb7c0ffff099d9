// Memory whose pieces go to the kernel by number: (arena, offset, length) instead of a view each, which JavaScript would have to make, keep and
// look at. An arena lives as long as its ArrayBuffer.
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "crc32c.h"
#include "functions.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace nvmeferry {
namespace {

constexpr size_t kHugePage = 2 << 20;
/// IOV_MAX of the kernel.
constexpr size_t kPiecesMax = 1024;

struct HeldArena {
  uint8_t* base;
  size_t length;
  uint32_t id;
  std::shared_ptr<Arenas> all;
};

void ArenaCollected(napi_env, void*, void* hint) {
  HeldArena* held = static_cast<HeldArena*>(hint);
  (*held->all)[held->id] = Arena{nullptr, 0};
  munmap(held->base, held->length);
  delete held;
}

Arenas& ArenasOf(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return *static_cast<EnvData*>(data)->arenas;
}

/// The bytes of a piece, or nullptr if it is not inside its arena.
uint8_t* Piece(const Arenas& arenas, uint32_t id, size_t offset, size_t length) {
  if (id == 0 || id >= arenas.size()) return nullptr;
  const Arena& arena = arenas[id];
  if (offset > arena.length || length > arena.length - offset) return nullptr;
  return arena.base + offset;
}

/// (length) -> [ArrayBuffer, id], zeroed, committed as it is touched, aligned for huge pages if it is as long as one; or -errno
Napi::Value ArenaMap(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int64_t asked = info[0].ToNumber().Int64Value();
  if (asked <= 0 || asked > UINT32_MAX) return Result(env, -EINVAL);
  const size_t length = static_cast<size_t>(asked);
  const size_t slack = length >= kHugePage ? kHugePage : 0;
  uint8_t* mapped = static_cast<uint8_t*>(mmap(nullptr, length + slack, PROT_READ | PROT_WRITE,
                                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (mapped == MAP_FAILED) return Result(env, -errno);
  uint8_t* base = mapped;
  if (slack != 0) {
    base += -reinterpret_cast<uintptr_t>(mapped) & (kHugePage - 1);
    if (base > mapped) munmap(mapped, static_cast<size_t>(base - mapped));
    uint8_t* end = mapped + length + slack;
    if (base + length < end) munmap(base + length, static_cast<size_t>(end - base) - length);
  }
  EnvData* data = env.GetInstanceData<EnvData>();
  Arenas& arenas = *data->arenas;
  uint32_t id = 1;
  while (id < arenas.size() && arenas[id].base != nullptr) id++;
  if (id >= arenas.size()) arenas.resize(id + 1, Arena{nullptr, 0});
  arenas[id] = Arena{base, length};
  HeldArena* held = new HeldArena{base, length, id, data->arenas};
  napi_value buffer;
  if (napi_create_external_arraybuffer(env, base, length, ArenaCollected, held, &buffer) != napi_ok) {
    ArenaCollected(env, nullptr, held);
    return Result(env, -EOPNOTSUPP);
  }
  Napi::Array made = Napi::Array::New(env, 2);
  made[0u] = Napi::Value(env, buffer);
  made[1u] = Napi::Number::New(env, id);
  return made;
}

/// (id, offset, length) -> 0 or -errno. Whole pages: they are given back to the system and read zero.
Napi::Value ArenaDiscard(const Napi::CallbackInfo& info) {
  const size_t length = static_cast<size_t>(info[2].ToNumber().Int64Value());
  uint8_t* at = Piece(ArenasOf(info.Env()), info[0].ToNumber().Uint32Value(),
                      static_cast<size_t>(info[1].ToNumber().Int64Value()), length);
  if (at == nullptr) return Result(info.Env(), -EINVAL);
  return Result(info.Env(), madvise(at, length, MADV_DONTNEED) != 0 ? -errno : 0);
}

/// madvise in the thread pool: the kernel may take milliseconds for it.
class Collapse : public Napi::AsyncWorker {
 public:
  Collapse(const Napi::Function& done, const Napi::ArrayBuffer& arena, uint8_t* at, size_t length)
      : Napi::AsyncWorker(done, "nvmeferry:collapse"), arena_(Napi::Persistent(arena)), at_(at), length_(length) {}

 protected:
  void Execute() override {
    if (madvise(at_, length_, MADV_COLLAPSE) == 0) return;
    result_ = -errno;
    // kernels before 6.1 do not know that: they find the page by this flag, some time. Nobody else gets it, because it splits a mapping in parts, of
    // which a process may have only so many
    if (result_ == -EINVAL) result_ = madvise(at_, length_, MADV_HUGEPAGE) == 0 ? 0 : -errno;
  }
  std::vector<napi_value> GetResult(Napi::Env env) override { return {Napi::Number::New(env, result_)}; }

 private:
  Napi::Reference<Napi::ArrayBuffer> arena_;
  uint8_t* at_;
  size_t length_;
  int result_ = 0;
};

/// (ArrayBuffer, id, offset, length, callback(0 or -errno)) -> 0 or -errno. Whole huge pages: what they hold moves into one each, if the system has
/// them.
Napi::Value ArenaCollapse(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const size_t length = static_cast<size_t>(info[3].ToNumber().Int64Value());
  uint8_t* at = Piece(ArenasOf(env), info[1].ToNumber().Uint32Value(),
                      static_cast<size_t>(info[2].ToNumber().Int64Value()), length);
  if (at == nullptr || !info[0].IsArrayBuffer() || !info[4].IsFunction()) return Result(env, -EINVAL);
  (new Collapse(info[4].As<Napi::Function>(), info[0].As<Napi::ArrayBuffer>(), at, length))->Queue();
  return Result(env, 0);
}

/// One row of a table of {arena, offset, length}; arena 0 is the view at `index`, whole. No base: there is no such piece.
iovec PieceOf(napi_env env, const Arenas& arenas, const uint32_t* row, napi_value views, uint32_t index) {
  iovec piece{nullptr, row[2]};
  if (row[0] != 0) {
    piece.iov_base = Piece(arenas, row[0], row[1], row[2]);
    return piece;
  }
  napi_value view;
  if (napi_get_element(env, views, index, &view) == napi_ok) {
    napi_get_typedarray_info(env, view, nullptr, &piece.iov_len, &piece.iov_base, nullptr, nullptr);
  }
  return piece;
}

/// (fd, Uint32Array of {arena, offset, length}, pieces, array of views) -> bytes that the socket took, or -errno. Arena 0: the view at the same
/// index, whole.
napi_value StreamWrite(napi_env env, napi_callback_info info) {
  size_t count = 4;
  napi_value arguments[4];
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  int32_t fd = -1;
  uint32_t pieces = 0;
  void* data = nullptr;
  size_t words = 0;
  double result = -EINVAL;
  napi_get_value_int32(env, arguments[0], &fd);
  napi_get_typedarray_info(env, arguments[1], nullptr, &words, &data, nullptr, nullptr);
  napi_get_value_uint32(env, arguments[2], &pieces);
  if (data != nullptr && pieces > 0 && pieces <= kPiecesMax && words >= static_cast<size_t>(pieces) * 3) {
    const uint32_t* row = static_cast<const uint32_t*>(data);
    const Arenas& arenas = ArenasOf(env);
    iovec vectors[kPiecesMax];
    uint32_t filled = 0;
    for (; filled < pieces; filled++, row += 3) {
      iovec& vector = vectors[filled];
      vector = PieceOf(env, arenas, row, arguments[3], filled);
      if (vector.iov_base == nullptr) break;
    }
    if (filled == pieces) {
      msghdr message{};
      message.msg_iov = vectors;
      message.msg_iovlen = pieces;
      ssize_t sent;
      do {
        sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      } while (sent < 0 && errno == EINTR);
      result = sent < 0 ? -errno : static_cast<double>(sent);
    }
  }
  napi_value number;
  napi_create_double(env, result, &number);
  return number;
}

#ifdef NVMEFERRY_CRC32C
/// (arena, offset, length, crc so far) -> crc
napi_value Crc32cAt(napi_env env, napi_callback_info info) {
  size_t count = 4;
  napi_value arguments[4];
  uint32_t values[4] = {0, 0, 0, 0};
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  for (int i = 0; i < 4; i++) napi_get_value_uint32(env, arguments[i], &values[i]);
  const uint8_t* at = Piece(ArenasOf(env), values[0], values[1], values[2]);
  napi_value result;
  napi_create_uint32(env, at == nullptr ? values[3] : Crc32c(at, values[2], values[3]), &result);
  return result;
}

/// The first lines of each third, where the three streams of `Crc32c` begin: memory of a large namespace is seldom in the cache.
void Prefetch(const uint8_t* at, size_t length) {
  for (size_t third = 0; third < 3; third++) {
    for (size_t line = 0; line < 4; line++) __builtin_prefetch(at + third * (length / 3) + line * 64);
  }
}

/// (Uint32Array of {arena, offset, length}, array of views, Int32Array of {first piece, pieces, offset}, digests, arena) -> 0 or -errno. The CRC32C of
/// each run of pieces goes to its offset in the arena, little-endian.
napi_value SealDigests(napi_env env, napi_callback_info info) {
  size_t count = 5;
  napi_value arguments[5];
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  void* table = nullptr;
  void* runs = nullptr;
  size_t words = 0;
  size_t numbers = 0;
  uint32_t digests = 0;
  uint32_t slab = 0;
  napi_get_typedarray_info(env, arguments[0], nullptr, &words, &table, nullptr, nullptr);
  napi_get_typedarray_info(env, arguments[2], nullptr, &numbers, &runs, nullptr, nullptr);
  napi_get_value_uint32(env, arguments[3], &digests);
  napi_get_value_uint32(env, arguments[4], &slab);
  const Arenas& arenas = ArenasOf(env);
  int32_t result = table == nullptr || runs == nullptr || numbers / 3 < digests ? -EINVAL : 0;
  for (uint32_t d = 0; d < digests && result == 0; d++) {
    const uint32_t* run = static_cast<const uint32_t*>(runs) + d * 3;
    uint8_t* to = Piece(arenas, slab, run[2], 4);
    if (to == nullptr || run[0] > words / 3 || run[1] > words / 3 - run[0]) {
      result = -EINVAL;
      break;
    }
    if (d + 1 < digests && run[3] < words / 3) {
      const uint32_t* next = static_cast<const uint32_t*>(table) + run[3] * 3;
      const uint8_t* at = Piece(arenas, next[0], next[1], next[2]);
      if (at != nullptr) Prefetch(at, next[2]);
    }
    uint32_t crc = 0;
    for (uint32_t i = run[0]; i < run[0] + run[1]; i++) {
      const iovec piece = PieceOf(env, arenas, static_cast<const uint32_t*>(table) + i * 3, arguments[1], i);
      if (piece.iov_base == nullptr) {
        result = -EINVAL;
        break;
      }
      crc = Crc32c(static_cast<const uint8_t*>(piece.iov_base), piece.iov_len, crc);
    }
    std::memcpy(to, &crc, sizeof crc);
  }
  napi_value number;
  napi_create_int32(env, result, &number);
  return number;
}
#endif

}  // namespace

uint8_t* ArenaPiece(napi_env env, uint32_t id, size_t offset, size_t length) {
  return Piece(ArenasOf(env), id, offset, length);
}

void Export(Napi::Env env, Napi::Object exports, const char* name, napi_callback callback) {
  napi_value function;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function);
  exports.Set(name, Napi::Value(env, function));
}

void DefineArena(Napi::Env env, Napi::Object exports) {
  exports.Set("arenaMap", Napi::Function::New<ArenaMap>(env, "arenaMap"));
  exports.Set("arenaDiscard", Napi::Function::New<ArenaDiscard>(env, "arenaDiscard"));
  exports.Set("arenaCollapse", Napi::Function::New<ArenaCollapse>(env, "arenaCollapse"));
  Export(env, exports, "streamWrite", StreamWrite);
#ifdef NVMEFERRY_CRC32C
  if (Crc32cAvailable()) {
    Export(env, exports, "crc32cAt", Crc32cAt);
    Export(env, exports, "sealDigests", SealDigests);
  }
#endif
}

}  // namespace nvmeferry
