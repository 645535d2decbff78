#include "tools/witness/client.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/witness/clock.h"

namespace starling::witness {
namespace {

constexpr size_t kReadBytes = 256 << 10;

// Drops what was used up once that is worth a move of the rest.
void Compact(std::string* buffer, size_t* at) {
  if (*at < buffer->size() && *at < kReadBytes) return;
  buffer->erase(0, *at);
  *at = 0;
}

}  // namespace

Client::Client(const Protocol& protocol, Ledger& ledger, Socket connection)
    : protocol_(protocol), ledger_(ledger), connection_(std::move(connection)) {}

void Client::Write(uint32_t key, int64_t scheduled_ns, bool measured) {
  const uint64_t number = ledger_.BeginWrite(key);
  protocol_.AppendWrite(key, ledger_.Value(key, number), &out_);
  requests_.push_back({true, measured, key, number, scheduled_ns});
  if (measured) ++statistics_.writes;
}

void Client::Read(uint32_t key, int64_t scheduled_ns, bool measured) {
  protocol_.AppendRead(key, &out_);
  requests_.push_back({false, measured, key, ledger_.NewestSent(key), scheduled_ns});
  if (measured) ++statistics_.reads;
}

void Client::Pump(int64_t until_ns, const sigset_t& mask) {
  if (!broken() && unsent_bytes() > 0) Send();
  const int64_t wait_ns = std::max<int64_t>(until_ns - Now(), 0);
  const timespec wait = {wait_ns / kNsPerSecond, wait_ns % kNsPerSecond};
  // A broken connection is not polled (a negative descriptor is skipped): only time and signals end
  // the wait.
  pollfd waiting = {broken() ? -1 : connection_.fd(), POLLIN, 0};
  if (unsent_bytes() > 0) waiting.events |= POLLOUT;
  if (ppoll(&waiting, 1, &wait, &mask) <= 0) return;
  if ((waiting.revents & POLLOUT) != 0) Send();
  if (!broken() && (waiting.revents & (POLLIN | POLLHUP | POLLERR)) != 0) Receive();
}

void Client::Send() {
  while (unsent_bytes() > 0) {
    const ssize_t sent =
        send(connection_.fd(), out_.data() + out_at_, unsent_bytes(), MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) {
        const absl::Status cause = absl::ErrnoToStatus(errno, "sending");
        // What the server had answered before it broke the connection still counts.
        while (Receive()) {
        }
        error_ = cause;
      }
      break;
    }
    out_at_ += static_cast<size_t>(sent);
  }
  Compact(&out_, &out_at_);
}

bool Client::Receive() {
  const size_t size = in_.size();
  in_.resize(size + kReadBytes);
  const ssize_t received = recv(connection_.fd(), in_.data() + size, kReadBytes, 0);
  const int error = errno;
  in_.resize(size + static_cast<size_t>(std::max<ssize_t>(received, 0)));
  if (received > 0) {
    TakeAnswers();
    return !broken();
  }
  if (received == 0) {
    error_ = absl::UnavailableError("the server closed the connection");
  } else if (error != EAGAIN && error != EINTR) {
    error_ = absl::ErrnoToStatus(error, "receiving");
  }
  return false;
}

void Client::TakeAnswers() {
  const int64_t now = Now();
  while (in_at_ < in_.size()) {
    const absl::StatusOr<Answer> answer = protocol_.Parse(absl::string_view(in_).substr(in_at_));
    if (!answer.ok()) {
      error_ = answer.status();
      return;
    }
    if (answer->kind == Answer::Kind::kIncomplete) break;
    if (requests_.empty()) {
      error_ = absl::InvalidArgumentError("the server answered more than it was asked");
      return;
    }
    Enter(requests_.front(), *answer, now);
    requests_.pop_front();
    in_at_ += answer->consumed;
  }
  Compact(&in_, &in_at_);
}

void Client::Enter(const Request& request, const Answer& answer, int64_t now) {
  if (request.measured) {
    ++statistics_.answers;
    statistics_.latency.Add(now - request.scheduled_ns);
    statistics_.answer_gaps.Arrive(now, statistics_.answers);
    if (keep_replies_) {
      statistics_.replies.push_back({request.scheduled_ns, now - request.scheduled_ns});
    }
  }
  if (answer.kind == Answer::Kind::kRefused) {
    if (statistics_.refused++ == 0) statistics_.first_refusal = std::string(answer.payload);
    return;
  }
  if (request.is_write) {
    if (answer.kind == Answer::Kind::kStored) {
      ledger_.Acknowledge(request.number);
    } else {
      error_ = absl::InvalidArgumentError("the server answered a write as if it were a read");
    }
    return;
  }
  if (answer.kind == Answer::Kind::kMissing) {
    ledger_.Judge(request.key, request.number, std::nullopt);
  } else {
    // "stored" in answer to a read is a wrong value, as is one that does not belong to the key.
    ledger_.Judge(request.key, request.number, answer.payload);
  }
}

}  // namespace starling::witness
