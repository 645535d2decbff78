#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "checkpoint/block_hash.h"
#include "checkpoint/file_tree.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/store_cipher.h"

// A folder of one component's checkpoints; docs/images.md has its files to the byte. Content is
// kept in chunks, once: a checkpoint stores only the chunks that the one before does not have. A
// checkpoint appears by the rename of its manifest, after all that it needs is on the disk.

namespace starling::checkpoint {

struct StoredImage {
  std::string name;
  std::vector<uint32_t> chunks;
};

// A run of pages; its chunks have its bytes in order, unless it is zero.
struct StoredRun {
  PageRun run;
  bool zero = false;
  std::vector<uint32_t> chunks;
};

// The blocks' tags are their chunks.
struct StoredTree {
  std::string path;
  FileTree tree;
};

// What a checkpoint consists of.
struct StoredContent {
  std::string about;  // the runtime's own words, kept as they are
  std::vector<StoredImage> images;
  std::vector<StoredRun> memory;
  std::vector<StoredTree> trees;
};

// One file that a checkpoint needs, and one piece of content in it.
struct StoredPack {
  std::string id;
  uint64_t bytes = 0;
  std::string digest;
};
struct StoredChunk {
  uint32_t pack = 0;
  uint64_t offset = 0;
  uint32_t stored_bytes = 0;
  uint32_t bytes = 0;
  bool compressed = false;
  BlockHash hash;
};

struct StoredManifest {
  uint64_t number = 0;
  uint64_t seed = 0;
  bool encrypted = false;
  std::vector<StoredPack> packs;
  std::vector<StoredChunk> chunks;
  StoredContent content;
};

// The whole content of a manifest's file. `key` where it is to be encrypted, with a random id of 16
// bytes.
absl::StatusOr<std::string> EncodeManifest(const StoredManifest& manifest, const std::string& id,
                                           const StoreKey* key);
// Errors: kDataLoss saying what is wrong, for anything but a whole, well-formed manifest;
// kFailedPrecondition when it is encrypted and there is no key.
absl::StatusOr<StoredManifest> DecodeManifest(absl::string_view bytes, const StoreKey* key);

// "checkpoint-00000007", "pack-0123456789abcdef0123456789abcdef".
std::string ManifestFileName(uint64_t number);
std::string PackFileName(absl::string_view id);

// Numbers of the checkpoints in a folder, ascending, whole or not. kNotFound without the folder.
absl::StatusOr<std::vector<uint64_t>> ListCheckpoints(const std::string& folder);

struct StoreTotals {
  uint64_t chunks = 0;  // of this checkpoint
  uint64_t content_bytes = 0;
  uint64_t chunks_written = 0;  // new
  uint64_t bytes_written = 0;   // to the disk, manifest and all
  uint32_t packs = 0;
  uint32_t dropped = 0;  // checkpoints
};

// Writes one checkpoint. Used by one thread at a time. Without Commit() nothing of it remains.
class StoreWriter {
 public:
  struct Options {
    std::string folder;             // made where it is missing
    const StoreKey* key = nullptr;  // borrowed
    // Asked with the `about` of the newest checkpoint that is there: an error refuses the folder.
    std::function<absl::Status(const std::string& about)> belongs;
  };
  // Takes the folder for itself. Errors: kFailedPrecondition while somebody else writes there, or
  // when its checkpoints are encrypted and these are not or the other way round.
  static absl::StatusOr<std::unique_ptr<StoreWriter>> Begin(const Options& options);
  ~StoreWriter();
  StoreWriter(const StoreWriter&) = delete;
  StoreWriter& operator=(const StoreWriter&) = delete;

  uint64_t number() const { return number_; }
  // For whoever hashes blocks in advance.
  uint64_t seed() const { return seed_; }
  // Checkpoints in the folder that cannot be read, and were left alone.
  const std::vector<std::string>& damaged() const { return damaged_; }

  // The chunk of this content, 1 to kBlockBytes bytes.
  absl::StatusOr<uint32_t> Put(std::span<const std::byte> bytes);
  // The chunks of content of any size.
  absl::StatusOr<std::vector<uint32_t>> PutAll(absl::string_view bytes);

  // The checkpoint exists from here on, through a power cut. Then the oldest beyond `keep` go (0:
  // none), and with them what nobody needs any more.
  absl::StatusOr<StoreTotals> Commit(StoredContent content, uint32_t keep);

 private:
  StoreWriter() = default;
  absl::Status OpenPack();
  absl::Status Append(absl::string_view stored);
  absl::Status FlushBuffer();
  absl::Status ClosePack();
  absl::Status LearnParent(const StoredManifest& parent);
  absl::Status Clean(uint32_t keep, StoreTotals& totals);

  std::string folder_;
  const StoreKey* key_ = nullptr;
  UniqueFd folder_fd_;
  UniqueFd lock_;
  uint64_t number_ = 1;
  uint64_t seed_ = 0;
  std::vector<std::string> damaged_;
  bool naming_ = false;  // the manifest's name may be there
  bool committed_ = false;

  // What the checkpoint before has, by content.
  std::vector<StoredPack> parent_packs_;
  absl::flat_hash_map<BlockHash, StoredChunk> parent_chunks_;

  // Of this one.
  std::vector<StoredPack> packs_;
  std::vector<StoredChunk> chunks_;
  absl::flat_hash_map<BlockHash, uint32_t> known_;
  absl::flat_hash_map<uint32_t, uint32_t> from_parent_;  // a pack's number there and here

  // The pack that is being written.
  UniqueFd pack_;
  std::string pack_id_;
  uint32_t pack_number_ = 0;
  uint64_t pack_bytes_ = 0;
  std::string buffer_;
  std::optional<Cipher> cipher_;
  Digest digest_;
  uint64_t written_ = 0;
  uint64_t chunks_written_ = 0;
};

// Reads one checkpoint.
class StoreReader {
 public:
  // Number 0: the newest. Reads and checks the manifest and the whole of every file that it needs.
  // Errors: kDataLoss naming the file and what is wrong with it, kNotFound without such a
  // checkpoint, kFailedPrecondition when it is encrypted and there is no key.
  static absl::StatusOr<std::unique_ptr<StoreReader>> Open(const std::string& folder,
                                                           uint64_t number, const StoreKey* key);

  const StoredManifest& manifest() const { return manifest_; }

  // The content of a chunk. Errors: kDataLoss naming file and place.
  absl::StatusOr<std::string> Chunk(uint32_t chunk);
  absl::StatusOr<std::string> All(std::span<const uint32_t> chunks);

 private:
  StoreReader() = default;
  absl::Status OpenPack(const StoredPack& pack);

  std::string folder_;
  const StoreKey* key_ = nullptr;
  StoredManifest manifest_;
  std::vector<UniqueFd> packs_;
  std::vector<std::optional<Cipher>> ciphers_;
};

}  // namespace starling::checkpoint
