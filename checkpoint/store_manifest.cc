#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "checkpoint/store.h"
#include "checkpoint/store.pb.h"
#include "checkpoint/store_layout.h"

namespace starling::checkpoint {
namespace {

constexpr absl::string_view kManifestPrefix = "checkpoint-";

absl::Status Bad(absl::string_view what) { return absl::DataLossError(what); }

absl::Status CheckPlainName(const std::string& name) {
  if (name.empty() || name.size() > 200 || name[0] == '.' || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    return Bad("has an image with an impossible name");
  }
  return absl::OkStatus();
}

absl::Status DecodePacks(const stored::Manifest& message, StoredManifest* to) {
  std::set<std::string> ids;
  for (const stored::Pack& from : message.packs()) {
    if (from.id().size() != kStoreIdBytes || from.digest().size() != kDigestBytes ||
        from.bytes() < kPackHeadBytes || !ids.insert(from.id()).second) {
      return Bad("names a pack that cannot be");
    }
    to->packs.push_back({from.id(), from.bytes(), from.digest()});
  }
  return absl::OkStatus();
}

absl::Status DecodeChunks(const stored::Manifest& message, StoredManifest* to) {
  const uint32_t extra = to->encrypted ? kTagBytes : 0;
  for (const stored::Chunk& from : message.chunks()) {
    const bool in_pack = from.pack() < to->packs.size() && from.offset() >= kPackHeadBytes &&
                         from.offset() <= to->packs[from.pack()].bytes &&
                         from.stored_bytes() <= to->packs[from.pack()].bytes - from.offset();
    const bool sized = from.bytes() > 0 && from.bytes() <= kBlockBytes &&
                       from.stored_bytes() > extra &&
                       (from.compressed() ? from.stored_bytes() < from.bytes() + extra
                                          : from.stored_bytes() == from.bytes() + extra);
    if (!in_pack || !sized) return Bad("names a chunk that cannot be");
    to->chunks.push_back({from.pack(),
                          from.offset(),
                          from.stored_bytes(),
                          from.bytes(),
                          from.compressed(),
                          {from.hash_low(), from.hash_high()}});
  }
  return absl::OkStatus();
}

template <typename Numbers>
absl::Status TakeChunks(const Numbers& from, const StoredManifest& manifest,
                        std::vector<uint32_t>* to) {
  for (const uint32_t chunk : from) {
    if (chunk >= manifest.chunks.size()) return Bad("refers to a chunk that it does not have");
    to->push_back(chunk);
  }
  return absl::OkStatus();
}

absl::Status DecodeMemory(const stored::Manifest& message, StoredManifest* to) {
  constexpr uint64_t kMostPages = uint64_t{1} << 52;
  for (const stored::MemoryRun& from : message.memory()) {
    StoredRun run;
    const bool kind = from.kind() == static_cast<uint32_t>(AddressSpace::Kind::kProcess) ||
                      from.kind() == static_cast<uint32_t>(AddressSpace::Kind::kSharedMemory);
    if (!kind || from.address() % kPageSize != 0 ||
        from.pages() > kMostPages - from.address() / kPageSize) {
      return Bad("has memory that cannot be");
    }
    run.run = {
        {static_cast<AddressSpace::Kind>(from.kind()), from.space()}, from.address(), from.pages()};
    run.zero = from.zero();
    RETURN_IF_ERROR(TakeChunks(from.chunks(), *to, &run.chunks));
    uint64_t bytes = 0;
    for (const uint32_t chunk : run.chunks) {
      if (to->chunks[chunk].bytes % kPageSize != 0) return Bad("has parts of pages");
      bytes += to->chunks[chunk].bytes;
    }
    if (bytes != (run.zero ? 0 : run.run.pages * kPageSize)) {
      return Bad("has memory without content, or content without memory");
    }
    to->content.memory.push_back(std::move(run));
  }
  return absl::OkStatus();
}

absl::Status DecodeTrees(const stored::Manifest& message, StoredManifest* to) {
  for (const stored::Tree& from : message.trees()) {
    if (from.path().size() < 2 || from.path()[0] != '/' ||
        from.path().find('\0') != std::string::npos) {
      return Bad("has files at an impossible path");
    }
    StoredTree tree{from.path(), {}};
    for (const std::string& bytes : from.entries()) {
      ASSIGN_OR_RETURN(FileEntry entry, DecodeEntry(bytes));
      for (const FileBlock& block : entry.blocks) {
        const bool good = block.offset < entry.size && block.tag < to->chunks.size() &&
                          to->chunks[block.tag].bytes == BlockSize(entry, block) &&
                          to->chunks[block.tag].hash == block.hash;
        if (!good) return Bad(absl::StrCat("has another content for file '", entry.path, "'"));
      }
      tree.tree.push_back(std::move(entry));
    }
    RETURN_IF_ERROR(CheckTree(tree.tree));
    to->content.trees.push_back(std::move(tree));
  }
  return absl::OkStatus();
}

}  // namespace

std::string ManifestFileName(uint64_t number) {
  return absl::StrFormat("%s%08d", kManifestPrefix, number);
}

std::string PackFileName(absl::string_view id) {
  return absl::StrCat("pack-", absl::BytesToHexString(id));
}

absl::StatusOr<std::vector<uint64_t>> ListCheckpoints(const std::string& folder) {
  std::vector<uint64_t> numbers;
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = item.path().filename().string();
    absl::string_view digits = name;
    uint64_t number = 0;
    if (absl::ConsumePrefix(&digits, kManifestPrefix) && absl::SimpleAtoi(digits, &number) &&
        number > 0 && ManifestFileName(number) == name) {
      numbers.push_back(number);
    }
  }
  if (error) return ErrnoStatus(error.value(), folder);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

absl::StatusOr<std::string> EncodeManifest(const StoredManifest& manifest, const std::string& id,
                                           const StoreKey* key) {
  stored::Manifest message;
  message.set_seed(manifest.seed);
  message.set_about(manifest.content.about);
  for (const StoredPack& from : manifest.packs) {
    stored::Pack& pack = *message.add_packs();
    pack.set_id(from.id);
    pack.set_bytes(from.bytes);
    pack.set_digest(from.digest);
  }
  for (const StoredChunk& from : manifest.chunks) {
    stored::Chunk& chunk = *message.add_chunks();
    chunk.set_pack(from.pack);
    chunk.set_offset(from.offset);
    chunk.set_stored_bytes(from.stored_bytes);
    chunk.set_bytes(from.bytes);
    chunk.set_compressed(from.compressed);
    chunk.set_hash_low(from.hash.low);
    chunk.set_hash_high(from.hash.high);
  }
  for (const StoredImage& from : manifest.content.images) {
    stored::Image& image = *message.add_images();
    image.set_name(from.name);
    image.mutable_chunks()->Add(from.chunks.begin(), from.chunks.end());
  }
  for (const StoredRun& from : manifest.content.memory) {
    stored::MemoryRun& run = *message.add_memory();
    run.set_kind(static_cast<uint32_t>(from.run.space.kind));
    run.set_space(from.run.space.id);
    run.set_address(from.run.address);
    run.set_pages(from.run.pages);
    run.set_zero(from.zero);
    run.mutable_chunks()->Add(from.chunks.begin(), from.chunks.end());
  }
  for (const StoredTree& from : manifest.content.trees) {
    stored::Tree& tree = *message.add_trees();
    tree.set_path(from.path);
    for (const FileEntry& entry : from.tree) tree.add_entries(EncodeEntry(entry));
  }
  std::string body;
  if (!message.SerializeToString(&body)) {
    return absl::ResourceExhaustedError("a manifest of more than 2 GiB cannot be written");
  }
  const uint64_t stored = body.size() + (key != nullptr ? kTagBytes : 0);
  std::string file(kManifestMagic, kMagicBytes);
  AppendNumber(&file, kStoreVersion);
  AppendNumber(&file, key != nullptr ? kStoreEncrypted : 0);
  AppendNumber(&file, manifest.number);
  file.append(id);
  AppendNumber(&file, stored);
  if (key != nullptr) {
    const std::string head = file;
    RETURN_IF_ERROR(key->For(kManifestPurpose, id).Seal(0, head, body, &file));
  } else {
    file.append(body);
  }
  Digest digest;
  digest.Add(file);
  file.append(digest.Finish());
  return file;
}

absl::StatusOr<StoredManifest> DecodeManifest(absl::string_view bytes, const StoreKey* key) {
  if (bytes.size() < kManifestHeadBytes + kDigestBytes) return Bad("is cut short");
  if (bytes.substr(0, kMagicBytes) != kManifestMagic) return Bad("is no checkpoint");
  if (const auto version = NumberAt<uint32_t>(bytes, kMagicBytes); version != kStoreVersion) {
    return Bad(absl::StrCat("has format ", version, "; this Starling reads ", kStoreVersion));
  }
  const absl::string_view head = bytes.substr(0, kManifestHeadBytes);
  const auto flags = NumberAt<uint32_t>(head, kMagicBytes + 4);
  const absl::string_view id = head.substr(kMagicBytes + 16, kStoreIdBytes);
  const auto stored = NumberAt<uint64_t>(head, kManifestHeadBytes - 8);
  if (stored != bytes.size() - kManifestHeadBytes - kDigestBytes) {
    return Bad(absl::StrCat("should have ", stored, " bytes of content and has ",
                            bytes.size() - kManifestHeadBytes - kDigestBytes));
  }
  const absl::string_view signed_part = bytes.substr(0, bytes.size() - kDigestBytes);
  Digest digest;
  digest.Add(signed_part);
  if (digest.Finish() != bytes.substr(signed_part.size())) {
    return Bad("is not as it was written: its SHA-256 is another");
  }
  StoredManifest manifest;
  manifest.number = NumberAt<uint64_t>(head, kMagicBytes + 8);
  manifest.encrypted = (flags & kStoreEncrypted) != 0;
  if ((flags & ~kStoreEncrypted) != 0) return Bad("has flags that this Starling does not know");
  if (manifest.encrypted && key == nullptr) {
    return absl::FailedPreconditionError("is encrypted: give its key");
  }
  if (!manifest.encrypted && key != nullptr) {
    return absl::FailedPreconditionError("is not encrypted, and a key was given");
  }
  absl::string_view body = signed_part.substr(kManifestHeadBytes);
  std::string plain;
  if (manifest.encrypted) {
    ASSIGN_OR_RETURN(plain, key->For(kManifestPurpose, id).Open(0, head, body));
    body = plain;
  }
  stored::Manifest message;
  if (body.size() > INT32_MAX ||
      !message.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    return Bad("is not understood");
  }
  manifest.seed = message.seed();
  manifest.content.about = message.about();
  RETURN_IF_ERROR(DecodePacks(message, &manifest));
  RETURN_IF_ERROR(DecodeChunks(message, &manifest));
  for (const stored::Image& from : message.images()) {
    StoredImage image{from.name(), {}};
    RETURN_IF_ERROR(CheckPlainName(image.name));
    RETURN_IF_ERROR(TakeChunks(from.chunks(), manifest, &image.chunks));
    manifest.content.images.push_back(std::move(image));
  }
  RETURN_IF_ERROR(DecodeMemory(message, &manifest));
  RETURN_IF_ERROR(DecodeTrees(message, &manifest));
  return manifest;
}

}  // namespace starling::checkpoint
