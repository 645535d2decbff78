#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fd.h"
#include "runtime/proto/keeper.pb.h"

namespace starling::keeper {

// The agent's side of a keeper: a blocking connection. Not thread-safe, but any number of
// connections to one keeper may be used at once. A call that ran into its deadline or lost the
// connection leaves the client closed (kUnavailable from then on): connect again.
class KeeperClient {
 public:
  // kUnavailable when no keeper listens at `socket_path`.
  static absl::StatusOr<KeeperClient> Connect(const std::string& socket_path);

  // Sends the request (its protocol is filled in), borrowed descriptors with it, and waits for the
  // answer. The keeper's status is the status; the reply is whole when it is OK. `received`, if
  // given, takes the descriptors that come with it.
  absl::StatusOr<v1::Reply> Call(v1::Request request, const std::vector<int>& fds,
                                 Deadline deadline, std::vector<UniqueFd>* received = nullptr);

  absl::StatusOr<v1::Status> GetStatus();
  absl::Status Launch();
  absl::Status Freeze(double term_s = 0);
  absl::Status Thaw(bool in_term = false);
  absl::Status FenceUp();
  absl::Status FenceDown();
  absl::Status Announce();
  // `page_server`: the end of a stream socket that CRIU shall write pages to; borrowed. The caller
  // must close its own copy to see the stream end.
  absl::StatusOr<v1::PhaseTimes> PreDump(const std::string& images_dir,
                                         const std::string& parent_dir, int page_server,
                                         Duration timeout);
  absl::Status StageDump(const std::string& images_dir, const std::string& parent_dir,
                         int page_server, Duration timeout);
  absl::StatusOr<v1::PhaseTimes> Dump(Duration timeout);
  absl::StatusOr<v1::PhaseTimes> Restore(const std::string& images_dir, Duration timeout);
  absl::Status CancelCriu();
  absl::StatusOr<v1::ProbeResult> Probe(const std::string& command, Duration timeout);
  absl::Status Stop(Duration grace);
  absl::Status Kill();
  absl::Status Quit();
  // Until the component has ended; its exit status. kDeadlineExceeded before that.
  absl::StatusOr<int> Watch(Deadline deadline);

 private:
  explicit KeeperClient(UniqueFd socket) : socket_(std::move(socket)) {}
  absl::Status Simple(v1::Request request, Duration timeout);

  UniqueFd socket_;
};

struct StartKeeperOptions {
  std::string program;  // starling-keeper; empty: beside the running program
  std::string run_dir;
  std::string log_dir;
  std::string parent_device;  // may be empty when spec.ip is
  starling::v1::ComponentSpec spec;
  uint64_t epoch = 0;
  std::string migration_id;
  bool fenced = false;
  std::string cgroup_root;  // empty: where the host mounts cgroup v2
};

// Starts a keeper as a process of its own, which outlives the caller and its cgroup, and returns
// the path of its socket once it answers there. The component's namespaces, cgroup and network
// exist then; nothing runs in them. Errors are the keeper's own: kAlreadyExists when one of that
// name runs.
absl::StatusOr<std::string> StartKeeper(const StartKeeperOptions& options, Deadline deadline);

// RUN_DIR/keepers/NAME.sock, NAME@MIGRATION.sock for a copy made by a migration.
std::string KeeperSocket(const std::string& run_dir, const std::string& component,
                         const std::string& migration_id);

// A keeper's socket found in `run_dir`; `alive` is false when nobody answers any more: its
// component has ended with it, and the file is only a trace.
struct KeeperEntry {
  std::string socket_path;
  std::string component;
  std::string migration_id;
  bool alive = false;
};
// Sorted by path. A run folder without keepers yields none.
absl::StatusOr<std::vector<KeeperEntry>> ListKeepers(const std::string& run_dir);

}  // namespace starling::keeper
