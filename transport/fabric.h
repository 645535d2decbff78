#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"

// The one interface of all providers of a fabric: connections that carry messages and write into
// memory that the peer granted. Setup answers with a status that names device, queue pair and both
// addresses; every wait has a deadline of its own, since the fabric's retries may go on for ever.

namespace starling::transport {

// A receiver's buffers hold this much, our header of 8 bytes included; Send() refuses larger
// messages.
inline constexpr size_t kMaxMessageBytes = 8 * 1024;
// What a connection request can show of its caller before it is accepted.
inline constexpr size_t kMaxPrivateData = 48;

// What a peer may do with a region. kWindow: nothing, but Connection::Grant() gives it leave to
// write or to read.
enum class Access { kLocal, kRemoteWrite, kRemoteRead, kWindow };

// Memory registered with a device. The memory itself is the caller's and must outlive this;
// registered memory is pinned, so that giving it back takes effect only after this has gone. Not to
// be destroyed while a connection of this side still reads from it; what a peer writes after it has
// gone is refused and ends the peer's connection.
class MemoryRegion {
 public:
  virtual ~MemoryRegion() = default;
  virtual std::span<std::byte> span() const = 0;
  // What a peer names in Write(): the address of the first byte and the key.
  virtual uint64_t remote_address() const = 0;
  virtual uint32_t remote_key() const = 0;
  // What this side's own work requests name.
  virtual uint32_t local_key() const = 0;
};

// A reliable connection. Writes and messages are carried out in the order in which they were
// posted: when a message arrives, everything written before it has been placed. One thread at a
// time uses a connection, but Shutdown() and bytes_sent() may be called from any. After an error
// every call answers with the first one, except that a passed deadline, a message too large and
// bytes outside a region leave the connection as it was, and that messages which arrived before the
// error are still received. A peer that vanishes without a word while nothing is under way to it is
// noticed only by the deadline of whoever waits.
class Connection {
 public:
  virtual ~Connection() = default;

  // Writes local.span()[offset, offset + bytes) to the peer's memory. Returns when it is queued;
  // the bytes must stay as they are until a Send() made later has completed. Writes may wait for
  // each other and go out as one, at the latest with the next call of Send(), Read() or
  // WaitCompleted(). Waits for room in the send queue until `deadline`. After kDeadlineExceeded
  // some of them may be queued; to write them again does no harm. kOutOfRange, with nothing
  // changed, for bytes outside the region; memory outside the peer's grant ends the connection.
  virtual absl::Status Write(const MemoryRegion& local, size_t offset, size_t bytes,
                             uint64_t remote_address, uint32_t remote_key, Deadline deadline) = 0;

  // Reads from the peer's memory into local.span()[offset, ...); returns when the bytes are there.
  virtual absl::Status Read(const MemoryRegion& local, size_t offset, size_t bytes,
                            uint64_t remote_address, uint32_t remote_key, Deadline deadline) = 0;

  // Lets this connection's peer, and nobody else, write to (kRemoteWrite) or read (kRemoteRead) all
  // of `region`, which was registered as Access::kWindow: a memory window, whose key is returned.
  // It ends with the connection, which goes before the region. kUnimplemented where
  // Fabric::windows() is false; what fails before the window is bound leaves the connection as it
  // was.
  virtual absl::StatusOr<uint32_t> Grant(const MemoryRegion& region, Access access,
                                         Deadline deadline) {
    (void)region;
    (void)access;
    (void)deadline;
    return absl::UnimplementedError(
        absl::StrCat(description(), ": this transport has no memory windows"));
  }

  // Sends a copy of `message`, waiting until the peer has room for it. Returns its number: 1, 2, 3,
  // ...
  virtual absl::StatusOr<uint64_t> Send(absl::string_view message, Deadline deadline) = 0;

  // Number of the last message that, with all that was posted before it, has been carried out.
  virtual uint64_t completed() const = 0;
  // Waits until completed() is at least `number`.
  virtual absl::Status WaitCompleted(uint64_t number, Deadline deadline) = 0;

  // The next message. kUnavailable once the peer has gone.
  virtual absl::StatusOr<std::string> Receive(Deadline deadline) = 0;

  // Of one that has failed: whether that was for what the peer asked, as for memory that it was not
  // granted. A device that fails by itself may look the same.
  virtual bool refused_peer() const { return false; }

  // Ends every wait with kCancelled, now and from here on.
  virtual void Shutdown() = 0;

  // Bytes handed to the fabric, without its own headers.
  virtual uint64_t bytes_sent() const = 0;
  // "10.77.0.1:40100 -> 10.77.0.2:7401 (rxe0, queue pair 17)"
  virtual const std::string& description() const = 0;
};

// A peer that asks to be connected. Dropping it refuses.
class Incoming {
 public:
  virtual ~Incoming() = default;
  // What the peer showed, with zeros behind it where the fabric sends a fixed length.
  virtual absl::string_view private_data() const = 0;
  virtual absl::StatusOr<std::unique_ptr<Connection>> Accept(Deadline deadline) = 0;
};

// Thread-compatible.
class Listener {
 public:
  virtual ~Listener() = default;
  // kDeadlineExceeded when nobody came.
  virtual absl::StatusOr<std::unique_ptr<Incoming>> Next(Deadline deadline) = 0;
};

// One provider bound to one local device. Outlives all that it makes. Thread-safe.
class Fabric {
 public:
  virtual ~Fabric() = default;
  virtual const char* name() const = 0;  // "verbs", "roce", "tcp", "fake"
  virtual const std::string& device() const = 0;
  // Whether it has memory windows: Access::kWindow and Connection::Grant().
  virtual bool windows() const { return false; }
  // The largest span that Register() takes; longer memory is cut by its owner.
  virtual uint64_t max_region_bytes() const = 0;
  virtual absl::StatusOr<std::unique_ptr<MemoryRegion>> Register(std::span<std::byte> memory,
                                                                 Access access) = 0;
  virtual absl::StatusOr<std::unique_ptr<Listener>> Listen(const std::string& address,
                                                           uint16_t port) = 0;
  // kUnavailable when nobody listens there, kPermissionDenied when the peer refuses.
  virtual absl::StatusOr<std::unique_ptr<Connection>> Connect(const std::string& address,
                                                              uint16_t port,
                                                              absl::string_view private_data,
                                                              Deadline deadline) = 0;
};

}  // namespace starling::transport
