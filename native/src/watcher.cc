// JavaScript: new Watcher(fd, callback(events)), start(events), stop(), ref(), unref(), close(). It does not own the descriptor.
#include "watcher.h"

#include "loop-poll.h"

namespace nvmeferry {

class WatcherCore : public LoopPoll {
 public:
  WatcherCore(Napi::Env env, Watcher* owner) : LoopPoll(env), wrapper(owner), context_(env, "nvmeferry:watcher") {}
  using LoopPoll::Abandon;
  using LoopPoll::Open;
  using LoopPoll::SetKeepsLoopAlive;
  using LoopPoll::Start;
  using LoopPoll::Stop;

  Watcher* wrapper;
  Napi::FunctionReference callback;

 protected:
  void OnEvents(int status, int events) override {
    CallBack(env_, callback, context_, status < 0 ? status : events);
  }
  void OnClose() override {
    if (wrapper != nullptr) wrapper->core_ = nullptr;
    wrapper = nullptr;
    callback.Reset();
  }

 private:
  Napi::AsyncContext context_;
};

Napi::Function Watcher::Define(Napi::Env env) {
  return DefineClass(env, "Watcher",
                     {
                         InstanceMethod<&Watcher::Start>("start"),
                         InstanceMethod<&Watcher::Stop>("stop"),
                         InstanceMethod<&Watcher::Ref_>("ref"),
                         InstanceMethod<&Watcher::Unref_>("unref"),
                         InstanceMethod<&Watcher::Close>("close"),
                     });
}

Watcher::Watcher(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Watcher>(info) {
  Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsNumber() || !info[1].IsFunction()) {
    Napi::TypeError::New(env, "Watcher takes a descriptor and a callback").ThrowAsJavaScriptException();
    return;
  }
  WatcherCore* core = new WatcherCore(env, this);
  const int error = core->Open(info[0].As<Napi::Number>().Int32Value());
  if (error != 0) {
    core->Abandon();
    Napi::Error failure = Napi::Error::New(env, "Descriptor cannot be watched");
    failure.Set("errno", Napi::Number::New(env, error));
    failure.ThrowAsJavaScriptException();
    return;
  }
  core->callback = Napi::Persistent(info[1].As<Napi::Function>());
  core_ = core;
}

Watcher::~Watcher() {
  if (core_ == nullptr) return;
  core_->wrapper = nullptr;
  core_->Close();
}

Napi::Value Watcher::Start(const Napi::CallbackInfo& info) {
  const int result = core_ == nullptr ? UV_EBADF : core_->Start(info[0].ToNumber().Int32Value());
  return Napi::Number::New(info.Env(), result);
}

Napi::Value Watcher::Stop(const Napi::CallbackInfo& info) {
  if (core_ != nullptr) core_->Stop();
  return info.Env().Undefined();
}

Napi::Value Watcher::Ref_(const Napi::CallbackInfo& info) {
  if (core_ != nullptr) core_->SetKeepsLoopAlive(true);
  return info.Env().Undefined();
}

Napi::Value Watcher::Unref_(const Napi::CallbackInfo& info) {
  if (core_ != nullptr) core_->SetKeepsLoopAlive(false);
  return info.Env().Undefined();
}

Napi::Value Watcher::Close(const Napi::CallbackInfo& info) {
  if (core_ != nullptr) core_->Close();
  return info.Env().Undefined();
}

}  // namespace nvmeferry
