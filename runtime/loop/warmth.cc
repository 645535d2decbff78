#include "runtime/loop/warmth.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/status.h"
#include "runtime/names.h"

namespace starling::loop {

absl::StatusOr<Warmth::Mapping> Warmth::Mapping::Open(const std::string& path, int64_t most) {
  RETURN_IF_ERROR(CheckAbsolutePath(path));
  // What waits for somebody at its other end, or does something when opened, is no such file; it is
  // looked at before it is opened for reading.
  const UniqueFd place(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (place.get() < 0) return ErrnoStatus(absl::StrCat("open ", path));
  struct stat st = {};
  if (::fstat(place.get(), &st) != 0) return ErrnoStatus(absl::StrCat("look at ", path));
  if (!S_ISREG(st.st_mode) || st.st_size == 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is no file with content"));
  }
  if (st.st_size > most) return absl::ResourceExhaustedError(absl::StrCat(path, ": is too large"));
  const UniqueFd file(
      ::open(absl::StrCat("/proc/self/fd/", place.get()).c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return ErrnoStatus(absl::StrCat("open ", path));
  if (const int error = ::posix_fadvise(file.get(), 0, st.st_size, POSIX_FADV_WILLNEED);
      error != 0) {
    errno = error;
    return ErrnoStatus(absl::StrCat("read ahead ", path));
  }
  const auto size = static_cast<size_t>(st.st_size);
  void* start = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (start == MAP_FAILED) return ErrnoStatus(absl::StrCat("map ", path));
  return Mapping(start, size);
}

Warmth::Mapping::~Mapping() {
  if (start_ != nullptr) ::munmap(start_, size_);
}

Warmth::Warmth(Bounds bounds) : bounds_(bounds) {
  thread_ = std::jthread([this](const std::stop_token& stop) { Work(stop); });
}

Warmth::~Warmth() {
  thread_.request_stop();
  thread_.join();
}

void Warmth::Warm(const std::string& lease, std::vector<std::string> paths) {
  Drop(lease);
  if (paths.empty()) return;
  if (paths.size() > bounds_.files) paths.resize(bounds_.files);
  std::lock_guard lock(mutex_);
  if (jobs_.size() >= bounds_.waiting) return;
  warm_[lease];
  jobs_.push_back({lease, std::move(paths)});
  wake_.notify_all();
}

void Warmth::Drop(const std::string& lease) {
  KeepOnly([&](const std::string& other) { return other != lease; });
}

void Warmth::KeepOnly(const std::function<bool(const std::string&)>& lives) {
  std::lock_guard lock(mutex_);
  std::erase_if(jobs_, [&](const Job& job) { return !lives(job.lease); });
  std::erase_if(warm_, [&](const auto& entry) {
    if (lives(entry.first)) return false;
    bytes_ -= entry.second.bytes;
    return true;
  });
}

int64_t Warmth::Bytes(const std::string& lease) const {
  std::lock_guard lock(mutex_);
  const auto found = warm_.find(lease);
  return found == warm_.end() ? 0 : found->second.bytes;
}

void Warmth::Work(const std::stop_token& stop) {
  while (true) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, stop, [&] { return !jobs_.empty(); });
      if (stop.stop_requested()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    for (const std::string& path : job.paths) {
      int64_t room = 0;
      {
        std::lock_guard lock(mutex_);
        const auto found = warm_.find(job.lease);
        if (stop.stop_requested() || found == warm_.end()) break;
        room = std::min(bounds_.bytes - found->second.bytes, bounds_.bytes_of_all - bytes_);
      }
      if (room <= 0) break;
      absl::StatusOr<Mapping> file = Mapping::Open(path, room);
      if (!file.ok()) continue;
      std::lock_guard lock(mutex_);
      const auto found = warm_.find(job.lease);
      if (found == warm_.end()) break;
      found->second.bytes += file->bytes();
      bytes_ += file->bytes();
      found->second.files.push_back(*std::move(file));
    }
  }
}

}  // namespace starling::loop
