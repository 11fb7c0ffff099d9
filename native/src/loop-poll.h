// A file descriptor watched by the event loop of one environment. Lives on the heap until the loop has let go of it, also when the environment
// (a worker thread) ends first: an asynchronous cleanup hook closes it then.
#pragma once
#include <napi.h>
#include <uv.h>

namespace nvmeferry {

class LoopPoll {
 public:
  LoopPoll(const LoopPoll&) = delete;
  LoopPoll& operator=(const LoopPoll&) = delete;

  /// Idempotent; the object is deleted when the loop is done with it.
  void Close();

 protected:
  explicit LoopPoll(napi_env env) : env_(env) {}
  virtual ~LoopPoll() = default;
  /// @returns 0 or a negative errno; after an error, Abandon()
  int Open(int fd);
  /// Deletes an object whose Open failed.
  void Abandon() { delete this; }
  int Start(int events);
  void Stop() { uv_poll_stop(&poll_); }
  void SetKeepsLoopAlive(bool keeps);
  bool closing() const { return closing_; }

  /// JavaScript may be called: a handle scope is open.
  virtual void OnEvents(int status, int events) = 0;
  /// Once, before the loop lets go: no callback comes after it. Memory of JavaScript is still there.
  virtual void OnClose() = 0;

  napi_env env_;

 private:
  static void Polled(uv_poll_t* poll, int status, int events);
  static void Closed(uv_handle_t* handle);
  static void CleanUp(napi_async_cleanup_hook_handle hook, void* self);

  uv_poll_t poll_{};
  napi_async_cleanup_hook_handle hook_ = nullptr;
  bool closing_ = false;
};

/// Calls `function` with `value`; an exception of it is an uncaught one, as in any callback of the loop.
void CallBack(napi_env env, Napi::FunctionReference& function, Napi::AsyncContext& context, int32_t value);

}  // namespace nvmeferry
