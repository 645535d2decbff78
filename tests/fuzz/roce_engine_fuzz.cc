#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "tests/fuzz/fuzz.h"
#include "transport/roce/engine.h"

// A peer that sends whatever it likes, with addresses, queue pair number and ICRC that are right:
// nothing outside its grant and the posted receives changes, nothing is received into that was not
// posted, every request completes once at most.

using starling::Clock;
using starling::TimePoint;
using starling::fuzz::Require;
using namespace starling::transport;
using namespace starling::transport::roce;

namespace {

constexpr uint32_t kMtu = 256;
constexpr size_t kGuard = 512;
constexpr size_t kBytes = 2048;
constexpr std::byte kMark{0x5a};

// Memory between two guards.
struct Guarded {
  Guarded() : memory(kGuard + kBytes + kGuard, kMark) {}
  std::span<std::byte> inside() { return std::span<std::byte>(memory).subspan(kGuard, kBytes); }
  uint64_t address() { return reinterpret_cast<uint64_t>(inside().data()); }
  void Check() const {
    const auto marked = [](std::byte byte) { return byte == kMark; };
    Require(std::all_of(memory.begin(), memory.begin() + kGuard, marked));
    Require(std::all_of(memory.end() - kGuard, memory.end(), marked));
  }
  std::vector<std::byte> memory;
};

struct Sink final : FrameSink, CompletionSink {
  bool HasRoom() override { return true; }
  void Send(const OutgoingFrame& frame) override { Require(frame.bytes <= kMaxFrameBytes); }
  void Complete(const WorkCompletion& completion) override {
    Require(completion.id < completed.size());
    Require(!std::exchange(completed[completion.id], true));
    Require(!completion.received || completion.bytes <= kBytes);
  }
  std::array<bool, 16> completed{};
};

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MacAddress own_mac = {2, 0, 0, 0, 0, 1};
  const MacAddress peer_mac = {2, 0, 0, 0, 0, 2};
  Engine engine(own_mac, 0x0a000001, 1);
  Sink sink;
  Guarded writable, readable, local, inbox;
  const uint32_t write_key = *engine.regions().Add(writable.inside(), Access::kRemoteWrite);
  const uint32_t read_key = *engine.regions().Add(readable.inside(), Access::kRemoteRead);
  const uint32_t local_key = *engine.regions().Add(local.inside(), Access::kLocal);
  const uint32_t inbox_key = *engine.regions().Add(inbox.inside(), Access::kLocal);
  const std::vector<std::byte> unread = readable.memory;

  PairTuning tuning;
  tuning.window = 8;
  tuning.reads = 2;
  tuning.read_packets = 2;
  tuning.give_up = std::chrono::seconds(1);
  EnginePair* const pair = engine.MakePair(tuning, sink);
  engine.Connect(*pair, {.peer_mac = peer_mac,
                         .peer_ip = 0x0a000002,
                         .peer_queue_pair = 77,
                         .own_psn = 0xfffffc,
                         .peer_psn = 0xfffffe,
                         .mtu = kMtu});
  TimePoint now = TimePoint(std::chrono::hours(1));
  for (uint64_t id = 0; id < 8; ++id) {
    WorkRequest request;
    request.id = id;
    request.operation = static_cast<Operation>(id % 4);
    request.signalled = true;
    request.piece_count = 1;
    request.pieces[0] = {local.address(), static_cast<uint32_t>(100 + 200 * id), local_key};
    pair->Post(request);
  }
  for (uint64_t id = 8; id < 16; ++id)
    pair->PostReceive(id, {inbox.address(), kBytes / 2, inbox_key});

  // Each packet is made of twelve bytes.
  std::vector<std::byte> frame(kMaxFrameBytes);
  const std::vector<std::byte> payload(2 * kMtu, std::byte{0xa5});
  for (; size >= 12; data += 12, size -= 12) {
    Headers h;
    h.destination_mac = own_mac;
    h.source_mac = peer_mac;
    h.source_ip = 0x0a000002;
    h.destination_ip = 0x0a000001;
    h.queue_pair = pair->number();
    h.opcode = static_cast<Opcode>(data[0] % (kLastOpcode + 1));
    h.ack_request = (data[1] & 1) != 0;
    h.migrated = (data[1] & 2) != 0;
    // Close to what is expected, in either direction.
    const uint32_t origin = h.opcode > Opcode::kReadRequest ? 0xfffffc : 0xfffffe;
    h.psn = (origin + static_cast<uint32_t>(static_cast<int8_t>(data[2]))) & kMask24;
    h.syndrome = data[3];
    const bool read = h.opcode == Opcode::kReadRequest;
    h.remote_key =
        (data[1] & 4) != 0 ? (read ? write_key : read_key) : (read ? read_key : write_key);
    if ((data[1] & 8) != 0) h.remote_key ^= data[4];
    const auto offset = static_cast<int16_t>(data[5] | data[6] << 8);
    h.remote_address = (read ? readable.address() : writable.address()) +
                       static_cast<uint64_t>(static_cast<int64_t>(offset % 4096));
    h.dma_bytes = static_cast<uint32_t>(data[7] | data[8] << 8);
    if ((data[1] & 16) != 0) h.dma_bytes = ~h.dma_bytes;
    size_t bytes = static_cast<size_t>(data[9] | data[10] << 8) % (payload.size() + 1);
    if ((data[1] & 32) != 0) bytes = kMtu;
    if ((data[1] & 64) != 0) bytes = 0;
    size_t length = EncodeHeaders(h, bytes, frame.data());
    const std::span<const std::byte> content = std::span(payload).first(bytes);
    const uint32_t crc = ContinueIcrc(StartIcrc({frame.data(), length}), content);
    std::copy(content.begin(), content.end(), frame.begin() + static_cast<ptrdiff_t>(length));
    length += bytes;
    length += EncodeTrailer(crc, bytes, &frame[length]);
    now += std::chrono::milliseconds(data[11]);
    engine.Receive({frame.data(), length}, now);
    if ((data[1] & 128) != 0) engine.Transmit(sink, now, 16);
    (void)engine.NextTimer();
  }
  engine.Transmit(sink, now + std::chrono::minutes(1), 1000);
  for (const Guarded* one : {&writable, &readable, &local, &inbox}) one->Check();
  Require(readable.memory == unread);
  return 0;
}
