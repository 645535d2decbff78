#include "runtime/keeper/fence.h"

#include <nftables/libnftables.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace starling::keeper {
namespace {

constexpr char kTable[] = "netdev starling_fence";

// The first number of `text` after "packets ".
uint64_t Packets(absl::string_view text) {
  const size_t at = text.find("packets ");
  if (at == absl::string_view::npos) return 0;
  text.remove_prefix(at + sizeof("packets ") - 1);
  uint64_t value = 0;
  (void)absl::SimpleAtoi(text.substr(0, text.find(' ')), &value);
  return value;
}

}  // namespace

void Fence::ContextDeleter::operator()(nft_ctx* context) const { nft_ctx_free(context); }

absl::StatusOr<Fence> Fence::Create(const NetworkNamespace& network, bool raised) {
  nft_ctx* context = nullptr;
  RETURN_IF_ERROR(network.Run([&] {
    context = nft_ctx_new(NFT_CTX_DEFAULT);
    return context == nullptr ? absl::ResourceExhaustedError("no memory for nftables")
                              : absl::OkStatus();
  }));
  Fence fence(&network, context);
  nft_ctx_buffer_output(context);
  nft_ctx_buffer_error(context);
  // Before every other hook of the device.
  const auto made = fence.Transact(absl::StrCat(
      "add table ", kTable, "\n",                                                     //
      "add chain ", kTable, " in { type filter hook ingress device \"", kDeviceName,  //
      "\" priority -500; policy accept; }\n",                                         //
      "add chain ", kTable, " out { type filter hook egress device \"", kDeviceName,  //
      "\" priority -500; policy accept; }\n"));
  if (!made.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the component's network cannot be fenced (nftables with ingress and egress "
                     "hooks is needed, Linux 5.17 or later): ",
                     made.status().message()));
  }
  // Once up before it counts: the first transaction takes several times as long as the next ones.
  if (const absl::Status up = fence.Raise(); !up.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the component's network cannot be fenced (nftables with nft_fwd_netdev is "
                     "needed): ",
                     up.message()));
  }
  if (!raised) RETURN_IF_ERROR(fence.Lower());
  return fence;
}

absl::Status Fence::Raise() {
  if (raised_) return absl::OkStatus();
  const auto done =
      Transact(absl::StrCat("add rule ", kTable, " in counter drop\n",  //
                            "add rule ", kTable, " out counter fwd to \"", kSinkName, "\"\n"));
  RETURN_IF_ERROR(Annotate(done.status(), "raise the fence"));
  raised_ = true;
  return absl::OkStatus();
}

absl::Status Fence::Lower() {
  if (!raised_) return absl::OkStatus();
  const auto done = Transact(absl::StrCat("flush table ", kTable, "\n"));
  RETURN_IF_ERROR(Annotate(done.status(), "lower the fence"));
  raised_ = false;
  return absl::OkStatus();
}

absl::Status Fence::RemoveTables(absl::string_view prefix) {
  ASSIGN_OR_RETURN(const std::string tables, Transact("list tables\n"));
  std::string commands;
  for (absl::string_view line : absl::StrSplit(tables, '\n', absl::SkipEmpty())) {
    // "table inet NAME"
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    if (words.size() != 3 || !absl::StartsWith(words[2], prefix)) continue;
    absl::StrAppend(&commands, "delete ", line, "\n");
  }
  if (commands.empty()) return absl::OkStatus();
  return Annotate(Transact(commands).status(), "remove what CRIU left");
}

absl::StatusOr<Fence::Stopped> Fence::CountStopped() {
  Stopped stopped;
  ASSIGN_OR_RETURN(const std::string in, Transact(absl::StrCat("list chain ", kTable, " in\n")));
  ASSIGN_OR_RETURN(const std::string out, Transact(absl::StrCat("list chain ", kTable, " out\n")));
  stopped.in = Packets(in);
  stopped.out = Packets(out);
  return stopped;
}

absl::StatusOr<std::string> Fence::Transact(const std::string& commands) {
  // libnftables looks device names up in the namespace of the thread that calls it.
  RETURN_IF_ERROR(network_->Run([&] {
    if (nft_run_cmd_from_buffer(context_.get(), commands.c_str()) == 0) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(
        "nftables: ", absl::StripAsciiWhitespace(nft_ctx_get_error_buffer(context_.get()))));
  }));
  return std::string(nft_ctx_get_output_buffer(context_.get()));
}

}  // namespace starling::keeper
