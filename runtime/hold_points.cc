#include "runtime/hold_points.h"

#include <fcntl.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

namespace starling {

void HoldPoints::At(absl::string_view name) const {
  const std::string path = absl::StrCat(folder_, "/", name);
  if (::access(path.c_str(), F_OK) != 0) return;
  spdlog::warn("held at {} for a test", std::string(name));
  (void)OpenFile(path + ".reached", O_WRONLY | O_CREAT);
  const Deadline deadline = Deadline::After(std::chrono::minutes(2));
  while (::access(path.c_str(), F_OK) == 0 && !deadline.Passed()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

bool HoldPoints::Take(absl::string_view name) const {
  const std::string path = absl::StrCat(folder_, "/", name);
  if (::unlink(path.c_str()) != 0) return false;
  spdlog::warn("{}: done for a test", std::string(name));
  return true;
}

}  // namespace starling
