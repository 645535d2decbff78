// Whatever every processor of this architecture has: SSE2, or NEON.
#define XXH3_VARIANT Xxh3Native
#include "base/xxh3_variant.h"
