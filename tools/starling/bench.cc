#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/text.h"
#include "base/units.h"
#include "runtime/proto/bench.grpc.pb.h"
#include "tools/replay/plot.h"
#include "tools/starling/commands.h"
#include "tools/starling/render.h"

namespace starling::cli {
namespace {

std::string Rate(double bytes_per_s) {
  return absl::StrCat(FormatBytes(static_cast<uint64_t>(std::max(0.0, bytes_per_s))), "/s");
}

double Best(const v1::BenchResult& result) {
  double best = 0;
  for (const v1::BenchPoint& point : result.points()) best = std::max(best, point.bytes_per_s());
  return best;
}

void SayResult(std::ostream& out, const v1::BenchResult& result) {
  out << Printable(result.provider()) << ": up to " << Rate(Best(result)) << " over "
      << result.connections() << " connections; a message there and back in "
      << FormatTime(result.round_trip_median_s()) << " (median of " << result.round_trips()
      << ", 99% within " << FormatTime(result.round_trip_p99_s()) << ")\n  "
      << Printable(result.connection()) << "\n";
  for (const v1::BenchPoint& point : result.points()) {
    out << absl::StreamFormat("  %10s %14s\n", FormatBytes(point.bytes()),
                              Rate(point.bytes_per_s()));
  }
}

void SayTool(std::ostream& out, const v1::BenchTool& tool) {
  out << Printable(tool.tool()) << ": ";
  if (!tool.skipped().empty()) {
    out << "not measured: " << Printable(tool.skipped()) << "\n";
  } else if (tool.one_way_s() > 0) {
    out << FormatTime(tool.one_way_s()) << " one way\n";
  } else {
    out << Rate(tool.bytes_per_s()) << "\n";
  }
}

absl::Status WritePlot(const std::string& path, const std::string& to,
                       const std::vector<v1::BenchResult>& results,
                       const std::vector<v1::BenchTool>& tools) {
  std::vector<replay::Line> lines;
  for (const v1::BenchResult& result : results) {
    replay::Line line{result.provider(), {}};
    for (const v1::BenchPoint& point : result.points()) {
      line.points.emplace_back(std::log2(static_cast<double>(point.bytes())),
                               point.bytes_per_s() / 1e6);
    }
    lines.push_back(std::move(line));
  }
  for (const v1::BenchTool& tool : tools) {
    if (tool.bytes_per_s() <= 0) continue;
    // Both write 1 MiB at a time here, or as good as.
    lines.push_back({tool.tool(), {{20.0, tool.bytes_per_s() / 1e6}}, /*connected=*/false});
  }
  return WriteFileAtomic(path, replay::Chart(absl::StrCat("Bandwidth to ", to),
                                             "bytes of one write, log2", "MB/s", lines));
}

}  // namespace

ExitCode Bench(Session& session, const BenchOptions& options) {
  Io& io = session.io;
  std::vector<v1::BenchResult> results;
  std::vector<v1::BenchTool> tools;
  grpc::ClientContext context;
  grpc::Status status;
  {
    Interrupter::Call call(session.interrupter, context);
    const auto stub = session.agent.bench();
    v1::BenchRequest request;
    request.set_to(options.to);
    request.set_provider(options.provider);
    request.set_tools(options.tools);
    auto reader = stub->Run(&context, request);
    v1::BenchProgress progress;
    while (reader->Read(&progress)) {
      if (io.err_is_terminal && !progress.message().empty())
        io.err << "\r" << Printable(progress.message()) << "\x1b[K" << std::flush;
      if (progress.has_result()) results.push_back(progress.result());
      if (progress.has_tool()) tools.push_back(progress.tool());
    }
    status = reader->Finish();
  }
  if (io.err_is_terminal) io.err << "\r\x1b[K" << std::flush;
  if (!status.ok()) return FailCall(session, status);
  if (options.format == Format::kJson) {
    io.out << BenchJson(options.to, results, tools) << std::endl;
  } else {
    for (const v1::BenchResult& result : results) SayResult(io.out, result);
    for (const v1::BenchTool& tool : tools) SayTool(io.out, tool);
    io.out << std::flush;
  }
  if (options.svg.empty()) return ExitCode::kOk;
  const absl::Status written = WritePlot(options.svg, options.to, results, tools);
  return written.ok() ? ExitCode::kOk : Fail(io, ExitCode::kFailed, written.message());
}

}  // namespace starling::cli
