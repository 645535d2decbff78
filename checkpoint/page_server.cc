#include "checkpoint/page_server.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "checkpoint/criu_images.h"
#include "checkpoint/zero_page.h"

namespace starling::checkpoint {
namespace {

// Commands of CRIU from 3.11 on. Older ones (without flags) and those of its lazy pages (GET) have
// no place here.
constexpr uint32_t kOpen2 = 4;
constexpr uint32_t kParent = 5;
constexpr uint32_t kAddWithFlags = 6;
constexpr uint32_t kCloseCommand = 0x1023;
constexpr uint32_t kForceClose = 0x1024;

constexpr uint64_t kTypeProcess = 1;
constexpr uint64_t kTypeSharedMemory = 2;

// Linux's PID_MAX_LIMIT; 57-bit addresses are x86's five-level paging, more than any Linux has.
constexpr uint64_t kMaxPid = 1u << 22;
constexpr uint64_t kMaxAddress = uint64_t{1} << 57;

uint64_t LittleEndian(const std::byte* bytes, size_t size) {
  uint64_t value = 0;
  for (size_t i = size; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

absl::StatusOr<AddressSpace> DecodeDestination(uint64_t destination) {
  AddressSpace space;
  space.id = destination >> 8;
  switch (destination & 0xff) {
    case kTypeProcess:
      space.kind = AddressSpace::Kind::kProcess;
      if (space.id == 0 || space.id > kMaxPid) {
        return absl::InvalidArgumentError(
            absl::StrCat("page server message for pid ", space.id, ", which no process has"));
      }
      return space;
    case kTypeSharedMemory:
      space.kind = AddressSpace::Kind::kSharedMemory;
      return space;
    default:
      return absl::InvalidArgumentError(absl::StrFormat(
          "page server message for an unknown kind of memory (destination %#x)", destination));
  }
}

}  // namespace

absl::StatusOr<PageServerParser> PageServerParser::For(const CriuVersion& version) {
  if (version < CriuVersion{3, 11, 0} || version.major > 4) {
    return absl::UnimplementedError(absl::StrCat("the page server's messages of CRIU ",
                                                 FormatCriuVersion(version),
                                                 " are not known; 3.11 to 4 are"));
  }
  return PageServerParser(version >= CriuVersion{4, 2, 0});
}

absl::StatusOr<PageServerMessage> PageServerParser::Parse(std::span<const std::byte> bytes) const {
  if (bytes.size() != message_size()) {
    return absl::InvalidArgumentError(absl::StrCat("page server message of ", bytes.size(),
                                                   " bytes instead of ", message_size()));
  }
  const uint32_t word = static_cast<uint32_t>(LittleEndian(bytes.data(), 4));
  const uint32_t command = word & 0xffff;
  const uint32_t flags = word >> 16;
  const uint64_t pages =
      wide_ ? LittleEndian(bytes.data() + 8, 8) : LittleEndian(bytes.data() + 4, 4);
  const uint64_t address = LittleEndian(bytes.data() + (wide_ ? 16 : 8), 8);
  const uint64_t destination = LittleEndian(bytes.data() + (wide_ ? 24 : 16), 8);

  PageServerMessage message;
  switch (command) {
    case kCloseCommand:
    case kForceClose:
      message.kind = PageServerMessage::Kind::kClose;
      return message;
    case kOpen2:
      message.kind = PageServerMessage::Kind::kOpen;
      break;
    case kParent:
      message.kind = PageServerMessage::Kind::kAskParent;
      break;
    case kAddWithFlags:
      if (flags == kPagePresent || flags == (kPagePresent | kPageLazy)) {
        message.kind = PageServerMessage::Kind::kPages;
      } else if (flags == kPageParent) {
        message.kind = PageServerMessage::Kind::kHole;
      } else {
        return absl::InvalidArgumentError(
            absl::StrFormat("page server message with unknown flags %#x", flags));
      }
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrFormat("page server message with unknown command %#x", command));
  }
  ASSIGN_OR_RETURN(message.run.space, DecodeDestination(destination));
  if (command != kAddWithFlags) return message;
  if (address % kPageSize != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("page server message for address %#x, which is no page's", address));
  }
  if (pages == 0 || address >= kMaxAddress || pages > (kMaxAddress - address) / kPageSize) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "page server message for %u pages from %#x on: no such range can be", pages, address));
  }
  message.run.address = address;
  message.run.pages = pages;
  return message;
}

namespace {

// Longest piece read at once while bytes are thrown away.
constexpr size_t kDrainPages = 64;

class Server {
 public:
  Server(const PageServerJob& job, const PageServerParser& parser, PageSink& sink)
      : job_(job), parser_(parser), sink_(sink) {}

