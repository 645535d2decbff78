#include <string>

#include "runtime/proto/loop.grpc.pb.h"
#include "tools/starling/ask.h"
#include "tools/starling/commands.h"
#include "tools/starling/render_loop.h"

namespace starling::cli {

ExitCode Forecast(Session& session, const v1::ForecastRequest& request, Format format) {
  v1::ForecastResponse response;
  ExitCode code;
  if (!Ask(session, session.agent.loop(), &v1::Loop::Stub::Forecast, request, &response, &code))
    return code;
  Show(session, format, ForecastText(response), ForecastJson(response));
  return ExitCode::kOk;
}

ExitCode Leases(Session& session, Format format) {
  v1::LeasesResponse response;
  ExitCode code;
  if (!Ask(session, session.agent.loop(), &v1::Loop::Stub::Leases, v1::LeasesRequest(), &response,
           &code))
    return code;
  Show(session, format, LeasesText(response), LeasesJson(response));
  return ExitCode::kOk;
}

ExitCode Why(Session& session, const v1::WhyRequest& request, Format format) {
  v1::WhyResponse response;
  ExitCode code;
  if (!Ask(session, session.agent.loop(), &v1::Loop::Stub::Why, request, &response, &code))
    return code;
  Show(session, format, WhyText(request.name(), response), WhyJson(response));
  return ExitCode::kOk;
}

ExitCode Park(Session& session, const std::string& name) {
  v1::ParkRequest request;
  request.set_name(name);
  v1::ParkResponse response;
  ExitCode code;
  if (!Ask(session, session.agent.loop(), &v1::Loop::Stub::Park, request, &response, &code))
    return code;
  session.io.out << name << " is parked" << std::endl;
  return ExitCode::kOk;
}

ExitCode Unpark(Session& session, const std::string& name) {
  v1::UnparkRequest request;
  request.set_name(name);
  v1::UnparkResponse response;
  ExitCode code;
  if (!Ask(session, session.agent.loop(), &v1::Loop::Stub::Unpark, request, &response, &code))
    return code;
  session.io.out << name << " runs on" << std::endl;
  return ExitCode::kOk;
}

}  // namespace starling::cli
