#include <fcntl.h>
#include <lz4.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status.h"
#include "checkpoint/store.h"
#include "checkpoint/store_layout.h"

namespace starling::checkpoint {
namespace {

constexpr char kLockFile[] = "lock";
constexpr char kUnfinished[] = ".new";
// Written at once.
constexpr size_t kBufferBytes = 4 << 20;
constexpr size_t kMostManifestBytes = size_t{2} << 30;
// A pack of which less than this is in use is not built upon, so that it can go.
constexpr double kLeastUse = 0.5;

}  // namespace

absl::StatusOr<std::unique_ptr<StoreWriter>> StoreWriter::Begin(const Options& options) {
  auto writer = std::unique_ptr<StoreWriter>(new StoreWriter);
  writer->folder_ = options.folder;
  writer->key_ = options.key;
  // What is in memory may be read by its owner only, and so may this.
  RETURN_IF_ERROR(MakeDirectories(options.folder, 0700));
  ASSIGN_OR_RETURN(writer->folder_fd_, OpenFile(options.folder, O_RDONLY | O_DIRECTORY));
  ASSIGN_OR_RETURN(writer->lock_, OpenFile(absl::StrCat(options.folder, "/", kLockFile),
                                           O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (::flock(writer->lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(absl::StrCat("lock ", options.folder));
    return absl::FailedPreconditionError(
        absl::StrCat("another checkpoint is being written to ", options.folder));
  }
  ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, ListCheckpoints(options.folder));
  ASSIGN_OR_RETURN(const std::string seed, RandomBytes(sizeof(seed_)));
  writer->seed_ = NumberAt<uint64_t>(seed, 0);
  if (!numbers.empty()) writer->number_ = numbers.back() + 1;
  bool found = false;
  for (auto number = numbers.rbegin(); number != numbers.rend() && !found; ++number) {
    const std::string path = absl::StrCat(options.folder, "/", ManifestFileName(*number));
    ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMostManifestBytes));
    const absl::StatusOr<StoredManifest> parent = DecodeManifest(bytes, options.key);
    if (absl::IsFailedPrecondition(parent.status())) return Annotate(parent.status(), path);
    if (!parent.ok()) {
      writer->damaged_.push_back(absl::StrCat(path, " ", parent.status().message()));
      continue;
    }
    if (options.belongs) RETURN_IF_ERROR(options.belongs(parent->content.about));
    RETURN_IF_ERROR(writer->LearnParent(*parent));
    found = true;
  }
  return writer;
}

StoreWriter::~StoreWriter() {
  if (committed_) return;
  // A manifest that may not last must not appear to be whole.
  if (naming_) ::unlink(absl::StrCat(folder_, "/", ManifestFileName(number_)).c_str());
  if (pack_id_.empty()) return;
  const std::string path = absl::StrCat(folder_, "/", PackFileName(pack_id_));
  ::unlink(path.c_str());
  ::unlink(absl::StrCat(path, kUnfinished).c_str());
}

absl::Status StoreWriter::LearnParent(const StoredManifest& parent) {
  seed_ = parent.seed;
  parent_packs_ = parent.packs;
  std::vector<uint64_t> used(parent.packs.size(), 0);
  for (const StoredChunk& chunk : parent.chunks) used[chunk.pack] += chunk.stored_bytes;
  std::vector<bool> usable(parent.packs.size());
  for (size_t i = 0; i < parent.packs.size(); ++i) {
    struct stat info;
    const std::string name = PackFileName(parent.packs[i].id);
    usable[i] =
        ::fstatat(folder_fd_.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
        static_cast<uint64_t>(info.st_size) == parent.packs[i].bytes &&
        static_cast<double>(used[i]) >= kLeastUse * static_cast<double>(parent.packs[i].bytes);
  }
  for (const StoredChunk& chunk : parent.chunks) {
    if (usable[chunk.pack]) parent_chunks_.try_emplace(chunk.hash, chunk);
  }
  return absl::OkStatus();
}

absl::Status StoreWriter::OpenPack() {
  ASSIGN_OR_RETURN(pack_id_, RandomBytes(kStoreIdBytes));
  ASSIGN_OR_RETURN(pack_, OpenFile(absl::StrCat(folder_, "/", PackFileName(pack_id_), kUnfinished),
                                   O_WRONLY | O_CREAT | O_EXCL, 0600));
  if (key_ != nullptr) cipher_.emplace(key_->For(kPackPurpose, pack_id_));
  pack_number_ = static_cast<uint32_t>(packs_.size());
  packs_.push_back({pack_id_, 0, ""});
  return Append(PackHead(pack_id_, key_ != nullptr));
}

absl::Status StoreWriter::Append(absl::string_view stored) {
  buffer_.append(stored.data(), stored.size());
  pack_bytes_ += stored.size();
  return buffer_.size() < kBufferBytes ? absl::OkStatus() : FlushBuffer();
}

absl::Status StoreWriter::FlushBuffer() {
  digest_.Add(buffer_);
  RETURN_IF_ERROR(Annotate(WriteAll(pack_.get(), buffer_.data(), buffer_.size()),
                           absl::StrCat("write to ", folder_)));
  written_ += buffer_.size();
  buffer_.clear();
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> StoreWriter::Put(std::span<const std::byte> bytes) {
  if (bytes.empty() || bytes.size() > kBlockBytes) {
    return absl::InvalidArgumentError(absl::StrCat("no chunk has ", bytes.size(), " bytes"));
  }
  const BlockHash hash = HashBlock(bytes, seed_);
  if (const auto found = known_.find(hash); found != known_.end()) return found->second;
  if (chunks_.size() == std::numeric_limits<uint32_t>::max()) {
    return absl::ResourceExhaustedError("a checkpoint cannot have more chunks");
  }
  const auto number = static_cast<uint32_t>(chunks_.size());
  if (const auto found = parent_chunks_.find(hash); found != parent_chunks_.end()) {
    StoredChunk chunk = found->second;
    const auto [pack, fresh] =
        from_parent_.try_emplace(chunk.pack, static_cast<uint32_t>(packs_.size()));
    if (fresh) packs_.push_back(parent_packs_[chunk.pack]);
    chunk.pack = pack->second;
    chunks_.push_back(chunk);
    known_[hash] = number;
    return number;
  }
  if (!pack_) RETURN_IF_ERROR(OpenPack());
  StoredChunk chunk;
  chunk.pack = pack_number_;
  chunk.offset = pack_bytes_;
  chunk.bytes = static_cast<uint32_t>(bytes.size());
  chunk.hash = hash;
  // Stored as it is unless it gets shorter.
  std::string packed(bytes.size() - 1, '\0');
  const int size =
      LZ4_compress_default(reinterpret_cast<const char*>(bytes.data()), packed.data(),
                           static_cast<int>(bytes.size()), static_cast<int>(packed.size()));
  chunk.compressed = size > 0;
  if (chunk.compressed) {
    packed.resize(static_cast<size_t>(size));
  } else {
    packed.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  if (cipher_) {
    // A place in a pack is written to once, and each pack has a key of its own.
    std::string sealed;
    RETURN_IF_ERROR(
        cipher_->Seal(chunk.offset, ChunkBound(chunk.bytes, chunk.compressed), packed, &sealed));
    packed = std::move(sealed);
  }
  chunk.stored_bytes = static_cast<uint32_t>(packed.size());
  RETURN_IF_ERROR(Append(packed));
  ++chunks_written_;
  chunks_.push_back(chunk);
  known_[hash] = number;
  return number;
}

absl::StatusOr<std::vector<uint32_t>> StoreWriter::PutAll(absl::string_view bytes) {
  std::vector<uint32_t> chunks;
  for (size_t at = 0; at < bytes.size(); at += kBlockBytes) {
    const absl::string_view part = bytes.substr(at, kBlockBytes);
    ASSIGN_OR_RETURN(const uint32_t chunk, Put(std::as_bytes(std::span(part.data(), part.size()))));
    chunks.push_back(chunk);
  }
  return chunks;
}

absl::Status StoreWriter::ClosePack() {
  if (!pack_) return absl::OkStatus();
  RETURN_IF_ERROR(FlushBuffer());
  if (::fsync(pack_.get()) != 0) return ErrnoStatus(absl::StrCat("fsync a pack in ", folder_));
  packs_[pack_number_].bytes = pack_bytes_;
  packs_[pack_number_].digest = digest_.Finish();
  const std::string name = PackFileName(pack_id_);
  if (::renameat(folder_fd_.get(), absl::StrCat(name, kUnfinished).c_str(), folder_fd_.get(),
                 name.c_str()) != 0) {
    return ErrnoStatus(absl::StrCat("name a pack in ", folder_));
  }
  if (::fsync(folder_fd_.get()) != 0) return ErrnoStatus(absl::StrCat("fsync ", folder_));
  return absl::OkStatus();
}

absl::StatusOr<StoreTotals> StoreWriter::Commit(StoredContent content, uint32_t keep) {
  RETURN_IF_ERROR(ClosePack());
  StoredManifest manifest;
  manifest.number = number_;
  manifest.seed = seed_;
  manifest.encrypted = key_ != nullptr;
  manifest.packs = std::move(packs_);
  manifest.chunks = std::move(chunks_);
  manifest.content = std::move(content);
  ASSIGN_OR_RETURN(const std::string id, RandomBytes(kStoreIdBytes));
  ASSIGN_OR_RETURN(const std::string bytes, EncodeManifest(manifest, id, key_));
  const std::string path = absl::StrCat(folder_, "/", ManifestFileName(number_));
  naming_ = true;
  RETURN_IF_ERROR(WriteFileAtomic(path, bytes, 0600));
  committed_ = true;
  if (::fsync(folder_fd_.get()) != 0) return ErrnoStatus(absl::StrCat("fsync ", folder_));
  StoreTotals totals;
  totals.chunks = manifest.chunks.size();
  for (const StoredChunk& chunk : manifest.chunks) totals.content_bytes += chunk.bytes;
  totals.chunks_written = chunks_written_;
  totals.bytes_written = written_ + bytes.size();
  totals.packs = static_cast<uint32_t>(manifest.packs.size());
  RETURN_IF_ERROR(Annotate(Clean(keep, totals),
                           absl::StrCat("checkpoint ", number_, " is whole, but tidying up")));
  return totals;
}

// Manifests first, then the packs that no manifest needs: a crash in between leaves packs too many.
absl::Status StoreWriter::Clean(uint32_t keep, StoreTotals& totals) {
  ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, ListCheckpoints(folder_));
  std::vector<std::pair<std::string, StoredManifest>> whole;
  bool unreadable = false;
  for (const uint64_t number : numbers) {
    const std::string path = absl::StrCat(folder_, "/", ManifestFileName(number));
    ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMostManifestBytes));
    absl::StatusOr<StoredManifest> manifest = DecodeManifest(bytes, key_);
    if (manifest.ok()) {
      whole.emplace_back(path, *std::move(manifest));
    } else {
      unreadable = true;
    }
  }
  const size_t drop = keep == 0 || whole.size() <= keep ? 0 : whole.size() - keep;
  for (size_t i = 0; i < drop; ++i) {
    if (::unlink(whole[i].first.c_str()) != 0) return ErrnoStatus(whole[i].first);
    ++totals.dropped;
  }
  if (::fsync(folder_fd_.get()) != 0) return ErrnoStatus(absl::StrCat("fsync ", folder_));
  std::set<std::string> needed;
  for (size_t i = drop; i < whole.size(); ++i) {
    for (const StoredPack& pack : whole[i].second.packs) needed.insert(PackFileName(pack.id));
  }
  std::vector<std::string> unneeded;
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(folder_, error)) {
    const std::string name = item.path().filename().string();
    const bool unfinished = absl::EndsWith(name, kUnfinished) &&
                            (absl::StartsWith(name, "pack-") || absl::StartsWith(name, "check"));
    if (!unfinished && (!absl::StartsWith(name, "pack-") || needed.contains(name))) continue;
    // A manifest that cannot be read may be mended by somebody, and then needs its packs.
    if (unreadable && !unfinished) continue;
    unneeded.push_back(item.path().string());
  }
  if (error) return ErrnoStatus(error.value(), folder_);
  for (const std::string& path : unneeded) {
    if (::unlink(path.c_str()) != 0) return ErrnoStatus(path);
  }
  return absl::OkStatus();
}

}  // namespace starling::checkpoint
