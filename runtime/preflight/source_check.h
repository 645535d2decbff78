#pragma once

#include <string>
#include <vector>

#include "runtime/preflight/component_facts.h"
#include "runtime/proto/starling.pb.h"

namespace starling::preflight {

// All obstacles on the source's side, at once; the same code about the same thing once only. Pure.
std::vector<v1::Obstacle> CheckSource(const ComponentFacts& facts);

// What stands in the way of a checkpoint beside that. Pure.
std::vector<v1::Obstacle> CheckCheckpoint(const ComponentFacts& facts);

// TCP connections that are established. Pure.
uint32_t EstablishedConnections(const ComponentFacts& facts);

// What the source is, as the target must know it.
struct SourceHost {
  std::string host;
  std::string kernel;      // uname's release
  std::string criu;        // "3.17.1"; empty: missing or unusable
  std::string criu_error;  // why, when empty
  std::vector<std::string> cpu_flags;
  uint32_t protocol = 0;
};

// The question to the target. Pure; storage tokens (storage_token.h) are added by the caller.
v1::ExamineRequest MakeExamineRequest(const ComponentFacts& facts, const SourceHost& source);

// Obstacles that need no look at the component: the source's CRIU, and the protocol of a peer that
// answered Hello. Pure.
std::vector<v1::Obstacle> CheckHosts(const SourceHost& source, const v1::HelloResponse& peer);

}  // namespace starling::preflight
