#include "runtime/preflight/limits.h"

#include <cassert>

#include "absl/strings/str_cat.h"

namespace starling::preflight {
namespace {

// In one pass, so that a path with braces in it is never taken for a placeholder.
std::string Fill(absl::string_view text, absl::string_view thing,
                 std::initializer_list<std::pair<absl::string_view, absl::string_view>> values) {
  std::string filled;
  while (!text.empty()) {
    const size_t open = text.find('{');
    const size_t close = open == absl::string_view::npos ? open : text.find('}', open);
    if (close == absl::string_view::npos) {
      absl::StrAppend(&filled, text);
      break;
    }
    absl::StrAppend(&filled, text.substr(0, open));
    const absl::string_view name = text.substr(open + 1, close - open - 1);
    bool found = name == "thing";
    if (found) absl::StrAppend(&filled, thing);
    for (const auto& [key, value] : values) {
      if (found || key != name) continue;
      absl::StrAppend(&filled, value);
      found = true;
    }
    assert(found && "a placeholder has no value");
    if (!found) absl::StrAppend(&filled, text.substr(open, close - open + 1));
    text.remove_prefix(close + 1);
  }
  return filled;
}

}  // namespace

const std::vector<LimitText>& Limits() {
  static const auto* const table = new std::vector<LimitText>{
      {Limit::kUnknownHost, "unknown-host", "No host named {thing} is configured here.",
       "Add {thing} with its address to the peers of this agent's configuration, or name one of: "
       "{known}."},
      {Limit::kPeerUnreachable, "peer-unreachable",
       "The agent of {thing} cannot be reached: {cause}.",
       "Check that starlingd runs on {thing} and that its control port can be reached from here."},
      {Limit::kProtocolVersion, "protocol-version",
       "{thing} speaks version {theirs} of the agents' protocol, this host speaks version {ours}.",
       "Install the same version of Starling on both hosts; running components survive the upgrade "
       "of their agent."},
      {Limit::kNoRole, "no-role", "The roles of {thing} do not allow it: {cause}.",
       "Add a [[security.allow]] to the configuration of {thing}, or choose another host."},
      {Limit::kTransportNotOffered, "transport-not-offered",
       "{thing} does not offer the transport {transport} (it offers: {offered}).",
       "Add {transport} to data.offer in the configuration of {thing}, or choose another with "
       "--transport."},
      {Limit::kTransportNotOpen, "transport-not-open",
       "{thing} could not open its transport {transport}: {cause}.",
       "Mend that and restart the agent of {thing} (its components run on), or choose another "
       "transport with --transport."},
      {Limit::kNameTaken, "name-taken", "{thing} already has a component named {name}.",
       "Stop or rename the component at {thing}, or choose another host."},
      {Limit::kCriuMissing, "criu-missing", "CRIU cannot be used on {thing}: {cause}.",
       "Install the criu package on {thing} and run `criu check` there as root."},
      {Limit::kCriuVersion, "criu-version", "CRIU is {theirs} on {thing} and {ours} on the source.",
       "Install the same CRIU version (major and minor number) on both hosts."},
      {Limit::kCpuFlags, "processor-flags",
       "The processor of {thing} lacks {flags}, which programs here may already be using.",
       "Choose a target whose processor has them, or restart the component on {thing}."},
      {Limit::kKernelOlder, "kernel-older",
       "{thing} runs Linux {theirs}, which is older than {ours} at the source.",
       "Upgrade the kernel of {thing}, or choose a host with Linux {ours} or later."},
      {Limit::kKernelFeature, "kernel-feature", "The kernel of {thing} lacks {feature}.",
       "Run a kernel that has it: {hint}."},
      {Limit::kTargetMemory, "target-memory",
       "{thing} has {available} of memory available, and the move needs {needed}.",
       "Free memory on {thing}, raise the limit of its components' cgroup, or choose another "
       "host."},
      {Limit::kNoEthernet, "no-ethernet",
       "{thing} has no Ethernet device {device} for the component's address.",
       "Set parent_device on {thing} to an Ethernet device on the same L2 network as here."},
      {Limit::kFileMissing, "open-file-missing",
       "{thing}, which the component has open or mapped, does not exist at {host}.",
       "Install the same file at {host}, or put it on storage that both hosts share and declare it "
       "with --shared."},
      {Limit::kFileDifferent, "open-file-different", "{thing} differs at {host}: {difference}.",
       "Install the same version of the file at {host}."},
      {Limit::kFileUnreadable, "open-file-unreadable",
       "{thing} cannot be looked at on {host}: {cause}.",
       "Make the file readable to the agent of {host}."},
      {Limit::kOpenForWriting, "open-for-writing",
       "Process {pid} ({name}) has {thing} open for writing, and it is not under a shared or "
       "shipped path.",
       "Have its folder move along with --ship, put it on storage that all hosts share and declare "
       "that with --shared, or have the component close the file."},
      {Limit::kDeletedLarge, "deleted-file-large",
       "Process {pid} ({name}) holds the deleted file {thing} of {size}; {limit} is the most that "
       "can be carried.",
       "Put temporary files of that size on anonymous memory, or on a declared shared path under a "
       "name."},
      {Limit::kDeletedLinked, "deleted-file-linked",
       "Process {pid} ({name}) holds {thing} under a name that was deleted, while the file lives "
       "on under another.",
       "Restart the component, or have it open the file again."},
      {Limit::kFileHidden, "open-file-hidden",
       "Process {pid} ({name}) holds {thing}, but that path now leads to another file.",
       "Unmount what covers it, or have the component open the file again."},
      {Limit::kSharedMissing, "shared-path-missing",
       "The shared path {thing} does not exist at {host}.",
       "Mount the shared storage at the same path on {host}."},
      {Limit::kSharedNotSame, "shared-path-other-storage",
       "The shared path {thing} is not the same storage at {host}.",
       "Mount the same storage at {thing} on both hosts."},
      {Limit::kSharedUnwritable, "shared-path-unwritable",
       "Nothing can be written into the shared path {thing}: {cause}.",
       "Make {thing} a folder that root of this host may write into, or mount it read-only if the "
       "component only reads it."},
      {Limit::kShippedMissing, "shipped-path-missing",
       "At the shipped path {thing} is neither a folder nor a regular file.",
       "Make it before the component is started; name what a symbolic link leads to, not the "
       "link."},
      {Limit::kShippedDevice, "shipped-device",
       "{thing}, under the shipped path {path}, is a device.", "Remove it, or ship less."},
      {Limit::kShippedMount, "shipped-mount",
       "Another file system is mounted at {thing}, which is or lies under the shipped path {path}.",
       "Ship a folder inside of that file system, or unmount it."},
      {Limit::kShippedFolder, "shipped-folder-missing",
       "The folder in which the shipped path {thing} lies does not exist at {host}.",
       "Make that folder at {host}."},
      {Limit::kShippedTaken, "shipped-path-taken",
       "Something else is at the shipped path {thing} of {host}.",
       "Move it away there; what a component left behind on its last move is not in the way."},
      {Limit::kShippedSpace, "shipped-space",
       "{host} has {available} of disk space for {thing}, and it needs {needed}.",
       "Free disk space at {host}, or choose another host."},
      {Limit::kCheckpointShared, "checkpoint-shared",
       "Process {pid} ({name}) has {thing} open for writing, which is on shared storage and not in "
       "the checkpoint.",
       "Keep the file under a path that the component ships (--ship), or have it close the file."},
      {Limit::kMountInside, "mount-inside",
       "The component mounted {kind} on {thing} inside its mount namespace.",
       "Mount it on both hosts before the component is started, or unmount it."},
      {Limit::kMessageQueue, "message-queue",
       "Process {pid} ({name}) has the POSIX message queue {thing} open.",
       "Have the component use a socket or a pipe instead, or close the queue."},
      {Limit::kProcessOutsideTree, "process-outside-tree",
       "Process {thing} ({name}) is in the component's cgroup but not in its process tree.",
       "End process {thing}, or move it to another cgroup."},
      {Limit::kProcessOutsideCgroup, "process-outside-cgroup",
       "Process {thing} ({name}) belongs to the component's tree but has left its cgroup.",
       "Write {thing} into cgroup.procs of {cgroup}."},
      {Limit::kProcessStuck, "process-stuck",
       "Process {thing} ({name}) hangs in an uninterruptible system call.",
       "Find out what it waits for (`cat /proc/{thing}/stack`), often a dead network file system, "
       "and mend that."},
      {Limit::kTraced, "process-traced",
       "Process {thing} ({name}) is being traced by process {tracer}.",
       "Detach the debugger or tracer (process {tracer})."},
      {Limit::kNestedNamespace, "nested-namespace",
       "Process {thing} ({name}) is in {kind} namespaces of its own.",
       "Start the program without its own sandbox or container."},
      {Limit::kIoUring, "io-uring", "Process {pid} ({name}) uses io_uring ({thing}).",
       "Switch io_uring off in the program, often a setting or an environment variable, or forbid "
       "it with the sysctl kernel.io_uring_disabled."},
      {Limit::kRdma, "rdma", "Process {pid} ({name}) holds the RDMA device {thing}.",
       "Have the program close its RDMA context before the move, or use it over sockets."},
      {Limit::kUserspaceIo, "user-space-io",
       "Process {pid} ({name}) drives hardware itself through {thing}.",
       "Have the program use the kernel's driver (for DPDK: a virtual device without hugetlbfs), "
       "or do not move it."},
      {Limit::kDevice, "device", "Process {pid} ({name}) holds the device {thing}.",
       "Have the program close it; null, zero, full, random, urandom and pseudo terminals are the "
       "devices that can be moved."},
      {Limit::kHugePageFile, "huge-page-file",
       "Process {pid} ({name}) maps the hugetlbfs file {thing}.",
       "Use anonymous huge pages or memfd_create with MFD_HUGETLB instead of a file on hugetlbfs."},
      {Limit::kDirectAio, "direct-aio",
       "Process {pid} ({name}) uses asynchronous I/O (io_setup) together with direct I/O on "
       "{thing}.",
       "Switch one of the two off in the program (for example innodb_use_native_aio=0)."},
      {Limit::kSecretMemory, "secret-memory",
       "Process {pid} ({name}) uses memory from memfd_secret.",
       "Start the program without secret memory."},
      {Limit::kUserfaultfd, "userfaultfd",
       "Process {pid} ({name}) handles its own page faults with userfaultfd.",
       "Have the program close its userfaultfd."},
      {Limit::kPerfEvent, "perf-event", "Process {pid} ({name}) has a performance counter open.",
       "Stop the profiler inside the component."},
      {Limit::kBpf, "bpf", "Process {pid} ({name}) holds the BPF object {thing}.",
       "Have the program close it, or load it again after the move."},
      {Limit::kPidfd, "pidfd", "Process {pid} ({name}) holds a pidfd.",
       "Have the program watch its children by SIGCHLD or wait instead."},
      {Limit::kSeccompNotify, "seccomp-notify",
       "Process {pid} ({name}) answers system calls of others by seccomp user notification.",
       "Start the program without that kind of sandbox."},
      {Limit::kKernelObject, "kernel-object",
       "Process {pid} ({name}) holds the kernel object {thing}, which CRIU cannot rebuild.",
       "Have the program close it."},
      {Limit::kPipePacket, "packet-pipe",
       "Process {pid} ({name}) has a pipe in packet mode ({thing}).",
       "Open the pipe without O_DIRECT."},
      {Limit::kSocketKind, "socket-kind", "Process {pid} ({name}) has {kind} ({thing}).",
       "Have the program close it or use TCP, UDP or a Unix socket instead; {hint}."},
      {Limit::kSocketOtherNet, "socket-other-network",
       "Process {pid} ({name}) has {thing} from another network namespace.",
       "Have the program close that socket."},
      {Limit::kUnixPeerOutside, "unix-peer-outside",
       "Process {pid} ({name}) is connected by the Unix socket {thing} to {peer} outside the "
       "component.",
       "Stop using it (for example syslog by /dev/log), or run the other program inside the "
       "component."},
      {Limit::kPipePeerOutside, "pipe-peer-outside",
       "Process {pid} ({name}) has {thing}, whose other end is held by process {peer} outside the "
       "component.",
       "Redirect the program's input and output to files or to /dev/null, or run the other program "
       "inside the component."},
      {Limit::kTerminalOutside, "terminal-outside",
       "Process {pid} ({name}) uses the terminal {thing}, which belongs to a program outside the "
       "component.",
       "Start the component with `starling run`, which gives it no terminal, or run its program "
       "under a terminal multiplexer inside the component."},
      {Limit::kTcpWithoutAddress, "tcp-without-address",
       "Process {pid} ({name}) has the TCP connection {thing}, but the component has no address of "
       "its own.",
       "Start the component with --ip ADDRESS/LENGTH, or let the connection end first."},
      {Limit::kCannotLook, "cannot-look", "{thing} cannot be looked at: {cause}.",
       "Run the agent as root on a kernel with /proc mounted and the socket diagnosis modules "
       "(unix_diag) available."},
  };
  return *table;
}

v1::Obstacle MakeObstacle(
    Limit limit, absl::string_view thing,
    std::initializer_list<std::pair<absl::string_view, absl::string_view>> values) {
  for (const LimitText& text : Limits()) {
    if (text.limit != limit) continue;
    v1::Obstacle obstacle;
    obstacle.set_code(std::string(text.code));
    obstacle.set_thing(std::string(thing));
    obstacle.set_reason(Fill(text.reason, thing, values));
    obstacle.set_mend(Fill(text.mend, thing, values));
    return obstacle;
  }
  assert(false && "every Limit has a row in the table");
  return {};
}

}  // namespace starling::preflight
