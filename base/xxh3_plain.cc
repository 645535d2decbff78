#define XXH_VECTOR 0  // XXH_SCALAR
#define XXH3_VARIANT Xxh3Plain
#include "base/xxh3_variant.h"
