#include "runtime/checkpoints/restorer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status.h"
#include "base/units.h"
#include "checkpoint/arena.h"
#include "checkpoint/local_sink.h"
#include "runtime/keeper_client.h"
#include "runtime/migration/images.h"
#include "runtime/spec.h"

namespace starling::checkpoints {

using checkpoint::kPageSize;

namespace {

constexpr auto kKeeperTimeout = std::chrono::seconds(10);
constexpr auto kDestroyTimeout = std::chrono::seconds(30);
constexpr absl::string_view kWay = "restore";
// Threads that copy memory images: a copy is bound by memory, two fill it.
constexpr int kImageThreads = 2;

}  // namespace

absl::StatusOr<std::unique_ptr<Restorer>> Restorer::Open(
    agent::Host& host, const v1::RestoreCheckpointRequest& request) {
  auto restorer = std::unique_ptr<Restorer>(new Restorer(host));
  if (!request.key_file().empty()) {
    ASSIGN_OR_RETURN(restorer->key_, checkpoint::StoreKey::Read(request.key_file()));
  }
  ASSIGN_OR_RETURN(restorer->reader_,
                   checkpoint::StoreReader::Open(request.folder(), request.number(),
                                                 restorer->key_ ? &*restorer->key_ : nullptr));
  const checkpoint::StoredManifest& manifest = restorer->reader_->manifest();
  const auto wrong = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat(
        request.folder(), "/", checkpoint::ManifestFileName(manifest.number), ": ", what));
  };
  v1::CheckpointAbout& about = restorer->about_;
  if (!about.ParseFromString(manifest.content.about)) return wrong("does not say what it is of");
  restorer->spec_ = about.spec();
  if (!request.name().empty()) restorer->spec_.set_name(request.name());
  if (const absl::Status spec = CheckSpec(restorer->spec_); !spec.ok()) {
    return wrong(spec.message());
  }
  std::vector<std::string> trees;
  for (const checkpoint::StoredTree& tree : manifest.content.trees) trees.push_back(tree.path);
  if (trees != std::vector<std::string>(about.spec().ship().begin(), about.spec().ship().end())) {
    return wrong("does not have the files that its component ships");
  }
  for (const std::string& path : restorer->spec_.ship()) {
    restorer->places_.emplace_back(restorer->spec_.name(), path);
  }
  return restorer;
}

Restorer::~Restorer() {
  if (!images_.empty()) (void)RemoveTree(images_);
  if (finished_) return;
  if (copy_ != nullptr) {
    const absl::Status destroyed = copy_->Destroy(Deadline::After(kDestroyTimeout));
    if (!destroyed.ok()) host_.Event(spec_.name(), "cleanup-failed", destroyed.message());
  }
  if (images_.empty()) return;  // nothing was begun
  for (const checkpoint::FilePlace& place : places_) {
    const absl::Status back = place.TakeBack();
    if (!back.ok()) host_.Event(spec_.name(), "cleanup-failed", back.message());
  }
}

