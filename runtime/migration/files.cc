#include "runtime/migration/files.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "base/status.h"
#include "checkpoint/store_cipher.h"

namespace starling::migration {

std::vector<checkpoint::FilePlace> PlacesOf(const v1::ComponentSpec& spec) {
  std::vector<checkpoint::FilePlace> places;
  for (const std::string& path : spec.ship()) places.emplace_back(spec.name(), path);
  return places;
}

absl::Status TakeBack(const v1::ComponentSpec& spec) {
  absl::Status status;
  for (const checkpoint::FilePlace& place : PlacesOf(spec)) status.Update(place.TakeBack());
  return status;
}

absl::Status Keep(const v1::ComponentSpec& spec, bool keep_old) {
  absl::Status status;
  for (const checkpoint::FilePlace& place : PlacesOf(spec)) status.Update(place.Keep(keep_old));
  return status;
}

absl::Status SetAside(const v1::ComponentSpec& spec) {
  absl::Status status;
  for (const checkpoint::FilePlace& place : PlacesOf(spec)) status.Update(place.SetAside());
  return status;
}

absl::StatusOr<std::unique_ptr<FileSender>> FileSender::Create(
    std::string migration_id, const v1::ComponentSpec& spec, const std::string& cgroup,
    Stream stream, std::function<absl::Status()> wanted) {
  auto sender = std::unique_ptr<FileSender>(new FileSender);
  sender->migration_id_ = std::move(migration_id);
  sender->stream_ = std::move(stream);
  sender->wanted_ = std::move(wanted);
  ASSIGN_OR_RETURN(const std::string seed, RandomBytes(sizeof(sender->seed_)));
  std::memcpy(&sender->seed_, seed.data(), seed.size());
  for (const std::string& path : spec.ship()) {
    sender->trackers_.emplace_back(path, sender->seed_,
                                   [cgroup] { return checkpoint::WritableMappedFiles(cgroup); });
  }
  return sender;
}

absl::Status FileSender::Round(bool last) {
  if (trackers_.empty()) return absl::OkStatus();
  return Annotate(stream_(last, [this, last](const Write& write) { return Send(write, last); }),
                  "shipped files");
}

absl::Status FileSender::Send(const Write& write, bool last) {
  const absl::Status broken = absl::UnavailableError("the stream of files broke");
  for (size_t i = 0; i < trackers_.size(); ++i) {
    v1::FilePiece piece;
    piece.set_migration_id(migration_id_);
    piece.set_tree(static_cast<uint32_t>(i));
    piece.set_seed(seed_);
    if (!write(piece)) return broken;
    checkpoint::FileTracker::Report report;
    RETURN_IF_ERROR(trackers_[i].List(
        last,
        [&](const std::string& path, checkpoint::FileBlock& block,
            std::span<const std::byte> bytes) -> absl::Status {
          RETURN_IF_ERROR(wanted_());
          v1::FilePiece::Block& to = *piece.mutable_block();
          to.set_path(path);
          to.set_offset(block.offset);
          to.set_data(bytes.data(), bytes.size());
          to.set_hash_low(block.hash.low);
          to.set_hash_high(block.hash.high);
          bytes_sent_ += bytes.size();
          return write(piece) ? absl::OkStatus() : broken;
        },
        report));
    if (!last) continue;
    for (const checkpoint::FileEntry& entry : trackers_[i].tree()) {
      piece.set_entry(checkpoint::EncodeEntry(entry));
      bytes_sent_ += piece.entry().size();
      if (!write(piece)) return broken;
    }
    piece.set_whole(true);
    if (!write(piece)) return broken;
  }
  return absl::OkStatus();
}

FileReceiver::FileReceiver(const v1::ComponentSpec& spec)
    : spec_(spec), trees_(static_cast<size_t>(spec.ship_size())) {}

absl::Status FileReceiver::Take(const v1::FilePiece& piece) {
  const std::lock_guard lock(mutex_);
  if (closed_) return absl::FailedPreconditionError("no files are taken any more");
  if (piece.tree() >= trees_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the component ships no path number ", piece.tree()));
  }
  Tree& tree = trees_[piece.tree()];
  const std::string& path = spec_.ship(static_cast<int>(piece.tree()));
  if (tree.whole) return absl::FailedPreconditionError(absl::StrCat(path, " is whole already"));
  if (tree.landing == nullptr) {
    const checkpoint::FilePlace place(spec_.name(), path);
    RETURN_IF_ERROR(place.TakeBack());  // what a crash may have left
    tree.landing = std::make_unique<checkpoint::FileLanding>(place.landing(), piece.seed());
  }
  switch (piece.what_case()) {
    case v1::FilePiece::kBlock: {
      const v1::FilePiece::Block& block = piece.block();
      return Annotate(
          tree.landing->Write(block.path(), block.offset(), {block.hash_low(), block.hash_high()},
                              std::as_bytes(std::span(block.data().data(), block.data().size()))),
          path);
    }
    case v1::FilePiece::kEntry: {
      absl::StatusOr<checkpoint::FileEntry> entry = checkpoint::DecodeEntry(piece.entry());
      if (!entry.ok()) return Annotate(entry.status(), path);
      tree.entries.push_back(*std::move(entry));
      return absl::OkStatus();
    }
    case v1::FilePiece::kWhole:
      RETURN_IF_ERROR(Annotate(tree.landing->Finish(tree.entries), path));
      tree.whole = true;
      tree.entries.clear();
      return absl::OkStatus();
    default:
      return absl::OkStatus();  // the first of a stream only says whose it is
  }
}

absl::Status FileReceiver::Sync() {
  const std::lock_guard lock(mutex_);
  for (const Tree& tree : trees_) {
    if (tree.landing != nullptr && !tree.whole) RETURN_IF_ERROR(tree.landing->Sync());
  }
  return absl::OkStatus();
}

uint64_t FileReceiver::bytes() const {
  const std::lock_guard lock(mutex_);
  uint64_t bytes = 0;
  for (const Tree& tree : trees_) bytes += tree.landing == nullptr ? 0 : tree.landing->bytes();
  return bytes;
}

absl::Status FileReceiver::Put() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  for (size_t i = 0; i < trees_.size(); ++i) {
    if (!trees_[i].whole) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the shipped path ", spec_.ship(static_cast<int>(i)), " has not arrived as a whole"));
    }
  }
  for (const checkpoint::FilePlace& place : PlacesOf(spec_)) RETURN_IF_ERROR(place.Put());
  return absl::OkStatus();
}

void FileReceiver::Close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
}

}  // namespace starling::migration
