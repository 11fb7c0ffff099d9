// What the sockets alone cost a target: for each socket that has something one recv, and one sendmsg of all its answers, with payloads from where
// they lie. It looks at no more of a command than opcode, CID and place, serves discarding-host and nobody else, and trusts it.
//
// bare-target MEMORY_BYTES    listens on 127.0.0.1, prints the port, ends by a signal
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr uint32_t kIoBytes = 4096;
constexpr size_t kHeaderBytes = 24;
constexpr size_t kAnswersMax = 256;
constexpr size_t kReceiveBytes = 256 << 10;
constexpr int kEventsMax = 256;

[[noreturn]] void FailErrno(const char* what) {
  fprintf(stderr, "bare-target: %s: %s\n", what, strerror(errno));
  exit(1);
}

template <typename T>
T Get(const uint8_t* at) {
  T value;
  memcpy(&value, at, sizeof value);
  return value;
}
template <typename T>
void Put(uint8_t* at, T value) {
  memcpy(at, &value, sizeof value);
}

struct Connection {
  int fd;
  std::vector<uint8_t> received = std::vector<uint8_t>(kReceiveBytes);
  size_t bytes = 0;
};

uint8_t* memory;
size_t memory_bytes;
uint8_t headers[kAnswersMax][128];
iovec pieces[kAnswersMax * 2];
int piece_count;

void SendPieces(int fd) {
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = static_cast<size_t>(piece_count);
  while (message.msg_iovlen > 0) {
    ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (sent < 0) return;  // the host is gone: its socket says so next
    while (message.msg_iovlen > 0 && static_cast<size_t>(sent) >= message.msg_iov->iov_len) {
      sent -= static_cast<ssize_t>(message.msg_iov->iov_len);
      message.msg_iov++;
      message.msg_iovlen--;
    }
    if (sent > 0) {
      message.msg_iov->iov_base = static_cast<uint8_t*>(message.msg_iov->iov_base) + sent;
      message.msg_iov->iov_len -= static_cast<size_t>(sent);
    }
  }
}

/// Adds the answer of one PDU to the pieces.
void Answer(const uint8_t* pdu, uint8_t* header) {
  const uint8_t* sqe = pdu + 8;
  uint8_t* place = memory + Get<uint64_t>(sqe + 40) * kIoBytes % memory_bytes;
  const bool is_read = pdu[0] == 0x04 && sqe[0] == 0x02;
  size_t length = kHeaderBytes;
  memset(header, 0, 128);
  if (pdu[0] == 0x00) {
    header[0] = 0x01;
    header[2] = 128;
    Put<uint32_t>(header + 4, 128);
    Put<uint32_t>(header + 12, 1 << 20);
    length = 128;
  } else if (is_read) {
    header[0] = 0x07;
    header[1] = 0x0c;
    header[2] = header[3] = kHeaderBytes;
    Put<uint32_t>(header + 4, kHeaderBytes + kIoBytes);
    Put(header + 8, Get<uint16_t>(sqe + 2));
    Put<uint32_t>(header + 16, kIoBytes);
  } else {
    if (sqe[0] == 0x01) memcpy(place, pdu + 72, kIoBytes);
    header[0] = 0x05;
    header[2] = kHeaderBytes;
    Put<uint32_t>(header + 4, kHeaderBytes);
    Put<uint32_t>(header + 8, 1);  // Connect: the controller's id
    Put(header + 20, Get<uint16_t>(sqe + 2));
  }
  pieces[piece_count++] = iovec{header, length};
  if (is_read) pieces[piece_count++] = iovec{place, kIoBytes};
}

/// @return false at the end of the connection
bool Serve(Connection& connection) {
  uint8_t* received = connection.received.data();
  const ssize_t count = recv(connection.fd, received + connection.bytes, kReceiveBytes - connection.bytes, MSG_DONTWAIT);
  if (count < 0 && errno == EAGAIN) return true;
  if (count <= 0) return false;
  connection.bytes += static_cast<size_t>(count);
  size_t at = 0;
  size_t answers = 0;
  piece_count = 0;
  while (connection.bytes - at >= 8 && answers < kAnswersMax) {
    const size_t plen = Get<uint32_t>(received + at + 4);
    if (connection.bytes - at < plen) break;
    Answer(received + at, headers[answers++]);
    at += plen;
  }
  if (answers > 0) SendPieces(connection.fd);
  connection.bytes -= at;
  memmove(received, received + at, connection.bytes);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "bare-target MEMORY_BYTES\n");
    return 2;
  }
  memory_bytes = strtoull(argv[1], nullptr, 10);
  memory = static_cast<uint8_t*>(mmap(nullptr, memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) FailErrno("mmap");
  memset(memory, 0xa5, memory_bytes);

  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  socklen_t length = sizeof address;
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), length) != 0) FailErrno("bind");
  if (listen(listener, 128) != 0) FailErrno("listen");
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);

  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  epoll_event accepts{};
  accepts.events = EPOLLIN;
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &accepts);
  for (;;) {
    epoll_event events[kEventsMax];
    const int ready = epoll_wait(epoll, events, kEventsMax, -1);
    for (int i = 0; i < ready; i++) {
      Connection* connection = static_cast<Connection*>(events[i].data.ptr);
      if (connection == nullptr) {
        connection = new Connection{accept4(listener, nullptr, nullptr, SOCK_CLOEXEC)};
        if (connection->fd < 0) FailErrno("accept4");
        const int one = 1;
        setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.ptr = connection;
        epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event);
      } else if (!Serve(*connection)) {
        close(connection->fd);
        delete connection;
      }
    }
  }
}
