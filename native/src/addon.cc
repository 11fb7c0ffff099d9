// nvmeferry's native half: system calls that Node does not have. All logic is in TypeScript (src/native).
#include <napi.h>

#include "engine.h"
#include "functions.h"
#include "operation.h"
#include "watcher.h"

namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  using namespace nvmeferry;
  env.SetInstanceData(new EnvData());
  exports.Set("revision", 3.0);
  exports.Set("entryBytes", static_cast<double>(sizeof(Entry)));
  exports.Set("completionBytes", static_cast<double>(sizeof(Completion)));
  exports.Set("Engine", Engine::Define(env));
  exports.Set("Watcher", Watcher::Define(env));
  DefineArena(env, exports);
  DefineMemory(env, exports);
  DefineSocket(env, exports);
  DefineStream(env, exports);
  DefineFileCalls(env, exports);
  DefineCrc32c(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(nvmeferry, Init)
