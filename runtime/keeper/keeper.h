#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fd.h"
#include "checkpoint/criu_session.h"
#include "checkpoint/lazy_pages.h"
#include "runtime/keeper/announce.h"
#include "runtime/keeper/cgroup.h"
#include "runtime/keeper/fence.h"
#include "runtime/keeper/netns.h"
#include "runtime/keeper/sandbox.h"
#include "runtime/proto/keeper.pb.h"

namespace starling::keeper {

struct KeeperOptions {
  starling::v1::ComponentSpec spec;
  std::string run_dir;        // of the agent
  std::string log_dir;        // the component's output goes to NAME.log there
  std::string parent_device;  // network device of the host that carries the components' addresses
  std::string init_path;      // starling-init
  std::string cgroup_root;    // where cgroup v2 is mounted
  std::string criu = "/usr/sbin/criu";
  std::string criu_root;    // starling-criu-root.so, what CRIU needs for a restore
  std::string criu_fenced;  // starling-criu-fenced.so, for CRIU at work behind a fence
  uint64_t epoch = 0;
  std::string migration_id;  // of a copy made by a migration
  bool fenced = false;       // the fence is up before the network is
};

// What a component's keeper is called: NAME, or NAME@MIGRATION for a copy made by a migration,
// which may arrive while an older keeper of the same component is still there. Names its socket and
// cgroup.
std::string KeeperName(const std::string& component, const std::string& migration_id);

// The cgroup folders, under the hierarchy's root. Keepers live outside of their components' groups
// and outside of the agent's, so that neither a freeze nor the agent's end reaches them.
inline constexpr char kComponentsGroup[] = "starling";
inline constexpr char kKeepersGroup[] = "starling-keepers";

// Owns one component on this host: its namespaces, cgroup, fence, output and exit status. All
// operations but Create, OnInitExit and the destructor are thread-safe and return when they are
// done. One slow operation (CRIU, stop, quit) at a time: a second one is answered
// kFailedPrecondition naming the first, and so is whatever would let the tree run under CRIU's
// hands.
class Keeper {
 public:
  // Makes cgroup, namespaces and network; nothing runs yet. On the main thread, with which the
  // component's namespaces end. On an error nothing is left.
  static absl::StatusOr<std::unique_ptr<Keeper>> Create(const KeeperOptions& options);
  ~Keeper();

  absl::Status Launch();
  // With a term above 0 it runs on by itself after so many seconds. The next Freeze() replaces it.
  absl::Status Freeze(double term_s = 0);
  // With `in_term` kFailedPrecondition if the term was over before this; it is thawed all the same.
  absl::Status Thaw(bool in_term = false);
  // A component in the host's network namespace has no fence: raising it is OK and does nothing,
  // `fenced` stays false, and its connections cannot move.
  absl::Status FenceUp();
  absl::Status FenceDown();
  // Sends the first announcement and arms announce_timer() for those that follow.
  absl::Status Announce();
  // The three in a row that end a move.
  absl::Status LetRun();

  // `page_server` is taken over.
  absl::StatusOr<v1::PhaseTimes> PreDump(const v1::PreDump& request, UniqueFd page_server);
  // Returns with CRIU started and waiting to seize the tree, which runs on. Until Dump() or
  // CancelCriu() the keeper is busy, but freezes, thaws and fences.
  absl::Status StageDump(const v1::StageDump& request, UniqueFd page_server);
  // The staged dump. Needs a frozen tree; it stays frozen whatever happens.
  absl::StatusOr<v1::PhaseTimes> Dump();
  // Needs an empty keeper, fence up. The tree is frozen afterwards; after an error nothing runs.
  // `arena` is taken over; given for a restore on demand.
  absl::StatusOr<v1::PhaseTimes> Restore(const v1::Restore& request, UniqueFd arena);
  // Of a restore on demand some of whose memory is still at the host that the component came from;
  // see keeper.proto. kFailedPrecondition where there was none.
  absl::StatusOr<std::vector<UniqueFd>> FindMissing();
  absl::StatusOr<v1::WantedSlots> TakeWanted(Duration wait);
  absl::Status Arrived(const v1::Arrived& arrived);
  absl::Status Lose(const v1::Lose& lose);
  // A dump is ended so that CRIU itself puts the tree in order, and killed only if that takes too
  // long. Returns when the operation it ended is over.
  absl::Status CancelCriu();

