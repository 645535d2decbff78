#pragma once

#include <memory>
#include <ostream>
#include <string>

#include "tools/starling/commands.h"

// What the commands that make one call have in common.

namespace starling::cli {

// Makes one call of a service of the agent's; on failure says so and answers false with `code` set.
template <typename Service, typename Request, typename Response>
bool Ask(Session& session, Service& stub,
         grpc::Status (Service::*method)(grpc::ClientContext*, const Request&, Response*),
         const Request& request, Response* response, ExitCode* code) {
  grpc::ClientContext context;
  Interrupter::Call call(session.interrupter, context);
  const grpc::Status status = (stub.*method)(&context, request, response);
  if (status.ok()) return true;
  *code = FailCall(session, status);
  return false;
}

template <typename Service, typename Request, typename Response>
bool Ask(Session& session, const std::unique_ptr<Service>& stub,
         grpc::Status (Service::*method)(grpc::ClientContext*, const Request&, Response*),
         const Request& request, Response* response, ExitCode* code) {
  return Ask(session, *stub, method, request, response, code);
}

// Of the service that most commands speak.
template <typename Request, typename Response>
bool Ask(Session& session,
         grpc::Status (v1::Starling::Stub::*method)(grpc::ClientContext*, const Request&,
                                                    Response*),
         const Request& request, Response* response, ExitCode* code) {
  return Ask(session, session.agent.stub(), method, request, response, code);
}

inline void Show(Session& session, Format format, const std::string& text,
                 const std::string& json) {
  if (format == Format::kJson) {
    session.io.out << json << std::endl;
  } else {
    session.io.out << text << std::flush;
  }
}

}  // namespace starling::cli
