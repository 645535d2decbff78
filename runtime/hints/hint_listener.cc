#include "runtime/hints/hint_listener.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "libstarling/wire.h"

namespace starling::hints {
namespace {

// Datagrams looked at before another component has its turn.
constexpr int kAtOnce = 32;

}  // namespace

absl::StatusOr<std::unique_ptr<HintListener>> HintListener::Start(const std::string& folder) {
  RETURN_IF_ERROR(MakeDirectories(folder, 0755));
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return ErrnoStatus("epoll_create1");
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return ErrnoStatus("eventfd");
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = wake.get();
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0) {
    return ErrnoStatus("epoll_ctl");
  }
  return std::unique_ptr<HintListener>(new HintListener(folder, std::move(epoll), std::move(wake)));
}

HintListener::HintListener(std::string folder, UniqueFd epoll, UniqueFd wake)
    : folder_(std::move(folder)), epoll_(std::move(epoll)), wake_(std::move(wake)) {
  thread_ = std::jthread([this](const std::stop_token& stop) { Listen(stop); });
}

HintListener::~HintListener() {
  thread_.request_stop();
  const uint64_t one = 1;
  // It wakes as well when this is not written: the counter is above zero then.
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof(one));
}

absl::Status HintListener::Add(const std::string& name, uid_t user) {
  const std::string path = PathOf(folder_, name);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is too long for a socket"));
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  std::lock_guard<std::mutex> lock(mutex_);
  if (ears_.count(name) != 0) return absl::OkStatus();
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return ErrnoStatus("socket");
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return ErrnoStatus(path);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoStatus(absl::StrCat("bind ", path));
  }
  if (::chmod(path.c_str(), 0600) != 0 ||
      ::chown(path.c_str(), user, static_cast<gid_t>(-1)) != 0) {
    return ErrnoStatus(path);
  }
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = socket.get();
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket.get(), &event) != 0) {
    return ErrnoStatus("epoll_ctl");
  }
  names_[socket.get()] = name;
  ears_[name].socket = std::move(socket);
  return absl::OkStatus();
}

void HintListener::Remove(const std::string& name) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto ear = ears_.find(name);
  if (ear == ears_.end()) return;
  names_.erase(ear->second.socket.get());
  ears_.erase(ear);
  ::unlink(PathOf(folder_, name).c_str());
}

bool HintListener::With(const std::string& name, const std::function<void(ComponentHints&)>& look) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto ear = ears_.find(name);
  if (ear == ears_.end()) return false;
  look(ear->second.hints);
  return true;
}

void HintListener::Listen(const std::stop_token& stop) {
  std::array<epoll_event, 16> events;
  while (!stop.stop_requested()) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), -1);
    if (count < 0 && errno != EINTR) return;
    for (int i = 0; i < count; ++i) {
      std::lock_guard<std::mutex> lock(mutex_);
      // Gone meanwhile, or the one that wakes us.
      const auto name = names_.find(events[static_cast<size_t>(i)].data.fd);
      if (name != names_.end()) Hear(name->second);
    }
  }
}

void HintListener::Hear(const std::string& name) {
  Ear& ear = ears_.at(name);
  // A byte more than a hint has, so that a longer datagram is seen to be none.
  std::array<char, sizeof(starling_wire) + 1> buffer;
  for (int i = 0; i < kAtOnce; ++i) {
    const ssize_t size = ::recv(ear.socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (size < 0) return;
    ear.hints.Take(Clock::now(), absl::string_view(buffer.data(), static_cast<size_t>(size)));
  }
}

}  // namespace starling::hints
