#include <string>

#include "runtime/proto/loop.grpc.pb.h"
#include "tools/starling/commands.h"
#include "tools/starling/render_loop.h"

namespace starling::cli {
namespace {

// Makes one call; on failure says so and answers false with `code` set.
template <typename Request, typename Response>
bool Ask(Session& session,
         grpc::Status (v1::Loop::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
         const Request& request, Response* response, ExitCode* code) {
  grpc::ClientContext context;
  Interrupter::Call call(session.interrupter, context);
  const auto stub = session.agent.loop();
  const grpc::Status status = (stub.get()->*method)(&context, request, response);
  if (status.ok()) return true;
  *code = FailCall(session, status);
  return false;
}

void Show(Session& session, Format format, const std::string& text, const std::string& json) {
  if (format == Format::kJson) {
    session.io.out << json << std::endl;
  } else {
    session.io.out << text << std::flush;
  }
}

}  // namespace

ExitCode Forecast(Session& session, const v1::ForecastRequest& request, Format format) {
  v1::ForecastResponse response;
  ExitCode code;
  if (!Ask(session, &v1::Loop::Stub::Forecast, request, &response, &code)) return code;
  Show(session, format, ForecastText(response), ForecastJson(response));
  return ExitCode::kOk;
}

ExitCode Leases(Session& session, Format format) {
  v1::LeasesResponse response;
  ExitCode code;
  if (!Ask(session, &v1::Loop::Stub::Leases, v1::LeasesRequest(), &response, &code)) return code;
  Show(session, format, LeasesText(response), LeasesJson(response));
  return ExitCode::kOk;
}

ExitCode Why(Session& session, const v1::WhyRequest& request, Format format) {
  v1::WhyResponse response;
  ExitCode code;
  if (!Ask(session, &v1::Loop::Stub::Why, request, &response, &code)) return code;
  Show(session, format, WhyText(request.name(), response), WhyJson(response));
  return ExitCode::kOk;
}

ExitCode Park(Session& session, const std::string& name) {
  v1::ParkRequest request;
  request.set_name(name);
  v1::ParkResponse response;
  ExitCode code;
  if (!Ask(session, &v1::Loop::Stub::Park, request, &response, &code)) return code;
  session.io.out << name << " is parked" << std::endl;
  return ExitCode::kOk;
}

ExitCode Unpark(Session& session, const std::string& name) {
  v1::UnparkRequest request;
  request.set_name(name);
  v1::UnparkResponse response;
  ExitCode code;
  if (!Ask(session, &v1::Loop::Stub::Unpark, request, &response, &code)) return code;
  session.io.out << name << " runs on" << std::endl;
  return ExitCode::kOk;
}

}  // namespace starling::cli
