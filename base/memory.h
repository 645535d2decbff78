#pragma once

namespace starling {

// Gives what the allocator keeps for later back to the system: after work that took much for a
// while. Thread-safe.
void GiveMemoryBack();

}  // namespace starling
