#define XXH_VECTOR 2  // XXH_AVX2
#define XXH3_VARIANT Xxh3Avx2
#include "base/xxh3_variant.h"
