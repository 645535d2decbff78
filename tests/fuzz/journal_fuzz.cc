#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "base/file.h"
#include "runtime/journal.h"
#include "tests/fuzz/fuzz.h"

// A journal that was altered: opened and read, or refused, and nothing else. The input is a list of
// changes to a good one: where (three bytes), and what is there then.

using starling::fuzz::Require;
using namespace starling;

namespace {

const char* Folder() {
  static const std::string& folder = *[] {
    auto* made = new std::string("/dev/shm/starling-fuzz-XXXXXX");
    Require(::mkdtemp(made->data()) != nullptr);
    std::atexit([] { (void)RemoveTree(Folder()); });
    return made;
  }();
  return folder.c_str();
}

std::string Good() {
  const std::string path = std::string(Folder()) + "/good.db";
  {
    auto journal = Journal::Open(path, "boot");
    Require(journal.ok());
    ComponentRow component;
    component.spec.set_name("db");
    component.spec.add_command("/bin/true");
    component.state = v1::RUNNING;
    Require((*journal)->PutComponent(component).ok());
    MigrationRow row;
    row.id = "7f3a";
    row.component = "db";
    row.peer = "node2";
    row.spec = component.spec;
    row.epoch = component.epoch;
    Require((*journal)->Begin(row).ok());
    Require((*journal)->AppendEvent("db", "started", "/bin/true").ok());
  }
  auto bytes = ReadFile(path);
  Require(bytes.ok());
  return *std::move(bytes);
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string& good = *new std::string(Good());
  std::string bytes = good;
  for (size_t i = 0; i + 4 <= size; i += 4) {
    const size_t where = (data[i] | data[i + 1] << 8 | data[i + 2] << 16) % bytes.size();
    // One place stands for the file's end.
    if (where == 0 && i > 0) {
      bytes.resize(bytes.size() - data[i + 3] % bytes.size());
      if (bytes.empty()) break;
    } else {
      bytes[where] = static_cast<char>(data[i + 3]);
    }
  }
  const std::string folder = std::string(Folder()) + "/tried";
  Require(MakeDirectories(folder, 0700).ok());
  const std::string path = folder + "/journal.db";
  Require(WriteFileAtomic(path, bytes).ok());
  if (auto journal = Journal::Open(path, "boot"); journal.ok()) {
    (void)(*journal)->ListComponents().ok();
    (void)(*journal)->ListMigrations(false).ok();
    (void)(*journal)->ReadEvents(0, "", 100).ok();
    (void)(*journal)->Verdict("7f3a").ok();
    (void)(*journal)->AppendEvent("db", "kind", "text").ok();
  }
  (void)RemoveTree(folder);
  return 0;
}
