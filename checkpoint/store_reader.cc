#include <fcntl.h>
#include <lz4.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/store.h"
#include "checkpoint/store_layout.h"

namespace starling::checkpoint {
namespace {

constexpr size_t kMostManifestBytes = size_t{2} << 30;
constexpr size_t kReadBytes = 4 << 20;

// Exactly `size` bytes; kDataLoss where the file ends before.
absl::StatusOr<std::string> ReadAt(int file, uint64_t offset, size_t size) {
  std::string bytes(size, '\0');
  for (size_t done = 0; done < size;) {
    const ssize_t n =
        ::pread(file, bytes.data() + done, size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("read");
    if (n == 0) return absl::DataLossError("is cut short");
    done += static_cast<size_t>(n);
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StoreReader>> StoreReader::Open(const std::string& folder,
                                                               uint64_t number,
                                                               const StoreKey* key) {
  ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, ListCheckpoints(folder));
  if (number == 0 && !numbers.empty()) number = numbers.back();
  if (std::find(numbers.begin(), numbers.end(), number) == numbers.end()) {
    return absl::NotFoundError(number == 0 ? absl::StrCat(folder, " has no checkpoint")
                                           : absl::StrCat(folder, " has no checkpoint ", number));
  }
  auto reader = std::unique_ptr<StoreReader>(new StoreReader);
  reader->folder_ = folder;
  reader->key_ = key;
  const std::string path = absl::StrCat(folder, "/", ManifestFileName(number));
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMostManifestBytes));
  absl::StatusOr<StoredManifest> manifest = DecodeManifest(bytes, key);
  if (!manifest.ok()) return Annotate(manifest.status(), path);
  if (manifest->number != number) {
    return absl::DataLossError(
        absl::StrCat(path, ": is checkpoint ", manifest->number, " under the name of another"));
  }
  reader->manifest_ = *std::move(manifest);
  for (const StoredPack& pack : reader->manifest_.packs) {
    RETURN_IF_ERROR(
        Annotate(reader->OpenPack(pack), absl::StrCat(folder, "/", PackFileName(pack.id))));
  }
  return reader;
}

absl::Status StoreReader::OpenPack(const StoredPack& pack) {
  UniqueFd file(::open(absl::StrCat(folder_, "/", PackFileName(pack.id)).c_str(),
                       O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file && errno == ENOENT) return absl::DataLossError("is missing");
  struct stat info;
  if (!file || ::fstat(file.get(), &info) != 0) return ErrnoStatus("open");
  if (!S_ISREG(info.st_mode) || static_cast<uint64_t>(info.st_size) != pack.bytes) {
    return absl::DataLossError(absl::StrCat("has ", info.st_size, " bytes, and had ", pack.bytes));
  }
  Digest digest;
  for (uint64_t at = 0; at < pack.bytes;) {
    const auto size = static_cast<size_t>(std::min<uint64_t>(kReadBytes, pack.bytes - at));
    ASSIGN_OR_RETURN(const std::string bytes, ReadAt(file.get(), at, size));
    if (at == 0 && bytes.substr(0, kPackHeadBytes) != PackHead(pack.id, manifest_.encrypted)) {
      return absl::DataLossError("is another pack than its name says");
    }
    digest.Add(bytes);
    at += size;
  }
  if (digest.Finish() != pack.digest) {
    return absl::DataLossError("is not as it was written: its SHA-256 is another");
  }
  packs_.push_back(std::move(file));
  ciphers_.emplace_back();
  if (manifest_.encrypted) ciphers_.back().emplace(key_->For(kPackPurpose, pack.id));
  return absl::OkStatus();
}

absl::StatusOr<std::string> StoreReader::Chunk(uint32_t number) {
  const StoredChunk& chunk = manifest_.chunks.at(number);
  const auto wrong = [&](const absl::Status& status) {
    return Annotate(status, absl::StrCat(folder_, "/", PackFileName(manifest_.packs[chunk.pack].id),
                                         ", its chunk at ", chunk.offset));
  };
  absl::StatusOr<std::string> stored =
      ReadAt(packs_[chunk.pack].get(), chunk.offset, chunk.stored_bytes);
  if (!stored.ok()) return wrong(stored.status());
  if (ciphers_[chunk.pack]) {
    stored = ciphers_[chunk.pack]->Open(chunk.offset, ChunkBound(chunk.bytes, chunk.compressed),
                                        *stored);
    if (!stored.ok()) return wrong(stored.status());
  }
  std::string bytes = *std::move(stored);
  if (chunk.compressed) {
    std::string plain(chunk.bytes, '\0');
    const int size = LZ4_decompress_safe(bytes.data(), plain.data(), static_cast<int>(bytes.size()),
                                         static_cast<int>(plain.size()));
    if (size != static_cast<int>(chunk.bytes)) {
      return wrong(absl::DataLossError("cannot be decompressed"));
    }
    bytes = std::move(plain);
  }
  if (bytes.size() != chunk.bytes || HashBlock(std::as_bytes(std::span(bytes.data(), bytes.size())),
                                               manifest_.seed) != chunk.hash) {
    return wrong(absl::DataLossError("is not what was stored: its hash is another"));
  }
  return bytes;
}

absl::StatusOr<std::string> StoreReader::All(std::span<const uint32_t> chunks) {
  std::string all;
  for (const uint32_t number : chunks) {
    ASSIGN_OR_RETURN(const std::string bytes, Chunk(number));
    all.append(bytes);
  }
  return all;
}

}  // namespace starling::checkpoint
