#pragma once

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/proto/starling.pb.h"

// Every kind of obstacle that can keep a component from being moved, with the words a person reads.
// docs/limits.md has the same words and says why; a test compares the two.

namespace starling::preflight {

enum class Limit {
  // The other host.
  kUnknownHost,
  kPeerUnreachable,
  kProtocolVersion,
  kNoRole,
  kTransportNotOffered,
  kTransportNotOpen,
  kNameTaken,
  // What the hosts have.
  kCriuMissing,
  kCriuVersion,
  kCpuFlags,
  kKernelOlder,
  kKernelFeature,
  kTargetMemory,
  kNoEthernet,
  // Files.
  kFileMissing,
  kFileDifferent,
  kFileUnreadable,
  kOpenForWriting,
  kDeletedLarge,
  kDeletedLinked,
  kFileHidden,
  kSharedMissing,
  kSharedNotSame,
  kSharedUnwritable,
  kShippedMissing,
  kShippedDevice,
  kShippedMount,
  kShippedFolder,
  kShippedTaken,
  kShippedSpace,
  kCheckpointShared,
  kMountInside,
  kMessageQueue,
  // Processes.
  kProcessOutsideTree,
  kProcessOutsideCgroup,
  kProcessStuck,
  kTraced,
  kNestedNamespace,
  // Descriptors and mappings.
  kIoUring,
  kRdma,
  kUserspaceIo,
  kDevice,
  kHugePageFile,
  kDirectAio,
  kSecretMemory,
  kUserfaultfd,
  kPerfEvent,
  kBpf,
  kPidfd,
  kSeccompNotify,
  kKernelObject,
  kPipePacket,
  // Sockets, pipes and terminals.
  kSocketKind,
  kSocketOtherNet,
  kUnixPeerOutside,
  kPipePeerOutside,
  kTerminalOutside,
  kTcpWithoutAddress,
  // Looking itself.
  kCannotLook,
};

struct LimitText {
  Limit limit;
  absl::string_view code;    // stable, lower case words joined by '-'
  absl::string_view reason;  // one sentence; {thing} and other {names} are filled in
  absl::string_view mend;    // one sentence, with the same placeholders
};

// All of them, in the order of docs/limits.md. Static storage.
const std::vector<LimitText>& Limits();

// The obstacle for `limit` about `thing`. `values` fill the placeholders other than {thing}. A
// placeholder without a value is our own mistake (assert); in release builds it stays as it is.
v1::Obstacle MakeObstacle(
    Limit limit, absl::string_view thing,
    std::initializer_list<std::pair<absl::string_view, absl::string_view>> values = {});

}  // namespace starling::preflight
