#include "loop-poll.h"

namespace nvmeferry {

int LoopPoll::Open(int fd) {
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env_, &loop) != napi_ok) return UV_EINVAL;
  const int error = uv_poll_init(loop, &poll_, fd);
  if (error != 0) return error;
  poll_.data = this;
  uv_unref(reinterpret_cast<uv_handle_t*>(&poll_));
  napi_add_async_cleanup_hook(env_, CleanUp, this, &hook_);
  return 0;
}

int LoopPoll::Start(int events) { return closing_ ? UV_EINVAL : uv_poll_start(&poll_, events, Polled); }

void LoopPoll::SetKeepsLoopAlive(bool keeps) {
  uv_handle_t* handle = reinterpret_cast<uv_handle_t*>(&poll_);
  if (keeps) {
    uv_ref(handle);
  } else {
    uv_unref(handle);
  }
}

void LoopPoll::Close() {
  if (closing_) return;
  closing_ = true;
  OnClose();
  uv_close(reinterpret_cast<uv_handle_t*>(&poll_), Closed);
}

void LoopPoll::Polled(uv_poll_t* poll, int status, int events) {
  LoopPoll* self = static_cast<LoopPoll*>(poll->data);
  Napi::HandleScope scope(self->env_);
  self->OnEvents(status, events);
}

void LoopPoll::Closed(uv_handle_t* handle) {
  LoopPoll* self = static_cast<LoopPoll*>(handle->data);
  napi_async_cleanup_hook_handle hook = self->hook_;
  delete self;
  if (hook != nullptr) napi_remove_async_cleanup_hook(hook);
}

void LoopPoll::CleanUp(napi_async_cleanup_hook_handle, void* self) { static_cast<LoopPoll*>(self)->Close(); }

void CallBack(napi_env env, Napi::FunctionReference& function, Napi::AsyncContext& context, int32_t value) {
  napi_value argument;
  napi_create_int32(env, value, &argument);
  napi_value global;
  napi_get_global(env, &global);
  if (napi_make_callback(env, context, global, function.Value(), 1, &argument, nullptr) == napi_ok) return;
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (!pending) return;
  napi_value error;
  napi_get_and_clear_last_exception(env, &error);
  napi_fatal_exception(env, error);
}

}  // namespace nvmeferry
