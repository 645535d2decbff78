#include "runtime/migration/batch.h"
#include "runtime/migration/lane_grants.h"
#include "tests/fuzz/fuzz.h"

// Messages beside the pages of a migration.

using starling::fuzz::Require;
using starling::fuzz::Text;
using namespace starling::migration;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (const auto batch = DecodeBatch(Text(data, size)); batch.ok()) {
    Require(batch->runs.size() <= kMaxBatchRuns);
    for (const BatchRun& run : batch->runs) {
      Require(run.run.pages > 0);
      Require(run.run.address % starling::checkpoint::kPageSize == 0);
    }
    Require(EncodeBatch(*batch) == Text(data, size));
  }
  if (const auto answer = DecodeAnswer(Text(data, size)); answer.ok())
    Require(EncodeAnswer(*answer) == Text(data, size));
  Require(!IsGrants(Text(data, size)) || !IsGrantRequest(Text(data, size)));
  if (const auto request = DecodeGrantRequest(Text(data, size)); request.ok()) {
    Require(IsGrantRequest(Text(data, size)) && request->chunks <= kMaxGrantedChunks);
    Require(EncodeGrantRequest(*request) == Text(data, size));
  }
  if (const auto grants = DecodeGrants(Text(data, size)); grants.ok()) {
    Require(IsGrants(Text(data, size)) && grants->chunks.size() <= kMaxGrantedChunks);
    Require(EncodeGrants(*grants) == Text(data, size));
  }
  return 0;
}
