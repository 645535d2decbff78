#include "runtime/proto/keeper.pb.h"
#include "runtime/spec.h"
#include "tests/fuzz/fuzz.h"

// Messages between an agent and a keeper, and the description of a component within them.

using starling::fuzz::Require;
using namespace starling;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  keeper::v1::Request request;
  if (request.ParseFromArray(data, static_cast<int>(size))) (void)request.SerializeAsString();
  keeper::v1::Reply reply;
  if (reply.ParseFromArray(data, static_cast<int>(size))) (void)reply.SerializeAsString();
  v1::ComponentSpec spec;
  if (spec.ParseFromArray(data, static_cast<int>(size)) && CheckSpec(spec).ok()) {
    Require(!spec.name().empty() && spec.command_size() > 0);
    Require(spec.name().find('/') == std::string::npos);
  }
  return 0;
}
