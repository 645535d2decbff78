#include "checkpoint/criu_images.h"
#include "checkpoint/lazy_index.h"
#include "tests/fuzz/fuzz.h"

// The images of CRIU that we read, and our own index beside them.

using starling::fuzz::Text;
using namespace starling::checkpoint;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  (void)DecodePagemap(Text(data, size)).ok();
  (void)DecodeDumpStats(Text(data, size)).ok();
  (void)DecodeMm(Text(data, size)).ok();
  (void)LazyMappings(Text(data, size)).ok();
  (void)DecodeLazyIndex(Text(data, size)).ok();
  return 0;
}
