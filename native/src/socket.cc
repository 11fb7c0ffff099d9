// Unix stream sockets that carry file descriptors (SCM_RIGHTS) beside their bytes. All calls are non-blocking; the loop watches by Watcher.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "functions.h"

namespace nvmeferry {
namespace {

/// SCM_MAX_FD of the kernel.
constexpr size_t kFdsMax = 253;

int Address(const std::string& path, sockaddr_un* address, socklen_t* length) {
  std::memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address->sun_path) return -ENAMETOOLONG;
  std::memcpy(address->sun_path, path.data(), path.size());
  *length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return 0;
}

int MakeSocket() { return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

/// (path, backlog) -> fd or -errno
Napi::Value UnixListen(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  sockaddr_un address;
  socklen_t length;
  const int wrong = Address(info[0].ToString().Utf8Value(), &address, &length);
  if (wrong != 0) return Result(env, wrong);
  const int fd = MakeSocket();
  if (fd < 0) return Result(env, -errno);
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      listen(fd, info[1].ToNumber().Int32Value()) != 0) {
    const int error = errno;
    close(fd);
    return Result(env, -error);
  }
  return Result(env, fd);
}

/// (path) -> fd or -errno. A Unix socket connects at once, or not: -EAGAIN is a full backlog.
Napi::Value UnixConnect(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  sockaddr_un address;
  socklen_t length;
  const int wrong = Address(info[0].ToString().Utf8Value(), &address, &length);
  if (wrong != 0) return Result(env, wrong);
  const int fd = MakeSocket();
  if (fd < 0) return Result(env, -errno);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), length) != 0) {
    const int error = errno;
    close(fd);
    return Result(env, -error);
  }
  return Result(env, fd);
}

/// () -> [fd, fd] or -errno
Napi::Value UnixPair(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) return Result(env, -errno);
  Napi::Array pair = Napi::Array::New(env, 2);
  pair[0u] = Napi::Number::New(env, fds[0]);
  pair[1u] = Napi::Number::New(env, fds[1]);
  return pair;
}

/// (listening fd) -> fd or -errno
Napi::Value UnixAccept(const Napi::CallbackInfo& info) {
  int fd;
  do {
    fd = accept4(info[0].ToNumber().Int32Value(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  } while (fd < 0 && errno == EINTR);
  return Result(info.Env(), fd < 0 ? -errno : fd);
}

/// (fd, bytes, offset, length, Int32Array of descriptors or undefined) -> bytes sent or -errno. The descriptors go with the first byte.
Napi::Value SendMessage(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[1].IsTypedArray()) return Result(env, -EINVAL);
  Napi::Uint8Array bytes = info[1].As<Napi::Uint8Array>();
  const int64_t offset = info[2].ToNumber().Int64Value();
  const int64_t length = info[3].ToNumber().Int64Value();
  const int64_t total = static_cast<int64_t>(bytes.ByteLength());
  if (offset < 0 || length < 1 || offset > total || length > total - offset) return Result(env, -EINVAL);
  iovec piece{bytes.Data() + offset, static_cast<size_t>(length)};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kFdsMax * sizeof(int))];
  if (info[4].IsTypedArray()) {
    Napi::Int32Array fds = info[4].As<Napi::Int32Array>();
    const size_t count = fds.ElementLength();
    if (count > kFdsMax) return Result(env, -E2BIG);
    if (count > 0) {
      std::memset(control, 0, sizeof control);
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(count * sizeof(int));
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(count * sizeof(int));
      std::memcpy(CMSG_DATA(header), fds.Data(), count * sizeof(int));
    }
  }
  ssize_t sent;
  do {
    sent = sendmsg(info[0].ToNumber().Int32Value(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  return Result(env, sent < 0 ? -errno : static_cast<double>(sent));
}

/// (fd, bytes, offset, length, Int32Array out) -> bytes received (0: end) or -errno. out[0] = count of descriptors, which follow it. The kernel
/// ends a read behind bytes that brought descriptors. More than fit: all are closed, -EMSGSIZE, or -EMFILE if this process may have no more.
Napi::Value ReceiveMessage(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[1].IsTypedArray() || !info[4].IsTypedArray()) return Result(env, -EINVAL);
  Napi::Uint8Array bytes = info[1].As<Napi::Uint8Array>();
  Napi::Int32Array out = info[4].As<Napi::Int32Array>();
  const int64_t offset = info[2].ToNumber().Int64Value();
  const int64_t length = info[3].ToNumber().Int64Value();
  const int64_t total = static_cast<int64_t>(bytes.ByteLength());
  if (offset < 0 || length < 1 || offset > total || length > total - offset) return Result(env, -EINVAL);
  if (out.ElementLength() < 1) return Result(env, -EINVAL);
  const size_t room = std::min<size_t>(out.ElementLength() - 1, kFdsMax);
  out[0] = 0;
  iovec piece{bytes.Data() + offset, static_cast<size_t>(length)};
  alignas(cmsghdr) char control[CMSG_SPACE(kFdsMax * sizeof(int))];
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = room == 0 ? 0 : CMSG_SPACE(room * sizeof(int));
  ssize_t received;
  do {
    received = recvmsg(info[0].ToNumber().Int32Value(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (received < 0 && errno == EINTR);
  if (received < 0) return Result(env, -errno);
  int32_t count = 0;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t here = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < here; i++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      // alignment may let one more through than was asked for
      if (static_cast<size_t>(count) < room) {
        out[1 + count++] = fd;
      } else {
        close(fd);
        message.msg_flags |= MSG_CTRUNC;
      }
    }
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0) {
    const bool full = static_cast<size_t>(count) == room;
    for (int32_t i = 0; i < count; i++) close(out[1 + i]);
    return Result(env, full ? -EMSGSIZE : -EMFILE);
  }
  out[0] = count;
  return Result(env, static_cast<double>(received));
}

/// (fd, how) -> 0 or -errno
Napi::Value Shutdown(const Napi::CallbackInfo& info) {
  const int result = shutdown(info[0].ToNumber().Int32Value(), info[1].ToNumber().Int32Value());
  return Result(info.Env(), result < 0 ? -errno : 0);
}

}  // namespace

void DefineSocket(Napi::Env env, Napi::Object exports) {
  exports.Set("unixListen", Napi::Function::New<UnixListen>(env, "unixListen"));
  exports.Set("unixConnect", Napi::Function::New<UnixConnect>(env, "unixConnect"));
  exports.Set("unixPair", Napi::Function::New<UnixPair>(env, "unixPair"));
  exports.Set("unixAccept", Napi::Function::New<UnixAccept>(env, "unixAccept"));
  exports.Set("sendMessage", Napi::Function::New<SendMessage>(env, "sendMessage"));
  exports.Set("receiveMessage", Napi::Function::New<ReceiveMessage>(env, "receiveMessage"));
  exports.Set("shutdownSocket", Napi::Function::New<Shutdown>(env, "shutdownSocket"));
}

}  // namespace nvmeferry
