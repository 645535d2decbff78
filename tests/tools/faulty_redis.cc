#include "tests/tools/faulty_redis.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"

namespace starling::witness {
namespace {

constexpr int kStopCheckMs = 20;

// Takes one whole request of bulk strings off the front; false if it is not there yet.
bool TakeRequest(std::string* in, std::vector<std::string>* words) {
  words->clear();
  size_t at = in->find("\r\n");
  if (at == std::string::npos) return false;
  const int count = std::atoi(in->c_str() + 1);
  at += 2;
  for (int i = 0; i < count; ++i) {
    const size_t end = in->find("\r\n", at);
    if (end == std::string::npos) return false;
    const size_t size = std::strtoul(in->c_str() + at + 1, nullptr, 10);
    if (in->size() < end + 2 + size + 2) return false;
    words->push_back(in->substr(end + 2, size));
    at = end + 2 + size + 2;
  }
  in->erase(0, at);
  return true;
}

}  // namespace

FaultyRedis::FaultyRedis(const RedisFaults& faults)
    : faults_(faults), listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (bind(listener_.fd(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener_.fd(), 4) != 0 ||
      getsockname(listener_.fd(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    std::abort();
  }
  endpoint_ = {INADDR_LOOPBACK, ntohs(address.sin_port)};
  thread_ = std::thread([this] { Serve(); });
}

FaultyRedis::~FaultyRedis() {
  stop_ = true;
  thread_.join();
}

void FaultyRedis::Serve() {
  while (!stop_) {
    pollfd waiting = {listener_.fd(), POLLIN, 0};
    if (poll(&waiting, 1, kStopCheckMs) <= 0) continue;
    const Socket connection(accept(listener_.fd(), nullptr, nullptr));
    Converse(connection.fd());
    if (closed_ && faults_.stay_closed) {
      listener_ = Socket();
      return;
    }
  }
}

void FaultyRedis::Converse(int connection) {
  std::string in;
  std::vector<std::string> words;
  while (!stop_) {
    pollfd waiting = {connection, POLLIN, 0};
    if (poll(&waiting, 1, kStopCheckMs) <= 0) continue;
    char bytes[1 << 16];
    const ssize_t size = recv(connection, bytes, sizeof bytes, 0);
    if (size <= 0) return;
    in.append(bytes, static_cast<size_t>(size));
    std::string out;
    bool open = true;
    while (open && TakeRequest(&in, &words)) {
      open = Answer(words[0], words[1], words.size() > 2 ? words[2] : "", &out);
    }
    if (send(connection, out.data(), out.size(), MSG_NOSIGNAL) < 0 || !open) return;
  }
}

bool FaultyRedis::Answer(const std::string& verb, const std::string& key, const std::string& value,
                         std::string* out) {
  ++requests_;
  if (requests_ == faults_.close_after) {
    closed_ = true;
    if (faults_.forget_all_on_close) values_.clear();
    return false;
  }
  if (requests_ == faults_.pause_at) usleep(static_cast<useconds_t>(faults_.pause_ms) * 1000);
  if (faults_.babble) {
    *out += "220 mail.example.org ESMTP\r\n";
    return true;
  }
  if (verb == "SET") {
    ++writes_;
    if (writes_ == faults_.refuse_write) {
      *out += "-OOM command not allowed\r\n";
      return true;
    }
    if (writes_ != faults_.forget_write) values_[key] = value;
    *out += "+OK\r\n";
    return true;
  }
  ++reads_;
  const auto found = values_.find(key);
  if (found == values_.end()) {
    *out += "$-1\r\n";
    return true;
  }
  std::string answer = found->second;
  if (reads_ == faults_.garble_read) answer.back() = static_cast<char>(answer.back() ^ 1);
  if (reads_ == faults_.swap_read) {
    const auto next = std::next(found);
    answer = next != values_.end() ? next->second : values_.begin()->second;
  }
  absl::StrAppend(out, "$", answer.size(), "\r\n", answer, "\r\n");
  return true;
}

}  // namespace starling::witness
