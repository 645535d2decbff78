#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>

#include "base/file.h"

namespace starling {

// For tests that wait for many an fsync and would learn nothing from a disk. Programs cannot be
// started from there everywhere.
inline std::string InMemory() {
  return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : testing::TempDir();
}

// A folder of a test's own, gone when the test ends.
class Scratch {
 public:
  explicit Scratch(const std::string& where = testing::TempDir())
      : path_(where + "/starling-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) abort();
  }
  ~Scratch() { RemoveTree(path_).IgnoreError(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace starling
