// Receiving without libuv's streams: an epoll instance of the thread's own, which its loop watches as one descriptor, and reads that go where the
// bytes belong.
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "functions.h"

namespace nvmeferry {
namespace {

constexpr int kEventsMax = 256;

/// () -> fd or -errno
Napi::Value EpollCreate(const Napi::CallbackInfo& info) {
  const int fd = epoll_create1(EPOLL_CLOEXEC);
  return Result(info.Env(), fd < 0 ? -errno : fd);
}

/// (epoll fd, fd, token) -> 0 or -errno. Level-triggered: bytes, the end of the stream, errors.
Napi::Value EpollAdd(const Napi::CallbackInfo& info) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u32 = info[2].ToNumber().Uint32Value();
  const int result = epoll_ctl(info[0].ToNumber().Int32Value(), EPOLL_CTL_ADD, info[1].ToNumber().Int32Value(), &event);
  return Result(info.Env(), result < 0 ? -errno : 0);
}

/// (epoll fd, fd) -> 0 or -errno
Napi::Value EpollRemove(const Napi::CallbackInfo& info) {
  epoll_event event{};
  const int result = epoll_ctl(info[0].ToNumber().Int32Value(), EPOLL_CTL_DEL, info[1].ToNumber().Int32Value(), &event);
  return Result(info.Env(), result < 0 ? -errno : 0);
}

/// (epoll fd, Uint32Array out) -> tokens written to it, or -errno; never waits
napi_value EpollWait(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2];
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  int32_t fd = -1;
  void* data = nullptr;
  size_t words = 0;
  napi_get_value_int32(env, arguments[0], &fd);
  napi_get_typedarray_info(env, arguments[1], nullptr, &words, &data, nullptr, nullptr);
  int result = -EINVAL;
  if (data != nullptr && words > 0) {
    epoll_event events[kEventsMax];
    const int most = words < kEventsMax ? static_cast<int>(words) : kEventsMax;
    do {
      result = epoll_wait(fd, events, most, 0);
    } while (result < 0 && errno == EINTR);
    if (result < 0) result = -errno;
    uint32_t* out = static_cast<uint32_t*>(data);
    for (int i = 0; i < result; i++) out[i] = events[i].data.u32;
  }
  napi_value number;
  napi_create_int32(env, result, &number);
  return number;
}

/// (fd, arena, offset, length, view or undefined, view offset, view length) -> bytes received, 0 at the end of the stream, or -errno. The view is
/// filled first, then the arena.
napi_value StreamRead(napi_env env, napi_callback_info info) {
  size_t count = 7;
  napi_value arguments[7];
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  int32_t fd = -1;
  uint32_t values[3] = {0, 0, 0};
  napi_get_value_int32(env, arguments[0], &fd);
  for (int i = 0; i < 3; i++) napi_get_value_uint32(env, arguments[i + 1], &values[i]);
  iovec vectors[2];
  int pieces = 0;
  bool valid = true;
  uint32_t view_length = 0;
  napi_get_value_uint32(env, arguments[6], &view_length);
  if (view_length > 0) {
    uint32_t view_offset = 0;
    void* data = nullptr;
    size_t bytes = 0;
    napi_get_value_uint32(env, arguments[5], &view_offset);
    napi_get_typedarray_info(env, arguments[4], nullptr, &bytes, &data, nullptr, nullptr);
    valid = data != nullptr && view_offset <= bytes && view_length <= bytes - view_offset;
    if (valid) vectors[pieces++] = iovec{static_cast<uint8_t*>(data) + view_offset, view_length};
  }
  uint8_t* at = ArenaPiece(env, values[0], values[1], values[2]);
  double result = -EINVAL;
  if (valid && at != nullptr && values[2] > 0) {
    vectors[pieces++] = iovec{at, values[2]};
    ssize_t received;
    if (pieces == 1) {
      do {
        received = recv(fd, at, values[2], MSG_DONTWAIT);
      } while (received < 0 && errno == EINTR);
    } else {
      msghdr message{};
      message.msg_iov = vectors;
      message.msg_iovlen = static_cast<size_t>(pieces);
      do {
        received = recvmsg(fd, &message, MSG_DONTWAIT);
      } while (received < 0 && errno == EINTR);
    }
    result = received < 0 ? -errno : static_cast<double>(received);
  }
  napi_value number;
  napi_create_double(env, result, &number);
  return number;
}

}  // namespace

void DefineStream(Napi::Env env, Napi::Object exports) {
  exports.Set("epollCreate", Napi::Function::New<EpollCreate>(env, "epollCreate"));
  exports.Set("epollAdd", Napi::Function::New<EpollAdd>(env, "epollAdd"));
  exports.Set("epollRemove", Napi::Function::New<EpollRemove>(env, "epollRemove"));
  Export(env, exports, "epollWait", EpollWait);
  Export(env, exports, "streamRead", StreamRead);
}

}  // namespace nvmeferry
