#include "runtime/migration/batch.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace starling::migration {
namespace {

static_assert(std::endian::native == std::endian::little, "the wire format is written with memcpy");

constexpr uint32_t kBatchMagic = 0x31425453;   // "STB1"
constexpr uint32_t kAnswerMagic = 0x31415453;  // "STA1"
constexpr uint16_t kFlush = 1;
constexpr size_t kMaxError = 512;
constexpr uint64_t kMaxPages = 1u << 20;          // 4 GiB in one run: far beyond any slab
constexpr uint64_t kMaxSlot = uint64_t{1} << 40;  // 4 PiB of arena

struct BatchHeader {
  uint32_t magic;
  uint16_t flags;
  uint16_t runs;
  uint64_t sequence;
};
static_assert(sizeof(BatchHeader) == 16);

struct WireRun {
  uint64_t space_id;
  uint64_t address;
  uint64_t slot;
  uint64_t hash;
  uint32_t pages;
  uint8_t space_kind;
  uint8_t zero;
  uint16_t reserved;
};
static_assert(sizeof(WireRun) == 40);

struct AnswerHeader {
  uint32_t magic;
  uint16_t ok;
  uint16_t error_bytes;
  uint64_t sequence;
};
static_assert(sizeof(AnswerHeader) == 16);

absl::Status Malformed(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("malformed message on the data connection: ", what));
}

}  // namespace

std::string EncodeBatch(const Batch& batch) {
  BatchHeader header = {kBatchMagic, static_cast<uint16_t>(batch.flush ? kFlush : 0),
                        static_cast<uint16_t>(batch.runs.size()), batch.sequence};
  std::string bytes(sizeof(header) + batch.runs.size() * sizeof(WireRun), '\0');
  std::memcpy(bytes.data(), &header, sizeof(header));
  char* at = bytes.data() + sizeof(header);
  for (const BatchRun& run : batch.runs) {
    const WireRun wire = {run.run.space.id,
                          run.run.address,
                          run.slot,
                          run.hash,
                          static_cast<uint32_t>(run.run.pages),
                          static_cast<uint8_t>(run.run.space.kind),
                          static_cast<uint8_t>(run.zero),
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
  if ((header.flags & ~kFlush) != 0) return Malformed("unknown flags in a batch");
  if (header.runs > kMaxBatchRuns) return Malformed("too many runs in a batch");
  if (bytes.size() != sizeof(header) + header.runs * sizeof(WireRun))
    return Malformed("a batch of another length than it says");
  Batch batch;
  batch.sequence = header.sequence;
  batch.flush = (header.flags & kFlush) != 0;
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
    if (wire.zero > 1 || wire.reserved != 0) return Malformed("unknown flags in a run");
    if (wire.slot > kMaxSlot) return Malformed("a run beyond any arena");
    BatchRun run;
    run.run = {{kind, wire.space_id}, wire.address, wire.pages};
    run.zero = wire.zero == 1;
    run.slot = wire.slot;
    run.hash = wire.hash;
    batch.runs.push_back(run);
  }
  return batch;
}

std::string EncodeAnswer(const Answer& answer) {
  const absl::string_view error = absl::string_view(answer.error).substr(0, kMaxError);
  const AnswerHeader header = {kAnswerMagic, static_cast<uint16_t>(answer.ok ? 1 : 0),
                               static_cast<uint16_t>(error.size()), answer.sequence};
  std::string bytes(sizeof(header), '\0');
  std::memcpy(bytes.data(), &header, sizeof(header));
  bytes.append(error.data(), error.size());
  return bytes;
}

absl::StatusOr<Answer> DecodeAnswer(absl::string_view bytes) {
  AnswerHeader header;
  if (bytes.size() < sizeof(header)) return Malformed("too short for an answer");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kAnswerMagic) return Malformed("not an answer");
  if (header.ok > 1 || header.error_bytes > kMaxError ||
      bytes.size() != sizeof(header) + header.error_bytes) {
    return Malformed("an answer of another length than it says");
  }
  Answer answer;
  answer.sequence = header.sequence;
  answer.ok = header.ok == 1;
  answer.error.assign(bytes.data() + sizeof(header), header.error_bytes);
  return answer;
}

}  // namespace starling::migration
