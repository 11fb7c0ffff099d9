// A host that costs next to nothing: it keeps a number of 4 KiB reads or writes in flight on each of several I/O queues of an NVMe/TCP target, and
// throws the answers away unread (MSG_TRUNC), so that the target is what a measurement is about. It trusts the target: answers are counted by
// their bytes, and must come without CapsuleResps for reads (SUCCESS flag), as they do where SQ flow control is disabled.
//
// discarding-host ADDRESS PORT SUBNQN NSID CONNECTIONS DEPTH SECONDS read|write BLOCKS BLOCK_BYTES
//   DEPTH: in flight on each connection, at most 128. Prints {"ios":N,"seconds":S,"visits":N,"cpuSeconds":S}.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr uint32_t kIoBytes = 4096;
constexpr uint32_t kCapsuleHeader = 72;
constexpr int kQueueSize = 128;
constexpr double kWarmUpSeconds = 0.4;
/// C2HData with its header, or a CapsuleResp
constexpr uint32_t kReadAnswer = 24 + kIoBytes;
constexpr uint32_t kWriteAnswer = 24;

[[noreturn]] void Fail(const std::string& what) {
  fprintf(stderr, "discarding-host: %s\n", what.c_str());
  exit(1);
}
[[noreturn]] void FailErrno(const char* what) { Fail(std::string(what) + ": " + strerror(errno)); }

void ReceiveAll(int fd, uint8_t* to, size_t bytes) {
  while (bytes > 0) {
    const ssize_t received = recv(fd, to, bytes, 0);
    if (received == 0) Fail("the target closed a connection");
    if (received < 0) FailErrno("recv");
    to += received;
    bytes -= static_cast<size_t>(received);
  }
}

void SendAll(int fd, const uint8_t* from, size_t bytes) {
  while (bytes > 0) {
    const ssize_t sent = send(fd, from, bytes, MSG_NOSIGNAL);
    if (sent < 0) FailErrno("send");
    from += sent;
    bytes -= static_cast<size_t>(sent);
  }
}

template <typename T>
void Put(uint8_t* at, T value) {
  memcpy(at, &value, sizeof value);
}

/// A connection with its ICReq done.
int Dial(const char* address, int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  if (inet_pton(AF_INET, address, &to.sin_addr) != 1) Fail(std::string(address) + " is no IPv4 address");
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) FailErrno("connect");
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  uint8_t pdu[128] = {0x00, 0, 128, 0, 128};
  SendAll(fd, pdu, sizeof pdu);
  ReceiveAll(fd, pdu, sizeof pdu);
  if (pdu[0] != 0x01) Fail("no ICResp");
  return fd;
}

/// Sends one command with in-capsule data and waits for its CapsuleResp. @return DW0 of the CQE
uint32_t Command(int fd, const uint8_t sqe[64], const uint8_t* data, uint32_t bytes) {
  std::vector<uint8_t> capsule(kCapsuleHeader + bytes);
  capsule[0] = 0x04;
  capsule[2] = kCapsuleHeader;
  capsule[3] = bytes > 0 ? kCapsuleHeader : 0;
  Put(&capsule[4], kCapsuleHeader + bytes);
  memcpy(&capsule[8], sqe, 64);
  if (bytes > 0) memcpy(&capsule[kCapsuleHeader], data, bytes);
  SendAll(fd, capsule.data(), capsule.size());
  uint8_t answer[24];
  ReceiveAll(fd, answer, sizeof answer);
  if (answer[0] != 0x05) Fail("PDU type " + std::to_string(answer[0]) + " instead of a CapsuleResp");
  uint16_t status;
  memcpy(&status, answer + 22, 2);
  if ((status >> 1) != 0) Fail("opcode " + std::to_string(sqe[0]) + ": status " + std::to_string(status >> 1));
  uint32_t result;
  memcpy(&result, answer + 8, 4);
  return result;
}

/// Fabrics Connect. @return the controller's id
uint16_t ConnectQueue(int fd, const char* subnqn, uint16_t cntlid, int qid) {
  uint8_t data[1024] = {};
  for (int i = 0; i < 16; i++) data[i] = static_cast<uint8_t>(0x41 + i);
  Put(data + 16, cntlid);
  snprintf(reinterpret_cast<char*>(data + 256), 224, "%s", subnqn);
  snprintf(reinterpret_cast<char*>(data + 512), 224, "nqn.2026-01.io.nvmeferry:discarding-host");
  uint8_t sqe[64] = {0x7f, 0x40, 0, 0, 0x01};
  Put<uint32_t>(sqe + 32, sizeof data);
  sqe[39] = 0x01;
  Put(sqe + 42, static_cast<uint16_t>(qid));
  Put(sqe + 44, static_cast<uint16_t>((qid == 0 ? 32 : kQueueSize) - 1));
  sqe[46] = 0x04;  // SQ flow control disabled
  return static_cast<uint16_t>(Command(fd, sqe, data, sizeof data));
}

