// The plain functions of the addon. Every one that is a system call returns its result, or a negative errno; none throws for the kernel's answer.
#pragma once
#include <napi.h>

#include <memory>
#include <unordered_map>
#include <vector>

namespace nvmeferry {

struct Mapping {
  void* address;
  size_t length;
  bool mapped;
};
/// Mappings of this environment by address.
using Mappings = std::unordered_map<void*, Mapping*>;

struct Arena {
  uint8_t* base;
  size_t length;
};
/// Arenas of this environment by number; number 0 is none.
using Arenas = std::vector<Arena>;

/// What one environment (the main thread, a worker) has of its own.
struct EnvData {
  std::shared_ptr<Mappings> mappings = std::make_shared<Mappings>();
  std::shared_ptr<Arenas> arenas = std::make_shared<Arenas>();
};

void DefineArena(Napi::Env env, Napi::Object exports);
void DefineMemory(Napi::Env env, Napi::Object exports);
void DefineSocket(Napi::Env env, Napi::Object exports);
void DefineStream(Napi::Env env, Napi::Object exports);
void DefineFileCalls(Napi::Env env, Napi::Object exports);
void DefineCrc32c(Napi::Env env, Napi::Object exports);

/// `length` bytes of the arena at `offset`, or nullptr if they are not inside it.
uint8_t* ArenaPiece(napi_env env, uint32_t id, size_t offset, size_t length);

/// A function of Node-API itself, for what is called per batch.
void Export(Napi::Env env, Napi::Object exports, const char* name, napi_callback callback);

inline Napi::Value Result(Napi::Env env, double value) { return Napi::Number::New(env, value); }

}  // namespace nvmeferry
