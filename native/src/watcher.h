// A descriptor that the event loop watches for JavaScript: sockets, eventfds.
#pragma once
#include <napi.h>

namespace nvmeferry {

class WatcherCore;

class Watcher : public Napi::ObjectWrap<Watcher> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit Watcher(const Napi::CallbackInfo& info);
  ~Watcher() override;

 private:
  friend class WatcherCore;
  Napi::Value Start(const Napi::CallbackInfo& info);
  Napi::Value Stop(const Napi::CallbackInfo& info);
  Napi::Value Ref_(const Napi::CallbackInfo& info);
  Napi::Value Unref_(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  WatcherCore* core_ = nullptr;
};

}  // namespace nvmeferry
