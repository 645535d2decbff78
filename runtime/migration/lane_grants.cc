#include "runtime/migration/lane_grants.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace starling::migration {
namespace {

static_assert(std::endian::native == std::endian::little, "the wire format is written with memcpy");

constexpr uint32_t kRequestMagic = 0x31525453;  // "STR1"
constexpr uint32_t kGrantsMagic = 0x31475453;   // "STG1"
constexpr uint32_t kRingFlag = 1;

struct WireRequest {
  uint32_t magic;
  uint32_t flags;
  uint32_t first_chunk;
  uint32_t chunks;
};
static_assert(sizeof(WireRequest) == 16);

struct GrantsHeader {
  uint32_t magic;
  uint32_t flags;
  uint32_t first_chunk;
  uint32_t chunks;
};
static_assert(sizeof(GrantsHeader) == 16);

struct WireGranted {
  uint64_t address;
  uint32_t key;
  uint32_t reserved;
};
static_assert(sizeof(WireGranted) == 16);

absl::Status Malformed(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("malformed message on the data connection: ", what));
}

bool Begins(absl::string_view bytes, uint32_t magic) {
  return bytes.size() >= sizeof(magic) && std::memcmp(bytes.data(), &magic, sizeof(magic)) == 0;
}

}  // namespace

std::string EncodeGrantRequest(const GrantRequest& request) {
  const WireRequest wire = {kRequestMagic, request.ring ? kRingFlag : 0, request.first_chunk,
                            request.chunks};
  return std::string(reinterpret_cast<const char*>(&wire), sizeof(wire));
}

bool IsGrantRequest(absl::string_view bytes) { return Begins(bytes, kRequestMagic); }

absl::StatusOr<GrantRequest> DecodeGrantRequest(absl::string_view bytes) {
  WireRequest wire;
  if (bytes.size() != sizeof(wire)) return Malformed("a request for grants of another length");
  std::memcpy(&wire, bytes.data(), sizeof(wire));
  if (wire.magic != kRequestMagic) return Malformed("not a request for grants");
  if ((wire.flags & ~kRingFlag) != 0) return Malformed("unknown flags in a request for grants");
  if (wire.chunks > kMaxGrantedChunks || wire.first_chunk > UINT32_MAX - wire.chunks)
    return Malformed("a request for too many grants");
  return GrantRequest{(wire.flags & kRingFlag) != 0, wire.first_chunk, wire.chunks};
}

std::string EncodeGrants(const Grants& grants) {
  const GrantsHeader header = {kGrantsMagic, grants.ring.empty() ? 0 : kRingFlag,
                               grants.first_chunk, static_cast<uint32_t>(grants.chunks.size())};
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  const auto append = [&bytes](const Granted& granted) {
    const WireGranted wire = {granted.address, granted.key, 0};
    bytes.append(reinterpret_cast<const char*>(&wire), sizeof(wire));
  };
  for (const Granted& granted : grants.ring) append(granted);
  for (const Granted& granted : grants.chunks) append(granted);
  return bytes;
}

bool IsGrants(absl::string_view bytes) { return Begins(bytes, kGrantsMagic); }

absl::StatusOr<Grants> DecodeGrants(absl::string_view bytes) {
  GrantsHeader header;
  if (bytes.size() < sizeof(header)) return Malformed("too short for grants");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kGrantsMagic) return Malformed("not grants");
  if ((header.flags & ~kRingFlag) != 0) return Malformed("unknown flags in grants");
  if (header.chunks > kMaxGrantedChunks || header.first_chunk > UINT32_MAX - header.chunks)
    return Malformed("too many grants");
  const size_t rings = (header.flags & kRingFlag) != 0 ? 1 : 0;
  const size_t all = rings + header.chunks;
  if (bytes.size() != sizeof(header) + all * sizeof(WireGranted))
    return Malformed("grants of another length than they say");
  Grants grants;
  grants.first_chunk = header.first_chunk;
  for (size_t i = 0; i < all; ++i) {
    WireGranted wire;
    std::memcpy(&wire, bytes.data() + sizeof(header) + i * sizeof(wire), sizeof(wire));
    if (wire.reserved != 0) return Malformed("unknown fields in grants");
    (i < rings ? grants.ring : grants.chunks).push_back({wire.address, wire.key});
  }
  return grants;
}

}  // namespace starling::migration