  absl::StatusOr<PageServerResult> Serve();

 private:
  // False: the stream ended before the first byte, which is only in order where nothing is owed.
  absl::StatusOr<bool> Receive(std::byte* data, size_t size);
  absl::Status Answer(uint32_t value, size_t size);
  // Until the socket is ready for `events`, or the deadline: `late` is what the error then says.
  absl::Status Await(short events, std::string_view late);
  absl::Status Open(const AddressSpace& space);
  // Pages that CRIU has announced; `sent` when their bytes follow.
  absl::Status Take(const PageRun& run, bool sent);
  absl::Status TakeTrusted(const PageRun& run, bool sent);
  absl::Status ReceivePages(const PageRun& run);
  absl::Status ReceiveInto(std::span<std::byte> room, const PageRun& run);
  absl::Status Drain(uint64_t pages);
  void Add(const PageRun& run, bool in_arena_before);

  const PageServerJob& job_;
  const PageServerParser& parser_;
  PageSink& sink_;
  absl::Status sink_status_;
  std::optional<AddressSpace> open_;
  bool listed_ = false;              // the open space has an entry in the list
  std::vector<PageRun> distrusted_;  // pages of the open space
  PageServerResult result_;
  std::unique_ptr<std::byte[]> drain_;
};

absl::StatusOr<bool> Server::Receive(std::byte* data, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = ::recv(job_.socket, data + done, size - done, MSG_DONTWAIT);
    if (got > 0) {
      done += static_cast<size_t>(got);
      continue;
    }
    if (got == 0) {
      if (done == 0) return false;
      return absl::DataLossError("CRIU's page stream ended inside a message");
    }
    if (errno == EINTR) continue;
    if (errno == ECONNRESET) return absl::DataLossError("CRIU's page stream was cut");
    if (errno != EAGAIN && errno != EWOULDBLOCK) return ErrnoStatus("receive pages from CRIU");
    RETURN_IF_ERROR(Await(POLLIN, "CRIU did not send its pages in time"));
  }
  return true;
}

absl::Status Server::Await(short events, std::string_view late) {
  pollfd event{job_.socket, events, 0};
  const int ready = ::poll(&event, 1, static_cast<int>(job_.deadline.Left().count()));
  if (ready < 0 && errno != EINTR) return ErrnoStatus("wait for CRIU's page stream");
  if (ready == 0 && job_.deadline.Passed()) return absl::DeadlineExceededError(std::string(late));
  return absl::OkStatus();
}

