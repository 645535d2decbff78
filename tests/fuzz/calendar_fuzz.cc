#include "runtime/profiles/calendar.h"
#include "tests/fuzz/fuzz.h"

// A user's calendar: any text is entries in order, or refused with the line.

using starling::fuzz::Require;
using starling::fuzz::Text;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto entries = starling::ParseCalendar(Text(data, size), 3600);
  if (!entries.ok()) {
    Require(!entries.status().message().empty());
    return 0;
  }
  Require(entries->size() <= 10000);
  for (size_t i = 0; i < entries->size(); ++i) {
    Require((*entries)[i].begin_s <= (*entries)[i].end_s);
    Require(i == 0 || (*entries)[i - 1].begin_s <= (*entries)[i].begin_s);
  }
  return 0;
}
