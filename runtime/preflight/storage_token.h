#pragma once

#include <string>
#include <utility>
#include <vector>

#include "runtime/proto/starling.pb.h"

// Proof that a shared path is the same storage on both hosts: the source writes a small file with a
// random content into it, and the target must find that file with that content. Device numbers and
// file system types say nothing about it: two hosts number the same network file system otherwise,
// and two different ones alike.

namespace starling::preflight {

// Token files, removed when this object dies. Move-only, not thread-safe.
class StorageTokens {
 public:
  StorageTokens() = default;
  StorageTokens(StorageTokens&& other) noexcept : paths_(std::exchange(other.paths_, {})) {}
  StorageTokens& operator=(StorageTokens&& other) noexcept;
  ~StorageTokens();

  // One file for each shared path of the request's spec, written below `root` ("" or
  // "/proc/PID/root", the component's view), and added to the request as a FileFact with the hash
  // of its content. Keep the object until the target has answered. Into a path that is a plain file
  // or mounted read-only nothing is written: what it holds is compared file by file. A path that is
  // not there or takes no file is added to `obstacles`.
  static StorageTokens Write(const std::string& root, const std::string& host,
                             v1::ExamineRequest* request, std::vector<v1::Obstacle>* obstacles);

 private:
  void Remove();
  std::vector<std::string> paths_;
};

// Is this the path of a token file? Only such files are reported as shared paths.
bool IsStorageToken(const std::string& path);

// The shared path that a token file stands for.
std::string StorageTokenFolder(const std::string& path);

}  // namespace starling::preflight
