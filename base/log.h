#pragma once

#include <spdlog/spdlog.h>

// Logging is spdlog's default logger, set up once by each program's main(). Messages name the thing
// first
// ("migration 7f3a: ...") and are written where an error is decided or an operation changes state,
// never on hot paths.
