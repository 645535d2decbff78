#pragma once

#include <cstdint>

namespace starling::keeper {

// Version of runtime/proto/keeper.proto. It is raised only when an older keeper could misunderstand
// a request; new requests and fields do not raise it.
inline constexpr uint32_t kProtocol = 1;

}  // namespace starling::keeper