absl::Status Server::Answer(uint32_t value, size_t size) {
  char bytes[4];
  for (size_t i = 0; i < sizeof(bytes); ++i) bytes[i] = static_cast<char>(value >> (8 * i));
  size_t done = 0;
  while (done < size) {
    const ssize_t sent =
        ::send(job_.socket, bytes + done, size - done, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      done += static_cast<size_t>(sent);
      continue;
    }
    if (sent < 0 && errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return ErrnoStatus("answer CRIU's page stream");
    RETURN_IF_ERROR(Await(POLLOUT, "CRIU did not take the answers to its page stream in time"));
  }
  return absl::OkStatus();
}

void Server::Add(const PageRun& run, bool in_arena_before) {
  listed_ = true;
  if (!result_.list.entries.empty()) {
    FinalList::Entry& last = result_.list.entries.back();
    if (last.in_arena_before == in_arena_before && last.run.space == run.space &&
        last.run.address + last.run.pages * kPageSize == run.address) {
      last.run.pages += run.pages;
      return;
    }
  }
  result_.list.entries.push_back({run, in_arena_before});
}

absl::Status Server::Drain(uint64_t pages) {
  if (!drain_) drain_ = std::make_unique<std::byte[]>(kDrainPages * kPageSize);
  while (pages > 0) {
    const uint64_t count = std::min<uint64_t>(pages, kDrainPages);
    ASSIGN_OR_RETURN(const bool whole, Receive(drain_.get(), count * kPageSize));
    if (!whole) return absl::DataLossError("CRIU's page stream ended among pages");
    pages -= count;
  }
  return absl::OkStatus();
}

absl::Status Server::ReceiveInto(std::span<std::byte> room, const PageRun& run) {
  absl::StatusOr<bool> whole = Receive(room.data(), room.size());
  if (!whole.ok() || !*whole) {
    sink_.Discard();
    if (!whole.ok()) return whole.status();
    return absl::DataLossError("CRIU's page stream ended among pages");
  }
  if (AllZero(room)) {
    sink_.Discard();
    sink_status_ = sink_.PutZero(run);
    result_.report.pages_zero += run.pages;
  } else {
    sink_status_ = sink_.Put(run);
    result_.report.pages_sent += run.pages;
  }
  return absl::OkStatus();
}

// The returned status is the stream's; the sink's goes to sink_status_.
absl::Status Server::ReceivePages(const PageRun& run) {
  uint64_t done = 0;
  while (done < run.pages) {
    if (!sink_status_.ok()) return Drain(run.pages - done);
    const uint64_t left = run.pages - done;
    absl::StatusOr<std::span<std::byte>> room = sink_.Acquire(left);
    if (room.ok() && (room->size() < kPageSize || room->size() % kPageSize != 0 ||
                      room->size() / kPageSize > left)) {
      sink_.Discard();
      room = absl::InternalError(
          absl::StrCat("a sink gave room of ", room->size(), " bytes for ", left, " pages"));
    }
    if (!room.ok()) {
      sink_status_ = room.status();
      continue;
    }
    const uint64_t count = room->size() / kPageSize;
    RETURN_IF_ERROR(ReceiveInto(*room, {run.space, run.address + done * kPageSize, count}));
    done += count;
  }
  return absl::OkStatus();
}

absl::Status Server::Open(const AddressSpace& space) {
  open_ = space;
  listed_ = false;
  result_.opened.insert(space);
  distrusted_.clear();
  if (job_.distrusted && sink_status_.ok()) {
    auto distrusted = job_.distrusted(space);
    if (distrusted.ok()) {
      distrusted_ = *std::move(distrusted);
    } else {
      sink_status_ = distrusted.status();
    }
  }
  return Answer(job_.has_parent(space) ? 1 : 0, 1);
}

absl::Status Server::TakeTrusted(const PageRun& run, bool sent) {
  if (run.pages == 0) return absl::OkStatus();
  if (sent) {
    RETURN_IF_ERROR(ReceivePages(run));
  } else {
    result_.report.pages_unchanged += run.pages;
  }
  Add(run, !sent);
  return absl::OkStatus();
}

absl::Status Server::Take(const PageRun& run, bool sent) {
  if (open_ != run.space) {
    return absl::InvalidArgumentError("CRIU sent pages of memory that it had not opened");
  }
  if (!sent && !job_.has_parent(run.space)) {
    return absl::InvalidArgumentError(
        "CRIU left pages out of memory of which nothing is known from before");
  }
  const uint64_t end = run.address + run.pages * kPageSize;
  uint64_t at = run.address;
  for (const PageRun& page : distrusted_) {
    if (page.address < at || page.address >= end) continue;
    RETURN_IF_ERROR(TakeTrusted({run.space, at, (page.address - at) / kPageSize}, sent));
    if (sent) RETURN_IF_ERROR(Drain(1));
    result_.report.pages_unchanged += 1;
    Add(page, true);
    result_.distrusted.push_back(page);
    at = page.address + kPageSize;
  }
  return TakeTrusted({run.space, at, (end - at) / kPageSize}, sent);
}

absl::StatusOr<PageServerResult> Server::Serve() {
  std::array<std::byte, PageServerParser::kMaxMessage> buffer;
  while (true) {
    ASSIGN_OR_RETURN(const bool whole, Receive(buffer.data(), parser_.message_size()));
    if (!whole) return absl::DataLossError("CRIU ended its page stream without closing it");
    ASSIGN_OR_RETURN(const PageServerMessage message,
                     parser_.Parse(std::span(buffer).first(parser_.message_size())));
    const bool end_of_space = message.kind == PageServerMessage::Kind::kOpen ||
                              message.kind == PageServerMessage::Kind::kClose;
    if (end_of_space && open_ && !listed_) {
      result_.list.entries.push_back({PageRun{*open_, 0, 0}, false});
    }
    switch (message.kind) {
      case PageServerMessage::Kind::kOpen:
        RETURN_IF_ERROR(Open(message.run.space));
        break;
      case PageServerMessage::Kind::kAskParent:
        RETURN_IF_ERROR(Answer(job_.has_parent(message.run.space) ? 1 : 0, 4));
        break;
      case PageServerMessage::Kind::kPages:
      case PageServerMessage::Kind::kHole:
        RETURN_IF_ERROR(
            Take(message.run, /*sent=*/message.kind == PageServerMessage::Kind::kPages));
        break;
      case PageServerMessage::Kind::kClose:
        RETURN_IF_ERROR(Answer(sink_status_.ok() ? 0 : ~0u, 4));
        if (!sink_status_.ok()) return sink_status_;
        return std::move(result_);
    }
  }
}

}  // namespace

absl::StatusOr<PageServerResult> ServePages(const PageServerJob& job, PageSink& sink) {
  ASSIGN_OR_RETURN(const PageServerParser parser, PageServerParser::For(job.version));
  return Server(job, parser, sink).Serve();
}

}  // namespace starling::checkpoint
