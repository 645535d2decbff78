#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "runtime/hints/component_hints.h"

namespace starling::hints {

// Hears the hints of this host's components, each on a socket of its own in one folder: by it a
// component is known. The sockets are the agent's and end with it; components notice nothing but
// that they are not heard. Thread-safe.
class HintListener {
 public:
  // `folder` is made; old sockets in it are replaced as their components are added.
  static absl::StatusOr<std::unique_ptr<HintListener>> Start(const std::string& folder);
  ~HintListener();

  // FOLDER/NAME, which the component's STARLING_HINTS names: the same on every host.
  static std::string PathOf(const std::string& folder, const std::string& name) {
    return folder + "/" + name;
  }
  // Listens to a component that runs as this user; again is fine.
  absl::Status Add(const std::string& name, uid_t user);
  void Remove(const std::string& name);

  // Runs `look` with what the component has said; false: it is not listened to.
  bool With(const std::string& name, const std::function<void(ComponentHints&)>& look);

 private:
  struct Ear {
    UniqueFd socket;
    ComponentHints hints;
  };
  HintListener(std::string folder, UniqueFd epoll, UniqueFd wake);
  void Listen(const std::stop_token& stop);
  void Hear(const std::string& name);

  const std::string folder_;
  UniqueFd epoll_, wake_;
  std::mutex mutex_;
  std::map<std::string, Ear> ears_;
  std::map<int, std::string> names_;  // by descriptor
  std::jthread thread_;
};

}  // namespace starling::hints
