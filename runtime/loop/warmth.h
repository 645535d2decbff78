#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace starling::loop {

// Files that are read into this host's cache because a component that has them mapped may come
// here: part of a lease, given back with it. They are read ahead (posix_fadvise,
// POSIX_FADV_WILLNEED) and stay mapped, which does not lock them: under pressure the kernel takes
// them all the same. Thread-safe.
class Warmth {
 public:
  struct Bounds {
    size_t files = 256;                   // of a lease
    int64_t bytes = 512ll << 20;          // of a lease
    int64_t bytes_of_all = 2048ll << 20;  // of all leases
    size_t waiting = 64;                  // leases whose files are not read yet
  };
  explicit Warmth(Bounds bounds);
  Warmth() : Warmth(Bounds()) {}
  ~Warmth();

  // In place of what the lease had; returns at once. Paths come from another host: only regular
  // files by absolute paths, in their order until a bound is reached; others are passed over.
  void Warm(const std::string& lease, std::vector<std::string> paths);
  void Drop(const std::string& lease);
  // Leases that there are not any more give back what they had.
  void KeepOnly(const std::function<bool(const std::string& lease)>& lives);
  // Of files that are kept for it.
  int64_t Bytes(const std::string& lease) const;

 private:
  // A mapped file. Move-only.
  class Mapping {
   public:
    // kInvalidArgument for what is no regular file; kResourceExhausted for more than `most` bytes.
    static absl::StatusOr<Mapping> Open(const std::string& path, int64_t most);
    Mapping(Mapping&& other) noexcept
        : start_(std::exchange(other.start_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Mapping& operator=(Mapping&&) = delete;
    ~Mapping();
    int64_t bytes() const { return static_cast<int64_t>(size_); }

   private:
    Mapping(void* start, size_t size) : start_(start), size_(size) {}
    void* start_ = nullptr;
    size_t size_ = 0;
  };
  struct Warmed {
    std::vector<Mapping> files;
    int64_t bytes = 0;
  };
  struct Job {
    std::string lease;
    std::vector<std::string> paths;
  };
  void Work(const std::stop_token& stop);

  const Bounds bounds_;
  mutable std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<Job> jobs_;                // guarded by mutex_
  std::map<std::string, Warmed> warm_;  // guarded by mutex_
  int64_t bytes_ = 0;                   // of all; guarded by mutex_
  std::jthread thread_;
};

}  // namespace starling::loop
