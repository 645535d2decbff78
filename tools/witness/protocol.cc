#include "tools/witness/protocol.h"

#include <charconv>
#include <cstdio>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace starling::witness {
namespace {

constexpr absl::string_view kEndOfLine = "\r\n";
constexpr size_t kLongestLine = 64 << 10;
constexpr size_t kLargestValue = 512 << 20;  // as Redis has it

std::string KeyName(uint32_t key) {
  char name[16];
  std::snprintf(name, sizeof name, "k:%08u", key);
  return name;
}

absl::Status NotThisProtocol(absl::string_view protocol, absl::string_view bytes) {
  return absl::InvalidArgumentError(absl::StrCat("the server's answer is not ", protocol, ": \"",
                                                 absl::CEscape(bytes.substr(0, 60)), "\""));
}

std::optional<size_t> ParseSize(absl::string_view text) {
  size_t size = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
  if (error != std::errc() || end != text.data() + text.size() || size > kLargestValue) {
    return std::nullopt;
  }
  return size;
}

// The first line without its end; nothing if there is none yet.
std::optional<absl::string_view> FirstLine(absl::string_view bytes) {
  const size_t end = bytes.find(kEndOfLine);
  if (end == absl::string_view::npos) return std::nullopt;
  return bytes.substr(0, end);
}

class Redis : public Protocol {
 public:
  absl::string_view name() const override { return "redis"; }

  void AppendWrite(uint32_t key, absl::string_view value, std::string* out) const override {
    const std::string name = KeyName(key);
    absl::StrAppend(out, "*3\r\n$3\r\nSET\r\n$", name.size(), "\r\n", name, "\r\n$", value.size(),
                    "\r\n", value, "\r\n");
  }

  void AppendRead(uint32_t key, std::string* out) const override {
    const std::string name = KeyName(key);
    absl::StrAppend(out, "*2\r\n$3\r\nGET\r\n$", name.size(), "\r\n", name, "\r\n");
  }

  absl::StatusOr<Answer> Parse(absl::string_view bytes) const override {
    const std::optional<absl::string_view> line = FirstLine(bytes);
    if (!line.has_value()) {
      if (bytes.size() > kLongestLine) return NotThisProtocol(name(), bytes);
      return Answer{};
    }
    const size_t line_size = line->size() + kEndOfLine.size();
    if (*line == "+OK") return Answer{Answer::Kind::kStored, {}, line_size};
    if (*line == "$-1") return Answer{Answer::Kind::kMissing, {}, line_size};
    if (absl::StartsWith(*line, "-")) {
      return Answer{Answer::Kind::kRefused, line->substr(1), line_size};
    }
    const std::optional<size_t> size =
        absl::StartsWith(*line, "$") ? ParseSize(line->substr(1)) : std::nullopt;
    if (!size.has_value()) return NotThisProtocol(name(), bytes);
    const size_t whole = line_size + *size + kEndOfLine.size();
    if (bytes.size() < whole) return Answer{};
    return Answer{Answer::Kind::kValue, bytes.substr(line_size, *size), whole};
  }
};

class Memcached : public Protocol {
 public:
  absl::string_view name() const override { return "memcached"; }

  void AppendWrite(uint32_t key, absl::string_view value, std::string* out) const override {
    absl::StrAppend(out, "set ", KeyName(key), " 0 0 ", value.size(), "\r\n", value, "\r\n");
  }

  void AppendRead(uint32_t key, std::string* out) const override {
    absl::StrAppend(out, "get ", KeyName(key), "\r\n");
  }

