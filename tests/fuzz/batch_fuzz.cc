#include "runtime/migration/batch.h"
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
  return 0;
}