  absl::StatusOr<v1::ProbeResult> Probe(const v1::Probe& request);
  absl::Status Stop(Duration grace);
  absl::Status Kill();
  // Ends everything and removes what Create made.
  absl::Status Quit();

  // Until the tree has ended, or `hangup` (a descriptor) hangs up: kCancelled.
  absl::Status Watch(int hangup);

  v1::Status GetStatus();

  // For the main loop: readable when the component has ended, then call OnInitExit() once.
  int init_pidfd() const { return sandbox_->init_pidfd(); }
  void OnInitExit();
  // Readable when another announcement is due, then call OnAnnounceTimer().
  int announce_timer() const { return announce_timer_.get(); }
  // Readable when a freeze's term is over, then call OnFreezeTimer().
  int freeze_timer() const { return freeze_timer_.get(); }
  void OnFreezeTimer();
  void OnAnnounceTimer();

 private:
  class SlowOperation;
  struct StagedDump;

  explicit Keeper(KeeperOptions options);

  absl::Status SetUp();
  absl::Status SetUpNetwork();
  struct CriuStart;
  absl::StatusOr<std::unique_ptr<checkpoint::CriuSession>> StartCriu(CriuStart start,
                                                                     Deadline deadline);
  // A CRIU that will dump. `left_out`: the component's IPC namespace, when there is nothing in it
  // that has to be dumped.
  absl::StatusOr<std::unique_ptr<checkpoint::CriuSession>> StartDump(const std::string& images_dir,
                                                                     int page_server,
                                                                     UniqueFd* left_out,
                                                                     Deadline deadline);
  // Undoes what a CRIU that failed or was killed in a dump may have left in the frozen tree.
  absl::Status MendAfterDump();
  absl::Status RefuseWhileBusy(const char* what);
  bool DumpWaits() const;  // a dump is staged and has not begun; under mutex_
  absl::Status NeedTree();
  absl::Status ServeLazily(const std::string& images_dir, UniqueFd arena);
  checkpoint::LazyPages* lazy();  // nullptr: nothing is restored on demand
  absl::StatusOr<checkpoint::LazyPages*> NeedLazy();
  // A component is dumped only once all of its memory is in place.
  absl::Status WaitFilled(Deadline deadline);
  absl::Status WaitExited(Deadline deadline);
  // Whether the component has a network, and so a fence, of its own.
  bool networked() const { return !options_.spec.ip().empty(); }

  const KeeperOptions options_;
  absl::Status SetFreezeTerm(double seconds);

  UniqueFd announce_timer_;
  UniqueFd freeze_timer_;
  bool term_over_ = false;  // guarded by control_mutex_
  UniqueFd exited_event_;   // readable for good once the tree has ended
  std::optional<Cgroup> cgroup_;
  std::optional<Cgroup> keepers_cgroup_;
  std::optional<Sandbox> sandbox_;
  std::mutex sandbox_mutex_;  // one question at a time to the namespace's first process
  std::optional<NetworkNamespace> network_;
  std::optional<Announcer> announcer_;
  std::atomic<int> announcements_left_{0};

  // Orders the quick operations among each other. Taken before mutex_.
  std::mutex control_mutex_;
  std::optional<Fence> fence_;  // guarded by control_mutex_

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  const char* busy_ = nullptr;  // name of the slow operation under way
  // Of a restore on demand; set once, before the tree exists. Declared after what its threads use.
  std::unique_ptr<checkpoint::LazyPages> lazy_;
  std::unique_ptr<StagedDump> staged_;  // a dump that waits for its word to go on
  checkpoint::CriuSession* criu_ = nullptr;
  int page_server_ = -1;    // our copy of CRIU's end, to cut it off; valid while criu_ is
  bool cancelled_ = false;  // of the operation under way
  bool tree_ = false;       // launched or restored
  bool exited_ = false;
  bool gone_ = false;  // Quit has removed everything
  bool fenced_ = false;
  int exit_status_ = 0;
  pid_t root_inside_ = 0;
  pid_t root_pid_ = 0;
};

}  // namespace starling::keeper
