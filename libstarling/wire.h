/* A hint as it goes to the agent: one datagram on the socket that STARLING_HINTS names. Numbers in
 * the host's own order: it never leaves it. */
#ifndef STARLING_WIRE_H
#define STARLING_WIRE_H

#include <stdint.h>

#define STARLING_HINTS_VARIABLE "STARLING_HINTS"
#define STARLING_WIRE_MAGIC 0x31544e48u /* "HNT1" */

enum starling_wire_kind {
  STARLING_WIRE_NEED = 1,
  STARLING_WIRE_ACTIVITY = 2,
  STARLING_WIRE_GOOD_MOMENT = 3,
  STARLING_WIRE_NOT_NOW = 4,
  STARLING_WIRE_PHASE = 5,
  STARLING_WIRE_CONNECTED = 6,
  STARLING_WIRE_DISCONNECTED = 7,
};

struct starling_wire {
  uint32_t magic;
  uint16_t kind;
  uint16_t resource; /* NEED */
  double amount;     /* NEED */
  double seconds;    /* NEED: from now; GOOD_MOMENT, NOT_NOW: for how long */
  uint32_t moves, clicks, scrolls, keys, frames; /* ACTIVITY */
  uint32_t unused;
  char phase[32]; /* PHASE; CONNECTED, DISCONNECTED: the user; ends with a zero */
};

#endif
