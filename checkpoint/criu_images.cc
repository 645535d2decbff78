#include "checkpoint/criu_images.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "checkpoint/criu_images.pb.h"

namespace starling::checkpoint {
namespace {

// From CRIU's criu/include/magic.h.
constexpr uint32_t kImageMagic = 0x54564319;
constexpr uint32_t kServiceMagic = 0x55105940;
constexpr uint32_t kPagemapMagic = 0x56084025;
constexpr uint32_t kStatsMagic = 0x57093306;
constexpr uint32_t kMmMagic = 0x57492820;
constexpr uint32_t kInventoryMagic = 0x58313116;  // alone, without the image's magic before it

constexpr uint32_t kImageVersion = 2;       // CRTOOLS_IMAGES_V1_1
constexpr uint32_t kPreDumpBySplicing = 1;  // PRE_DUMP_SPLICE: leaves out no mapping

void AppendNumber(std::string& out, uint32_t number) {
  const char bytes[4] = {static_cast<char>(number), static_cast<char>(number >> 8),
                         static_cast<char>(number >> 16), static_cast<char>(number >> 24)};
  out.append(bytes, sizeof(bytes));
}

void AppendMessage(std::string& out, const google::protobuf::MessageLite& message) {
  AppendNumber(out, static_cast<uint32_t>(message.ByteSizeLong()));
  message.AppendToString(&out);
}

// Takes the parts of an image off its front.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) : bytes_(bytes) {}
  bool done() const { return bytes_.empty(); }

  bool Number(uint32_t* number) {
    if (bytes_.size() < 4) return false;
    uint32_t value = 0;
    for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes_[i]);
    *number = value;
    bytes_.remove_prefix(4);
    return true;
  }

  bool Message(google::protobuf::MessageLite* message) {
    uint32_t size;
    if (!Number(&size) || size > bytes_.size()) return false;
    if (!message->ParseFromArray(bytes_.data(), static_cast<int>(std::min<uint32_t>(
                                                    size, std::numeric_limits<int>::max())))) {
      return false;
    }
    bytes_.remove_prefix(size);
    return true;
  }

 private:
  absl::string_view bytes_;
};

absl::Status Magic(Reader& reader, uint32_t kind, uint32_t content, absl::string_view what) {
  uint32_t first, second;
  if (!reader.Number(&first) || !reader.Number(&second) || first != kind || second != content) {
    return absl::DataLossError(absl::StrCat("not a CRIU ", what, " image"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string PagemapFileName(const AddressSpace& space) {
  return absl::StrCat(space.kind == AddressSpace::Kind::kProcess ? "pagemap-" : "pagemap-shmem-",
                      space.id, ".img");
}

std::string PagesFileName(uint32_t pages_id) { return absl::StrCat("pages-", pages_id, ".img"); }

std::string EncodePagemap(const Pagemap& pagemap) {
  std::string out;
  out.reserve(16 + pagemap.entries.size() * 20);
  AppendNumber(out, kImageMagic);
  AppendNumber(out, kPagemapMagic);
  criu_images::PagemapHead head;
  head.set_pages_id(pagemap.pages_id);
  AppendMessage(out, head);
  criu_images::PagemapEntry message;
  for (const PagemapEntry& entry : pagemap.entries) {
    for (uint64_t done = 0; done < entry.pages;) {
      const uint64_t count =
          std::min<uint64_t>(entry.pages - done, std::numeric_limits<uint32_t>::max());
      message.set_vaddr(entry.address + done * kPageSize);
      message.set_nr_pages(static_cast<uint32_t>(count));
      message.set_flags(entry.flags);
      AppendMessage(out, message);
      done += count;
    }
  }
  return out;
}

std::string EncodeParentInventory() {
  std::string out;
  AppendNumber(out, kInventoryMagic);
  criu_images::Inventory inventory;
  inventory.set_img_version(kImageVersion);
  inventory.set_fdinfo_per_id(true);
  inventory.set_ns_per_id(true);
  // In microseconds since boot: later than any process can begin.
  inventory.set_dump_uptime(std::numeric_limits<int64_t>::max());
  inventory.set_pre_dump_mode(kPreDumpBySplicing);
  AppendMessage(out, inventory);
  return out;
}

absl::StatusOr<Pagemap> DecodePagemap(absl::string_view bytes) {
  Reader reader(bytes);
  if (absl::Status status = Magic(reader, kImageMagic, kPagemapMagic, "pagemap"); !status.ok()) {
    return status;
  }
  criu_images::PagemapHead head;
  if (!reader.Message(&head)) return absl::DataLossError("a CRIU pagemap without its head");
  Pagemap pagemap;
  pagemap.pages_id = head.pages_id();
  while (!reader.done()) {
    criu_images::PagemapEntry message;
    if (!reader.Message(&message)) {
      return absl::DataLossError(
          absl::StrCat("entry ", pagemap.entries.size(), " of a CRIU pagemap is cut or malformed"));
    }
    PagemapEntry entry{message.vaddr(),
                       message.has_nr_pages_wide() ? message.nr_pages_wide() : message.nr_pages(),
                       message.flags()};
    // Images older than the flags, which we never write but CRIU reads all the same.
    if (message.in_parent()) entry.flags |= kPageParent;
    if (!message.has_flags() && !message.in_parent()) entry.flags = kPagePresent;
    pagemap.entries.push_back(entry);
  }
  return pagemap;
}

absl::StatusOr<DumpStats> DecodeDumpStats(absl::string_view bytes) {
  Reader reader(bytes);
  if (absl::Status status = Magic(reader, kServiceMagic, kStatsMagic, "statistics"); !status.ok()) {
    return status;
  }
  criu_images::Stats message;
  if (!reader.Message(&message) || !message.has_dump()) {
    return absl::DataLossError("CRIU's statistics of the dump are cut or malformed");
  }
  using std::chrono::microseconds;
  DumpStats stats;
  stats.freezing = microseconds(message.dump().freezing_time_us());
  stats.frozen = microseconds(message.dump().frozen_time_us());
  stats.memory_dump = microseconds(message.dump().memdump_time_us());
  stats.memory_write = microseconds(message.dump().memwrite_time_us());
  stats.pages_scanned = message.dump().pages_scanned();
  stats.pages_unchanged = message.dump().pages_skipped_parent();
  stats.pages_written = message.dump().pages_written();
  return stats;
}

absl::StatusOr<std::vector<Vma>> DecodeMm(absl::string_view bytes) {
  Reader reader(bytes);
  if (absl::Status status = Magic(reader, kImageMagic, kMmMagic, "mm"); !status.ok()) {
    return status;
  }
  criu_images::Mm message;
  if (!reader.Message(&message)) return absl::DataLossError("CRIU's mm image is cut or malformed");
  std::vector<Vma> vmas;
  for (const criu_images::Vma& vma : message.vmas()) {
    vmas.push_back({vma.start(), vma.end(), vma.flags(), vma.status()});
  }
  return vmas;
}

}  // namespace starling::checkpoint
