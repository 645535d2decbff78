#include "predictor/model_codec.h"

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "predictor/forecaster_extras.h"

namespace starling::predictor {
namespace {

constexpr char kMagic[4] = {'S', 'T', 'P', 'M'};
constexpr uint16_t kHasExtras = 1;

struct Header {
  char magic[4];
  uint16_t version;
  uint16_t flags;
  uint32_t experts;
  uint32_t state_size;
  double step_s;
  uint32_t extras_size;
  uint32_t reserved;
};
static_assert(sizeof(Header) == 32);

uint64_t Checksum(absl::string_view bytes) {
  uint64_t hash = 14695981039346656037ull;
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211ull;
  return hash;
}

}  // namespace

std::string ModelCodec::Save(const Forecaster& forecaster) {
  static_assert(std::is_trivially_copyable_v<Forecaster::State>);
  static_assert(std::is_trivially_copyable_v<ForecasterExtras>);
  Header header = {};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.experts = forecaster.options_.experts;
  header.step_s = forecaster.options_.step_s;
  header.state_size = sizeof(Forecaster::State);
  if (forecaster.extras_ != nullptr) {
    header.flags = kHasExtras;
    header.extras_size = sizeof(ForecasterExtras);
  }
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  bytes.append(reinterpret_cast<const char*>(&forecaster.state_), sizeof(forecaster.state_));
  if (forecaster.extras_ != nullptr) {
    bytes.append(reinterpret_cast<const char*>(forecaster.extras_.get()), sizeof(ForecasterExtras));
  }
  const uint64_t checksum = Checksum(bytes);
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  return bytes;
}

absl::StatusOr<Forecaster> ModelCodec::Load(absl::string_view bytes, const GruNet* net) {
  Header header;
  uint64_t checksum = 0;
  if (bytes.size() < sizeof(header) + sizeof(checksum)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a model of ", bytes.size(), " bytes is cut off"));
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return absl::InvalidArgumentError("not a model: it does not begin with STPM");
  }
  if (header.version != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("a model of version ", header.version, "; this is version ", kVersion));
  }
  const bool extras = (header.flags & kHasExtras) != 0;
  if (header.state_size != sizeof(Forecaster::State) ||
      header.extras_size != (extras ? sizeof(ForecasterExtras) : 0)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a model laid out by another build: ", header.state_size, " and ", header.extras_size,
        " bytes, here ", sizeof(Forecaster::State), " and ", sizeof(ForecasterExtras)));
  }
  const size_t size = sizeof(header) + header.state_size + header.extras_size;
  if (bytes.size() != size + sizeof(checksum)) {
    return absl::InvalidArgumentError(absl::StrCat("a model of ", bytes.size(), " bytes, not the ",
                                                   size + sizeof(checksum), " it says"));
  }
  std::memcpy(&checksum, bytes.data() + size, sizeof(checksum));
  if (checksum != Checksum(bytes.substr(0, size))) {
    return absl::InvalidArgumentError("a damaged model: its checksum differs");
  }
  if (!(header.step_s > 0) || !std::isfinite(header.step_s) ||
      (header.experts & ~kAllExperts) != 0) {
    return absl::InvalidArgumentError("a model with options that none has");
  }
  ForecasterOptions options;
  options.step_s = header.step_s;
  options.experts = header.experts;
  options.net = net;
  Forecaster forecaster(options);
  std::memcpy(static_cast<void*>(&forecaster.state_), bytes.data() + sizeof(header),
              header.state_size);
  if (extras && forecaster.extras_ != nullptr) {
    std::memcpy(static_cast<void*>(forecaster.extras_.get()),
                bytes.data() + sizeof(header) + header.state_size, header.extras_size);
    if (!forecaster.extras_->Valid()) {
      return absl::InvalidArgumentError("a model whose experts hold no numbers");
    }
  }
  if (!forecaster.Valid()) {
    return absl::InvalidArgumentError("a model that holds what no forecaster can");
  }
  return forecaster;
}

}  // namespace starling::predictor
