/* A stand-in for NVIDIA's management library, as its nvml.h declares it: there is no GPU to test
 * with. What it answers is in the file that FAKE_NVML names, a fact a line:
 *   gpu INDEX PERCENT TOTAL USED
 *   process INDEX PID BYTES PERCENT     (compute; BYTES may be -1: not available)
 *   drawing INDEX PID BYTES
 *   broken INDEX                        (that GPU answers with an error)
 *   no-samples                          (the driver does not say what each process does)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kMost = 1024, kGpus = 8, kSuccess = 0, kNotSupported = 3, kNotFound = 6, kTooSmall = 7 };

struct use {
  unsigned gpu, pid, percent;
  long long bytes;
  int drawing;
};
static struct {
  unsigned count, percent[kGpus], uses;
  unsigned long long total[kGpus], used[kGpus], reads;
  int broken[kGpus], no_samples;
  struct use use[kMost];
} state;

static void load(void) {
  const unsigned long long reads = state.reads + 1;
  memset(&state, 0, sizeof state);
  state.reads = reads;
  const char* path = getenv("FAKE_NVML");
  FILE* file = path ? fopen(path, "r") : NULL;
  if (file == NULL) return;
  char line[256];
  while (fgets(line, sizeof line, file)) {
    unsigned gpu = 0, pid = 0, percent = 0;
    unsigned long long total = 0, used = 0;
    long long bytes = 0;
    if (sscanf(line, "gpu %u %u %llu %llu", &gpu, &percent, &total, &used) == 4 && gpu < kGpus) {
      if (gpu >= state.count) state.count = gpu + 1;
      state.percent[gpu] = percent;
      state.total[gpu] = total;
      state.used[gpu] = used;
    } else if (sscanf(line, "process %u %u %lld %u", &gpu, &pid, &bytes, &percent) == 4) {
      if (state.uses < kMost) {
        state.use[state.uses++] = (struct use){gpu, pid, percent, bytes, 0};
      }
    } else if (sscanf(line, "drawing %u %u %lld", &gpu, &pid, &bytes) == 3) {
      if (state.uses < kMost) state.use[state.uses++] = (struct use){gpu, pid, 0, bytes, 1};
    } else if (sscanf(line, "broken %u", &gpu) == 1 && gpu < kGpus) {
      state.broken[gpu] = 1;
    } else if (strncmp(line, "no-samples", 10) == 0) {
      state.no_samples = 1;
    }
  }
  fclose(file);
}

/* Handles are the index and one, so that none is null. */
static unsigned index_of(void* device) { return (unsigned)((size_t)device - 1); }

int nvmlInit_v2(void) { return getenv("FAKE_NVML_DEAD") ? 9 : kSuccess; }
int nvmlShutdown(void) { return kSuccess; }
int nvmlDeviceGetCount_v2(unsigned* count) {
  load();
  *count = state.count;
  return kSuccess;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = (void*)(size_t)(index + 1);
  return index < state.count ? kSuccess : kNotFound;
}
struct utilization {
  unsigned gpu, memory;
};
int nvmlDeviceGetUtilizationRates(void* device, struct utilization* answer) {
  if (state.broken[index_of(device)]) return 15; /* NVML_ERROR_GPU_IS_LOST */
  *answer = (struct utilization){state.percent[index_of(device)], 0};
  return kSuccess;
}
struct memory {
  unsigned long long total, free, used;
};
int nvmlDeviceGetMemoryInfo(void* device, struct memory* answer) {
  const unsigned i = index_of(device);
  *answer = (struct memory){state.total[i], state.total[i] - state.used[i], state.used[i]};
  return kSuccess;
}
struct process {
  unsigned pid;
  unsigned long long memory;
  unsigned gpu_instance, compute_instance;
};
static int list(void* device, unsigned* count, struct process* to, int drawing) {
  unsigned found = 0;
  for (unsigned i = 0; i < state.uses; ++i) {
    const struct use* use = &state.use[i];
    if (use->gpu != index_of(device) || use->drawing != drawing) continue;
    if (found < *count) {
      to[found] = (struct process){use->pid, (unsigned long long)use->bytes, 0, 0};
    }
    ++found;
  }
  const int fits = found <= *count;
  *count = found;
  return fits ? kSuccess : kTooSmall;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void* device, unsigned* count, struct process* to) {
  return list(device, count, to, 0);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(void* device, unsigned* count, struct process* to) {
  return list(device, count, to, 1);
}
struct sample {
  unsigned pid;
  unsigned long long time_us;
  unsigned gpu, memory, encoder, decoder;
};
int nvmlDeviceGetProcessUtilization(void* device, struct sample* to, unsigned* count,
                                    unsigned long long since_us) {
  if (state.no_samples) return kNotSupported;
  const unsigned long long now_us = 1000000 * state.reads;
  if (since_us >= now_us) return kNotFound;
  unsigned found = 0;
  for (unsigned i = 0; i < state.uses; ++i) {
    const struct use* use = &state.use[i];
    if (use->gpu != index_of(device) || use->drawing || use->percent == 0) continue;
    /* An older sample beside the newest one. */
    for (int old = 1; old >= 0; --old) {
      if (found < *count) {
        to[found] = (struct sample){use->pid, now_us - (unsigned)old, old ? 1 : use->percent,
                                    0,        0,                      0};
      }
      ++found;
    }
  }
  const int fits = found <= *count;
  *count = found;
  if (found == 0) return kNotFound;
  return fits ? kSuccess : kTooSmall;
}