absl::Status Restorer::CheckPaths(const v1::ComponentSpec* known) const {
  std::vector<std::string> reasons;
  for (size_t i = 0; i < places_.size(); ++i) {
    const std::string& path = places_[i].path();
    const std::string parent = path.substr(0, std::max<size_t>(path.rfind('/'), 1));
    struct stat info;
    if (::stat(parent.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
      reasons.push_back(absl::StrCat(path, ": make its folder ", parent, " first"));
      continue;
    }
    const bool ours = known != nullptr && std::find(known->ship().begin(), known->ship().end(),
                                                    path) != known->ship().end();
    std::error_code error;
    const bool there = ::lstat(path.c_str(), &info) == 0;
    const bool empty = there && S_ISDIR(info.st_mode) && std::filesystem::is_empty(path, error);
    if (there && !empty && !ours) {
      reasons.push_back(absl::StrCat(path,
                                     ": is there already, and is not this component's: move "
                                     "it away"));
    }
    uint64_t bytes = 0;
    for (const checkpoint::FileEntry& entry : reader_->manifest().content.trees[i].tree) {
      bytes += entry.blocks.size() * checkpoint::kBlockBytes;
    }
    struct statvfs space;
    if (::statvfs(parent.c_str(), &space) == 0 && space.f_bavail * space.f_frsize < bytes) {
      reasons.push_back(absl::StrCat(path, ": needs ", FormatBytes(bytes), " of disk space, and ",
                                     FormatBytes(space.f_bavail * space.f_frsize), " is free"));
    }
  }
  if (reasons.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("shipped files cannot be put in place:\n  ", absl::StrJoin(reasons, "\n  ")));
}

absl::Status Restorer::LandFiles() {
  for (size_t i = 0; i < places_.size(); ++i) {
    RETURN_IF_ERROR(places_[i].TakeBack());  // what a crash may have left
    checkpoint::FileLanding landing(places_[i].landing(), reader_->manifest().seed);
    const checkpoint::FileTree& tree = reader_->manifest().content.trees[i].tree;
    for (const checkpoint::FileEntry& entry : tree) {
      for (const checkpoint::FileBlock& block : entry.blocks) {
        ASSIGN_OR_RETURN(const std::string bytes, reader_->Chunk(static_cast<uint32_t>(block.tag)));
        RETURN_IF_ERROR(landing.Write(entry.path, block.offset, block.hash,
                                      std::as_bytes(std::span(bytes.data(), bytes.size()))));
      }
    }
    RETURN_IF_ERROR(landing.Finish(tree));
  }
  return absl::OkStatus();
}

absl::Status Restorer::LoadImages() {
  for (const checkpoint::StoredImage& image : reader_->manifest().content.images) {
    if (!migration::IsSkeletonImage(image.name)) {
      return absl::DataLossError(absl::StrCat("'", image.name, "' is no image of a skeleton"));
    }
    const std::string path = absl::StrCat(images_, "/", image.name);
    ASSIGN_OR_RETURN(const UniqueFd file,
                     OpenFile(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
    ASSIGN_OR_RETURN(const std::string bytes, reader_->All(image.chunks));
    RETURN_IF_ERROR(Annotate(WriteAll(file.get(), bytes.data(), bytes.size()), path));
  }
  return absl::OkStatus();
}

absl::Status Restorer::LoadMemory() {
  ASSIGN_OR_RETURN(const std::unique_ptr<checkpoint::Arena> arena,
                   checkpoint::Arena::Create({.images_dir = images_}));
  checkpoint::LocalSink sink(*arena);
  checkpoint::FinalList list;
  for (const checkpoint::StoredRun& stored : reader_->manifest().content.memory) {
    list.entries.push_back({stored.run, /*in_arena_before=*/true});
    if (stored.zero) {
      RETURN_IF_ERROR(sink.PutZero(stored.run));
      continue;
    }
    checkpoint::PageRun part = stored.run;
    for (const uint32_t chunk : stored.chunks) {
      ASSIGN_OR_RETURN(const std::string bytes, reader_->Chunk(chunk));
      part.pages = bytes.size() / kPageSize;
      ASSIGN_OR_RETURN(const std::span<std::byte> room, sink.Acquire(part.pages));
      if (room.size() < bytes.size()) return absl::InternalError("a sink without room for a block");
      std::memcpy(room.data(), bytes.data(), bytes.size());
      RETURN_IF_ERROR(sink.Put(part));
      part.address += bytes.size();
    }
  }
  return arena->WriteImages(list, images_, kImageThreads).status();
}

absl::StatusOr<std::shared_ptr<agent::Copy>> Restorer::Restore(uint64_t epoch) {
  images_ = migration::ImagesPath(host_.config.run_dir, spec_.name(), kWay);
  RETURN_IF_ERROR(RemoveTree(images_));
  RETURN_IF_ERROR(MakeDirectories(images_, 0700));
  RETURN_IF_ERROR(LandFiles());
  RETURN_IF_ERROR(LoadImages());
  RETURN_IF_ERROR(LoadMemory());
  // On its own host the log is there still, and says more.
  const std::string log = migration::LogPath(host_.config.log_dir, spec_.name());
  struct stat info;
  if (::stat(log.c_str(), &info) != 0 || info.st_size == 0) {
    RETURN_IF_ERROR(MakeDirectories(host_.config.log_dir));
    RETURN_IF_ERROR(WriteFileAtomic(log, about_.log_tail(), 0640));
  }
  keeper::StartKeeperOptions start = agent::KeeperOptions(host_.config);
  start.spec = spec_;
  start.epoch = epoch;
  start.fenced = true;
  ASSIGN_OR_RETURN(const std::string socket,
                   keeper::StartKeeper(start, Deadline::After(kDestroyTimeout)));
  copy_ = std::make_shared<agent::Copy>(spec_.name(), socket);
  for (const checkpoint::FilePlace& place : places_) RETURN_IF_ERROR(place.Put(/*replace=*/true));
  keeper::v1::Request request;
  keeper::v1::Restore& restore = *request.mutable_restore();
  const auto timeout = host_.config.migration.step_timeout;
  restore.set_images_dir(images_);
  restore.set_timeout_s(Seconds(timeout));
  // The peers of its connections have gone on, or gone, since.
  restore.set_close_connections(true);
  if (about_.log_path() != log) restore.set_log_path(about_.log_path());
  RETURN_IF_ERROR(copy_->Call(request, Deadline::After(timeout + kKeeperTimeout)).status());
  return copy_;
}

absl::Status Restorer::Finish() {
  RETURN_IF_ERROR(copy_->LetRun(Deadline::After(kKeeperTimeout)));
  finished_ = true;
  for (const checkpoint::FilePlace& place : places_) {
    const absl::Status kept = place.Keep(/*keep_old=*/true);
    if (!kept.ok()) host_.Event(spec_.name(), "cleanup-failed", kept.message());
  }
  return absl::OkStatus();
}

}  // namespace starling::checkpoints
