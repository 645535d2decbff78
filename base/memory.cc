#include "base/memory.h"

#include <malloc.h>

namespace starling {

void GiveMemoryBack() { (void)::malloc_trim(0); }

}  // namespace starling
