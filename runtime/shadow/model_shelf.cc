#include "runtime/shadow/model_shelf.h"

#include <fcntl.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/names.h"
#include "runtime/proto/starling.pb.h"

namespace starling::shadow {
namespace {

constexpr absl::string_view kEnding = ".models";

absl::Status CheckModels(const ModelShelf::Models& models) {
  if (models.size() > ModelShelf::kMostModels) {
    return absl::InvalidArgumentError(
        absl::StrCat(models.size(), " models; a shadow has ", ModelShelf::kMostModels, " at most"));
  }
  for (const std::string& model : models) {
    if (model.size() <= ModelShelf::kMostBytes) continue;
    return absl::InvalidArgumentError(absl::StrCat("a model of ", model.size(), " bytes; ",
                                                   ModelShelf::kMostBytes, " are the most"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelShelf>> ModelShelf::Open(std::string folder) {
  RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  std::unique_ptr<ModelShelf> shelf(new ModelShelf(std::move(folder)));
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(shelf->folder_, error)) {
    const std::string file = entry.path().filename().string();
    const std::string name(absl::StripSuffix(file, kEnding));
    if (name == file || !CheckComponentName(name).ok()) continue;
    // Damage costs what was learned, and nothing else.
    const auto bytes = ReadFile(entry.path(), 2 * kMostModels * kMostBytes);
    v1::ShadowModels read;
    if (!bytes.ok() || !read.ParseFromString(*bytes)) continue;
    Models models(read.models().begin(), read.models().end());
    if (CheckModels(models).ok()) shelf->models_[name] = std::move(models);
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("read folder ", shelf->folder_));
  return shelf;
}

std::string ModelShelf::PathOf(const std::string& component) const {
  return absl::StrCat(folder_, "/", component, kEnding);
}

ModelShelf::Models ModelShelf::Get(const std::string& component) const {
  std::lock_guard lock(mutex_);
  const auto found = models_.find(component);
  return found == models_.end() ? Models() : found->second;
}

absl::Status ModelShelf::Put(const std::string& component, Models models) {
  RETURN_IF_ERROR(CheckComponentName(component));
  RETURN_IF_ERROR(CheckModels(models));
  std::lock_guard lock(mutex_);
  models_[component] = std::move(models);
  changed_.insert(component);
  return absl::OkStatus();
}

void ModelShelf::KeepOnly(const std::function<bool(const std::string&)>& wanted) {
  std::lock_guard lock(mutex_);
  std::erase_if(models_, [&](const auto& entry) {
    if (wanted(entry.first)) return false;
    std::error_code error;
    std::filesystem::remove(PathOf(entry.first), error);
    changed_.erase(entry.first);
    return true;
  });
}

absl::Status ModelShelf::Flush() {
  std::map<std::string, Models> write;
  {
    std::lock_guard lock(mutex_);
    for (const std::string& name : changed_) write[name] = models_[name];
    changed_.clear();
  }
  absl::Status first;
  for (const auto& [name, models] : write) {
    v1::ShadowModels message;
    for (const std::string& model : models) message.add_models(model);
    // Not synced: losing it costs what was learned, and the disk is the components'.
    const std::string path = PathOf(name), fresh = path + ".new";
    absl::Status written = [&]() -> absl::Status {
      ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(fresh, O_WRONLY | O_CREAT | O_TRUNC, 0600));
      const std::string bytes = message.SerializeAsString();
      RETURN_IF_ERROR(WriteAll(fd.get(), bytes.data(), bytes.size()));
      if (::rename(fresh.c_str(), path.c_str()) != 0) return ErrnoStatus(path);
      return absl::OkStatus();
    }();
    first.Update(Annotate(written, path));
  }
  return first;
}

}  // namespace starling::shadow
