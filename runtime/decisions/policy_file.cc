#include "runtime/decisions/policy_file.h"

#include "base/file.h"
#include "base/status.h"

namespace starling::decisions {

PolicyFile::Stamp PolicyFile::StampOf(const std::string& path) {
  struct stat st = {};
  if (stat(path.c_str(), &st) != 0) return {};
  return {st.st_mtim.tv_sec, st.st_mtim.tv_nsec, st.st_size, st.st_ino};
}

absl::Status PolicyFile::Refresh() {
  if (path_.empty()) return absl::OkStatus();
  absl::Status status = absl::OkStatus();
  const Stamp stamp = StampOf(path_);
  if (stamp != policy_stamp_) {
    policy_stamp_ = stamp;
    auto policy = LoadPolicy(path_);
    refused_ = policy.status();
    if (policy.ok()) {
      policy_ = std::move(*policy);
    } else {
      status = Annotate(policy.status(), "the policy in force stays");
    }
  }
  if (prices_path_ != policy_.price_feed) {
    prices_path_ = policy_.price_feed;
    prices_stamp_ = NotRead();
    prices_ = {};
  }
  if (prices_path_.empty()) return status;
  const Stamp prices = StampOf(prices_path_);
  if (prices == prices_stamp_) return status;
  prices_stamp_ = prices;
  const auto text = ReadFile(prices_path_);
  auto feed = text.ok() ? PriceFeed::Parse(*text, prices_path_) : text.status();
  if (feed.ok()) {
    prices_ = std::move(*feed);
  } else if (status.ok()) {
    status = Annotate(feed.status(), "the prices in force stay");
  }
  return status;
}

}  // namespace starling::decisions
