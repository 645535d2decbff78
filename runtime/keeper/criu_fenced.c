// Loaded into CRIU (LD_PRELOAD) where the component's network is fenced: spares it the network lock.
//
// CRIU keeps established connections quiet with rules of its own, made and removed with libnftables
// inside the blackout: a table, and four transactions for each connection. Behind the keeper's fence
// no packet goes in or out at all, so these rules have nothing to do. CRIU 3.17 knows no way to leave
// them out. See docs/decisions/0006-no-second-lock.md.

#include <stdint.h>
#include <stdio.h>

#define SHOWN __attribute__((visibility("default")))

struct nft_ctx;

SHOWN struct nft_ctx* nft_ctx_new(uint32_t flags) {
  static char context;
  (void)flags;
  return (struct nft_ctx*)&context;
}
SHOWN void nft_ctx_free(struct nft_ctx* context) { (void)context; }
SHOWN int nft_ctx_buffer_output(struct nft_ctx* context) {
  (void)context;
  return 0;
}
SHOWN int nft_ctx_buffer_error(struct nft_ctx* context) {
  (void)context;
  return 0;
}
SHOWN FILE* nft_ctx_set_output(struct nft_ctx* context, FILE* file) {
  (void)context;
  return file;
}
SHOWN int nft_run_cmd_from_buffer(struct nft_ctx* context, const char* commands) {
  (void)context;
  (void)commands;
  return 0;
}