struct Connection {
  int fd;
  /// Of an answer that has come in part.
  uint32_t part = 0;
  uint16_t nextCid = 0;
};

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + time.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 11) Fail("ADDRESS PORT SUBNQN NSID CONNECTIONS DEPTH SECONDS read|write BLOCKS BLOCK_BYTES");
  const char* address = argv[1];
  const int port = atoi(argv[2]);
  const char* subnqn = argv[3];
  const uint32_t nsid = static_cast<uint32_t>(atoi(argv[4]));
  const int connections = atoi(argv[5]);
  const int depth = atoi(argv[6]);
  const double seconds = atof(argv[7]);
  const bool writes = strcmp(argv[8], "write") == 0;
  const uint32_t blocksPerIo = kIoBytes / static_cast<uint32_t>(atoi(argv[10]));
  const uint64_t places = strtoull(argv[9], nullptr, 10) / blocksPerIo;
  if (depth < 1 || depth > kQueueSize || connections < 1 || places == 0) Fail("a value is out of its range");

  const int admin = Dial(address, port);
  const uint16_t cntlid = ConnectQueue(admin, subnqn, 0xffff, 0);
  uint8_t enable[64] = {0x7f, 0x40, 0, 0, 0x00};
  Put<uint32_t>(enable + 44, 0x14);
  Put<uint64_t>(enable + 48, 0x00460001);
  Command(admin, enable, nullptr, 0);
  uint8_t queues[64] = {0x09, 0x40};
  Put<uint32_t>(queues + 40, 0x07);
  Put(queues + 44, static_cast<uint32_t>((connections - 1) | (connections - 1) << 16));
  Command(admin, queues, nullptr, 0);

  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  std::vector<Connection> all;
  for (int i = 0; i < connections; i++) {
    all.push_back(Connection{Dial(address, port)});
    ConnectQueue(all.back().fd, subnqn, cntlid, i + 1);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u32 = static_cast<uint32_t>(i);
    epoll_ctl(epoll, EPOLL_CTL_ADD, all.back().fd, &event);
  }

  const size_t capsuleBytes = kCapsuleHeader + (writes ? kIoBytes : 0);
  std::vector<uint8_t> capsules(capsuleBytes * static_cast<size_t>(depth));
  for (int i = 0; i < depth; i++) {
    uint8_t* pdu = &capsules[static_cast<size_t>(i) * capsuleBytes];
    pdu[0] = 0x04;
    pdu[2] = kCapsuleHeader;
    pdu[3] = writes ? kCapsuleHeader : 0;
    Put(pdu + 4, static_cast<uint32_t>(capsuleBytes));
    uint8_t* sqe = pdu + 8;
    sqe[0] = writes ? 0x01 : 0x02;
    sqe[1] = 0x40;
    Put(sqe + 4, nsid);
    Put(sqe + 32, kIoBytes);
    sqe[39] = writes ? 0x01 : 0x5a;
    Put(sqe + 48, blocksPerIo - 1);
  }
  uint64_t random = 88172645463325252ULL;
  const auto submit = [&](Connection& connection, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
      uint8_t* sqe = &capsules[i * capsuleBytes] + 8;
      Put(sqe + 2, static_cast<uint16_t>(connection.nextCid++ & (kQueueSize - 1)));
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      Put(sqe + 40, random % places * blocksPerIo);
    }
    SendAll(connection.fd, capsules.data(), capsuleBytes * count);
  };

  for (Connection& connection : all) submit(connection, static_cast<uint32_t>(depth));
  uint8_t head[8];
  if (recv(all[0].fd, head, sizeof head, MSG_PEEK | MSG_WAITALL) != sizeof head) FailErrno("recv");
  const bool isExpected = writes ? head[0] == 0x05 : head[0] == 0x07 && (head[1] & 0x08) != 0;
  if (!isExpected) Fail("an answer of type " + std::to_string(head[0]) + " and flags " + std::to_string(head[1]));
  const uint32_t answerBytes = writes ? kWriteAnswer : kReadAnswer;

  uint64_t ios = 0;
  uint64_t visits = 0;
  double start = Now() + kWarmUpSeconds;
  double cpu = 0;
  bool measuring = false;
  for (;;) {
    const double now = Now();
    if (!measuring && now >= start) {
      measuring = true;
      start = now;
      ios = visits = 0;
      cpu = CpuSeconds();
      puts("measuring");
      fflush(stdout);
    }
    if (measuring && now >= start + seconds) {
      printf("{\"ios\":%llu,\"seconds\":%.6f,\"visits\":%llu,\"cpuSeconds\":%.4f}\n", static_cast<unsigned long long>(ios), now - start,
             static_cast<unsigned long long>(visits), CpuSeconds() - cpu);
      return 0;
    }
    epoll_event events[256];
    const int ready = epoll_wait(epoll, events, 256, 10);
    for (int i = 0; i < ready; i++) {
      Connection& connection = all[events[i].data.u32];
      // (with MSG_TRUNC, TCP drops the bytes instead of copying them)
      const ssize_t received = recv(connection.fd, capsules.data(), 1 << 20, MSG_TRUNC | MSG_DONTWAIT);
      if (received < 0 && errno == EAGAIN) continue;
      if (received == 0) Fail("the target closed a connection");
      if (received < 0) FailErrno("recv");
      visits++;
      connection.part += static_cast<uint32_t>(received);
      const uint32_t answers = connection.part / answerBytes;
      connection.part %= answerBytes;
      ios += answers;
      if (answers > 0) submit(connection, answers);
    }
  }
}
