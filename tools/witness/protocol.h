#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace starling::witness {

// One answer of the server, as far as the witness tells answers apart.
struct Answer {
  enum class Kind {
    kIncomplete,  // more bytes are needed
    kStored,
    kValue,
    kMissing,
    kRefused,  // the server said no, and why: `payload`
  };
  Kind kind = Kind::kIncomplete;
  absl::string_view payload;  // points into the parsed bytes
  size_t consumed = 0;        // bytes of this answer; 0 if incomplete
};

// Speaks one request/response protocol in which answers come in the order of the requests.
// Stateless.
class Protocol {
 public:
  virtual ~Protocol() = default;

  virtual absl::string_view name() const = 0;
  virtual bool can_write() const { return true; }
  virtual void AppendWrite(uint32_t key, absl::string_view value, std::string* out) const = 0;
  virtual void AppendRead(uint32_t key, std::string* out) const = 0;
  // Parses the first answer in `bytes`. kInvalidArgument: these bytes are not of this protocol.
  virtual absl::StatusOr<Answer> Parse(absl::string_view bytes) const = 0;
};

// SET and GET of the keys "k:00000000" and so on. Also spoken by the workload programs of the
// tests.
std::unique_ptr<Protocol> MakeRedis();

// set and get of the text protocol, same keys.
std::unique_ptr<Protocol> MakeMemcached();

// GET of "/k00000000" and so on over one kept connection; read only. Files: see WriteSite() in
// site.h.
std::unique_ptr<Protocol> MakeHttp(std::string host);

// The name under which a key's value is served over HTTP, without the leading slash.
std::string FileName(uint32_t key);

}  // namespace starling::witness