  absl::StatusOr<Answer> Parse(absl::string_view bytes) const override {
    const std::optional<absl::string_view> line = FirstLine(bytes);
    if (!line.has_value()) {
      if (bytes.size() > kLongestLine) return NotThisProtocol(name(), bytes);
      return Answer{};
    }
    const size_t line_size = line->size() + kEndOfLine.size();
    if (*line == "STORED") return Answer{Answer::Kind::kStored, {}, line_size};
    if (*line == "END") return Answer{Answer::Kind::kMissing, {}, line_size};
    if (absl::StrContains(*line, "ERROR") || *line == "NOT_STORED") {
      return Answer{Answer::Kind::kRefused, *line, line_size};
    }
    // "VALUE key flags bytes"
    const size_t last_word = line->rfind(' ');
    const std::optional<size_t> size =
        absl::StartsWith(*line, "VALUE ") ? ParseSize(line->substr(last_word + 1)) : std::nullopt;
    if (!size.has_value()) return NotThisProtocol(name(), bytes);
    constexpr absl::string_view kTail = "\r\nEND\r\n";
    const size_t whole = line_size + *size + kTail.size();
    if (bytes.size() < whole) return Answer{};
    if (bytes.substr(line_size + *size, kTail.size()) != kTail) {
      return NotThisProtocol(name(), bytes);
    }
    return Answer{Answer::Kind::kValue, bytes.substr(line_size, *size), whole};
  }
};

class Http : public Protocol {
 public:
  explicit Http(std::string host) : host_(std::move(host)) {}

  absl::string_view name() const override { return "http"; }
  bool can_write() const override { return false; }
  void AppendWrite(uint32_t, absl::string_view, std::string*) const override {}

  void AppendRead(uint32_t key, std::string* out) const override {
    absl::StrAppend(out, "GET /", FileName(key), " HTTP/1.1\r\nHost: ", host_, "\r\n\r\n");
  }

  absl::StatusOr<Answer> Parse(absl::string_view bytes) const override {
    constexpr absl::string_view kEndOfHead = "\r\n\r\n";
    const size_t end = bytes.find(kEndOfHead);
    if (end == absl::string_view::npos) {
      if (bytes.size() > kLongestLine) return NotThisProtocol(name(), bytes);
      return Answer{};
    }
    absl::string_view head = bytes.substr(0, end + kEndOfLine.size());
    const absl::string_view status_line = *FirstLine(head);
    if (!absl::StartsWith(status_line, "HTTP/1.1 ") || status_line.size() < 12) {
      return NotThisProtocol(name(), bytes);
    }
    const absl::string_view status = status_line.substr(9, 3);
    std::optional<size_t> size;
    for (head.remove_prefix(status_line.size() + kEndOfLine.size()); !head.empty();) {
      const absl::string_view line = *FirstLine(head);
      head.remove_prefix(line.size() + kEndOfLine.size());
      const size_t colon = line.find(':');
      if (colon == absl::string_view::npos) return NotThisProtocol(name(), bytes);
      if (absl::EqualsIgnoreCase(line.substr(0, colon), "content-length")) {
        size = ParseSize(absl::StripAsciiWhitespace(line.substr(colon + 1)));
      }
    }
    // Files served from disk always tell their length; anything else is not what was asked for.
    if (!size.has_value()) return NotThisProtocol("http with a content length", bytes);
    const size_t head_size = end + kEndOfHead.size();
    const size_t whole = head_size + *size;
    if (bytes.size() < whole) return Answer{};
    if (status == "200") return Answer{Answer::Kind::kValue, bytes.substr(head_size, *size), whole};
    if (status == "404") return Answer{Answer::Kind::kMissing, {}, whole};
    return Answer{Answer::Kind::kRefused, status_line, whole};
  }

 private:
  std::string host_;
};

}  // namespace

std::unique_ptr<Protocol> MakeRedis() { return std::make_unique<Redis>(); }
std::unique_ptr<Protocol> MakeMemcached() { return std::make_unique<Memcached>(); }
std::unique_ptr<Protocol> MakeHttp(std::string host) {
  return std::make_unique<Http>(std::move(host));
}

std::string FileName(uint32_t key) {
  char name[16];
  std::snprintf(name, sizeof name, "k%08u", key);
  return name;
}

}  // namespace starling::witness
