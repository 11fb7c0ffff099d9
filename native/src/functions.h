// The plain functions of the addon. Every one that is a system call returns its result, or a negative errno; none throws for the kernel's answer.
#pragma once
#include <napi.h>

#include <memory>
#include <unordered_map>

namespace nvmeferry {

struct Mapping {
  void* address;
  size_t length;
  bool mapped;
};
/// Mappings of this environment by address.
using Mappings = std::unordered_map<void*, Mapping*>;

/// What one environment (the main thread, a worker) has of its own.
struct EnvData {
  std::shared_ptr<Mappings> mappings = std::make_shared<Mappings>();
};

void DefineMemory(Napi::Env env, Napi::Object exports);
void DefineSocket(Napi::Env env, Napi::Object exports);
void DefineFileCalls(Napi::Env env, Napi::Object exports);
void DefineCrc32c(Napi::Env env, Napi::Object exports);

inline Napi::Value Result(Napi::Env env, double value) { return Napi::Number::New(env, value); }

}  // namespace nvmeferry
