#include "runtime/keeper/ipc.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::keeper {
namespace {

// In the caller's namespace: one line of headings, then one for each object.
absl::StatusOr<bool> HasObjectsHere() {
  for (const char* kind : {"shm", "sem", "msg"}) {
    ASSIGN_OR_RETURN(const std::string list, ReadFile(absl::StrCat("/proc/sysvipc/", kind)));
    if (std::count(list.begin(), list.end(), '\n') > 1) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<bool> HasIpcObjects(int ipc_namespace) {
  absl::StatusOr<bool> found = false;
  // A thread that ends has no namespace to come back to.
  std::thread([&] {
    found = ::setns(ipc_namespace, CLONE_NEWIPC) == 0
                ? HasObjectsHere()
                : absl::StatusOr<bool>(ErrnoStatus("enter the component's IPC namespace"));
  }).join();
  return found;
}

absl::StatusOr<bool> HasIpcImages(int images_dir) {
  // A description of its own: reading a folder moves along in it.
  const int fd = ::openat(images_dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus("open the folder of images");
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::fdopendir(fd), ::closedir);
  if (!folder) return ErrnoStatus("list the folder of images");
  while (const dirent* entry = ::readdir(folder.get())) {
    if (absl::StartsWith(entry->d_name, "ipcns-")) return true;
  }
  return false;
}

}  // namespace starling::keeper
