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
void DefineFileCalls(Napi::Env env, Napi::Object exports);
void DefineCrc32c(Napi::Env env, Napi::Object exports);

inline Napi::Value Result(Napi::Env env, double value) { return Napi::Number::New(env, value); }

}  // namespace nvmeferry
