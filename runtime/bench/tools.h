#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "runtime/proto/bench.pb.h"

// The measuring programs of others, run beside ours on the same two hosts.

namespace starling::bench {

// How a tool is run: its server at the peer, its client here. kInvalidArgument for a tool that is
// not one of these; there are no others, since a peer may ask for them.
struct ToolCommands {
  std::vector<std::string> server;
  std::vector<std::string> client;
};
// `device`: the RDMA device, for those that need one; `address` of the server.
absl::StatusOr<ToolCommands> CommandsOf(absl::string_view tool, const std::string& device,
                                        const std::string& address, uint16_t port, int connections);
inline const std::vector<std::string>& Tools() {
  static const auto& tools = *new std::vector<std::string>{"ib_write_bw", "ib_send_lat", "iperf3"};
  return tools;
}

// What the client printed, as a figure in `result`; kDataLoss when there is none in it. Pure.
absl::Status ReadFigure(absl::string_view output, v1::BenchTool& result);

// A program with its output. Killed, if it still runs, when this goes.
class ToolProcess {
 public:
  // kNotFound when it is not installed.
  static absl::StatusOr<std::unique_ptr<ToolProcess>> Start(const std::vector<std::string>& argv);
  ~ToolProcess();

  // Everything that it prints until it ends; an error when it fails or takes longer.
  absl::StatusOr<std::string> Finish(Deadline deadline);
  // Whether it has ended by itself. Then Finish() has nothing to say any more.
  bool Ended();

 private:
  ToolProcess(int pid, int output, std::string name)
      : pid_(pid), output_(output), name_(std::move(name)) {}
  int pid_;
  int output_;
  const std::string name_;
};

}  // namespace starling::bench
