#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "checkpoint/criu_version.h"
#include "checkpoint/page_stream.h"

// Our end of the protocol in which CRIU sends memory to a page server (criu/page-xfer.c): messages
// of a fixed size, little-endian, in the layout of a C structure
//   { u32 command | flags << 16; u32 or u64 pages; u64 address; u64 destination }
// 24 bytes up to CRIU 4.1 and 32 (64-bit count of pages, 4 bytes of padding before it) from 4.2 on.
// The low 8 bits of the destination tell a process (1) from shared memory (2), the rest is its id.
// Pages follow the message that announces them.

namespace starling::checkpoint {

struct PageServerMessage {
  enum class Kind {
    kOpen,       // pages of run.space follow; answered with one byte: is there a parent?
    kAskParent,  // answered with 32 bits: is there a parent?
    kPages,      // run.pages pages of bytes follow
    kHole,       // the run is unchanged since the parent
    kClose,      // the end; answered with 32 bits: 0, all is well
  };
  Kind kind = Kind::kClose;
  PageRun run;  // only its space for kOpen and kAskParent
};

// Reads messages of one version of CRIU. No I/O, so that it can be fed with anything.
class PageServerParser {
 public:
  static constexpr size_t kMaxMessage = 32;

  // Errors: kUnimplemented for versions whose messages are not known (before 3.11, from 5 on).
  static absl::StatusOr<PageServerParser> For(const CriuVersion& version);

  size_t message_size() const { return wide_ ? 32 : 24; }

  // `bytes` are message_size() bytes.
  // Errors: kInvalidArgument saying what is wrong: unknown command, flags or destination, no pages,
  // an address that is not a page's, a run beyond the end of any address space.
  absl::StatusOr<PageServerMessage> Parse(std::span<const std::byte> bytes) const;

 private:
  explicit PageServerParser(bool wide) : wide_(wide) {}
  bool wide_;
};

// Receives one dump or pre-dump of CRIU.
struct PageServerJob {
  int socket = -1;  // borrowed; a connected stream socket, CRIU has the other end
  CriuVersion version;
  // Is an earlier content of this space known, so that unchanged pages need not be sent? Must
  // answer the same throughout one job.
  std::function<bool(const AddressSpace&)> has_parent;
  // Pages of a space, in order, that CRIU may send other than they are: whatever it says of them,
  // they are listed as unchanged and told apart, to be read elsewhere. Asked when it opens the
  // space; may be null.
  std::function<absl::StatusOr<std::vector<PageRun>>(const AddressSpace&)> distrusted;
  Deadline deadline = Deadline::Never();
};

struct PageServerResult {
  std::set<AddressSpace> opened;    // what CRIU told of
  RoundReport report;               // elapsed and paused are left to the caller
  FinalList list;                   // in CRIU's order
  std::vector<PageRun> distrusted;  // of that list
};

// Serves until CRIU closes the stream and every page has been put to the sink; does not flush. A
// sink that fails is not CRIU's fault: its bytes are read to the end and thrown away, and CRIU is
// told at the close, so that it cleans up and lets the tree go on; the same where the job's
// `distrusted` fails.
// Errors: the sink's and `distrusted`'s; kDataLoss when the stream ends early; kInvalidArgument for
// malformed messages (the stream is not read any further); kDeadlineExceeded.
absl::StatusOr<PageServerResult> ServePages(const PageServerJob& job, PageSink& sink);

}  // namespace starling::checkpoint
