#pragma once

#include <cstdint>

namespace starling::keeper {

// Version of runtime/proto/keeper.proto. It is raised only when an older keeper could misunderstand
// a request; new requests and fields do not raise it.
inline constexpr uint32_t kProtocol = 1;

// File of the images folder that says what of a restore on demand waits in the arena.
inline constexpr char kLazyIndex[] = "lazy-index";

}  // namespace starling::keeper
