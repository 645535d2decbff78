#include "runtime/migration/batch.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace starling::migration {
namespace {

static_assert(std::endian::native == std::endian::little, "the wire format is written with memcpy");

constexpr uint32_t kBatchMagic = 0x32425453;   // "STB2"
constexpr uint32_t kAnswerMagic = 0x32415453;  // "STA2"
constexpr uint16_t kAnswerFlag = 1;
constexpr size_t kMaxError = 512;
constexpr uint64_t kMaxPages = 1u << 20;          // 4 GiB in one run: far beyond any slab
constexpr uint64_t kMaxSlot = uint64_t{1} << 40;  // 4 PiB of arena

struct BatchHeader {
  uint32_t magic;
  uint16_t flags;
  uint16_t runs;
  uint64_t sequence;
  uint32_t ring_slot;
  uint32_t packed_bytes;
  uint8_t tag[16];
  uint8_t encoding;
  uint8_t reserved[7];
};
static_assert(sizeof(BatchHeader) == 48);

struct WireRun {
  uint64_t space_id;
  uint64_t address;
  uint64_t slot;
  uint64_t hash_or_from;
  uint32_t pages;
  uint8_t space_kind;
  uint8_t content;
  uint16_t reserved;
};
static_assert(sizeof(WireRun) == 40);

struct AnswerHeader {
  uint32_t magic;
  uint16_t refused;
  uint16_t error_bytes;
  uint64_t sequence;
};
static_assert(sizeof(AnswerHeader) == 16);

absl::Status Malformed(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("malformed message on the data connection: ", what));
}

}  // namespace

std::string EncodeBatch(const Batch& batch) {
  BatchHeader header = {};
  header.magic = kBatchMagic;
  header.flags = batch.answer ? kAnswerFlag : 0;
  header.runs = static_cast<uint16_t>(batch.runs.size());
  header.sequence = batch.sequence;
  header.ring_slot = batch.ring_slot;
  header.packed_bytes = batch.packed_bytes;
  std::memcpy(header.tag, batch.tag.data(), sizeof(header.tag));
  header.encoding = static_cast<uint8_t>(batch.encoding);
  std::string bytes(sizeof(header) + batch.runs.size() * sizeof(WireRun), '\0');
  std::memcpy(bytes.data(), &header, sizeof(header));
  char* at = bytes.data() + sizeof(header);
  for (const BatchRun& run : batch.runs) {
    const WireRun wire = {run.run.space.id,
                          run.run.address,
                          run.slot,
                          run.content == BatchRun::Content::kCopy ? run.from : run.hash,
                          static_cast<uint32_t>(run.run.pages),
                          static_cast<uint8_t>(run.run.space.kind),
                          static_cast<uint8_t>(run.content),
                          0};
    std::memcpy(at, &wire, sizeof(wire));
    at += sizeof(wire);
  }
  return bytes;
}

absl::StatusOr<Batch> DecodeBatch(absl::string_view bytes) {
  BatchHeader header;
  if (bytes.size() < sizeof(header)) return Malformed("too short for a batch");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kBatchMagic) return Malformed("not a batch");
  if ((header.flags & ~kAnswerFlag) != 0) return Malformed("unknown flags in a batch");
  if (header.runs > kMaxBatchRuns) return Malformed("too many runs in a batch");
  if (bytes.size() != sizeof(header) + header.runs * sizeof(WireRun))
    return Malformed("a batch of another length than it says");
  if (header.encoding > static_cast<uint8_t>(Encoding::kRingLz4))
    return Malformed("unknown encoding of a batch");
  constexpr uint8_t kNothing[sizeof(header.reserved)] = {};
  if (std::memcmp(header.reserved, kNothing, sizeof(kNothing)) != 0)
    return Malformed("unknown fields in a batch");
  Batch batch;
  batch.sequence = header.sequence;
  batch.answer = (header.flags & kAnswerFlag) != 0;
  batch.encoding = static_cast<Encoding>(header.encoding);
  batch.ring_slot = header.ring_slot;
  batch.packed_bytes = header.packed_bytes;
  std::memcpy(batch.tag.data(), header.tag, sizeof(header.tag));
  batch.runs.reserve(header.runs);
  const char* at = bytes.data() + sizeof(header);
  for (size_t i = 0; i < header.runs; ++i, at += sizeof(WireRun)) {
    WireRun wire;
    std::memcpy(&wire, at, sizeof(wire));
    using Kind = checkpoint::AddressSpace::Kind;
    const auto kind = static_cast<Kind>(wire.space_kind);
    if (kind != Kind::kProcess && kind != Kind::kSharedMemory)
      return Malformed("unknown kind of address space");
    if (wire.pages == 0 || wire.pages > kMaxPages)
      return Malformed("a run without pages or with too many");
    if (wire.address % checkpoint::kPageSize != 0 ||
        wire.address > UINT64_MAX - uint64_t{wire.pages} * checkpoint::kPageSize) {
      return Malformed("a run at an impossible address");
    }
    using Content = BatchRun::Content;
    const auto content = static_cast<Content>(wire.content);
    if (wire.content > static_cast<uint8_t>(Content::kCopy) || wire.reserved != 0)
      return Malformed("unknown content of a run");
    if (wire.slot > kMaxSlot) return Malformed("a run beyond any arena");
    if (content == Content::kCopy &&
        (wire.hash_or_from > kMaxSlot || batch.encoding != Encoding::kInPlace)) {
      return Malformed("a copy of what cannot be");
    }
    BatchRun run;
    run.run = {{kind, wire.space_id}, wire.address, wire.pages};
    run.content = content;
    run.slot = wire.slot;
    (content == Content::kCopy ? run.from : run.hash) = wire.hash_or_from;
    batch.runs.push_back(run);
  }
  return batch;
}

std::string EncodeAnswer(const Answer& answer) {
  const absl::string_view error = absl::string_view(answer.error).substr(0, kMaxError);
  const AnswerHeader header = {kAnswerMagic, static_cast<uint16_t>(answer.refused.size()),
                               static_cast<uint16_t>(error.size()), answer.sequence};
  const size_t refused_bytes = answer.refused.size() * sizeof(uint64_t);
  std::string bytes(sizeof(header) + refused_bytes, '\0');
  std::memcpy(bytes.data(), &header, sizeof(header));
  if (refused_bytes > 0) {
    std::memcpy(bytes.data() + sizeof(header), answer.refused.data(), refused_bytes);
  }
  bytes.append(error.data(), error.size());
  return bytes;
}

absl::StatusOr<Answer> DecodeAnswer(absl::string_view bytes) {
  AnswerHeader header;
  if (bytes.size() < sizeof(header)) return Malformed("too short for an answer");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kAnswerMagic) return Malformed("not an answer");
  const size_t refused_bytes = header.refused * sizeof(uint64_t);
  if (header.refused > kMaxRefused || header.error_bytes > kMaxError ||
      bytes.size() != sizeof(header) + refused_bytes + header.error_bytes) {
    return Malformed("an answer of another length than it says");
  }
  Answer answer;
  answer.sequence = header.sequence;
  answer.refused.resize(header.refused);
  if (refused_bytes > 0) {
    std::memcpy(answer.refused.data(), bytes.data() + sizeof(header), refused_bytes);
  }
  answer.error.assign(bytes.data() + sizeof(header) + refused_bytes, header.error_bytes);
  return answer;
}

}  // namespace starling::migration
