#include "transport/roce/packet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdio>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/units.h"
#include "tests/transport/roce/pcap_file.h"
#include "tests/transport/roce/simulated_wire.h"

namespace starling::transport::roce {
namespace {

using Frame = std::vector<std::byte>;

Frame Encode(const Headers& headers, std::span<const std::byte> payload) {
  Frame frame(kMaxFrameBytes);
  size_t bytes = EncodeHeaders(headers, payload.size(), frame.data());
  const uint32_t crc = ContinueIcrc(StartIcrc({frame.data(), bytes}), payload);
  if (!payload.empty()) std::memcpy(&frame[bytes], payload.data(), payload.size());
  bytes += payload.size();
  bytes += EncodeTrailer(crc, payload.size(), &frame[bytes]);
  frame.resize(bytes);
  return frame;
}

// What SoftRoCE sent between two guests (perftest and rstream on Linux 6.12), taken apart and put
// together again.
TEST(RocePacket, SoftRoceFramesDecodeAndEncodeToTheSameBytes) {
  const auto frames = ReadPcap(ROCE_CAPTURE);
  ASSERT_GT(frames.size(), 10u);
  std::set<Opcode> seen;
  for (size_t i = 0; i < frames.size(); ++i) {
    SCOPED_TRACE(i);
    Packet packet;
    ASSERT_EQ(Decode(frames[i], packet), DecodeError::kNone);
    EXPECT_TRUE(IcrcIsRight(frames[i]));
    EXPECT_EQ(Encode(packet.headers, packet.payload), frames[i]);
    EXPECT_FALSE(packet.headers.migrated);
    EXPECT_EQ(packet.headers.partition, kDefaultPartition);
    seen.insert(packet.headers.opcode);
  }
  EXPECT_THAT(seen, testing::IsSupersetOf({
                        Opcode::kSendFirst,
                        Opcode::kSendMiddle,
                        Opcode::kSendLast,
                        Opcode::kWriteFirst,
                        Opcode::kWriteMiddle,
                        Opcode::kWriteLast,
                        Opcode::kWriteOnlyImmediate,
                        Opcode::kReadRequest,
                        Opcode::kReadResponseFirst,
                        Opcode::kReadResponseMiddle,
                        Opcode::kReadResponseLast,
                        Opcode::kAcknowledge,
                    }));
}

Headers Sample(Opcode opcode, uint64_t seed) {
  std::mt19937_64 random(seed);
  Headers h;
  for (auto& byte : h.destination_mac) byte = static_cast<uint8_t>(random());
  for (auto& byte : h.source_mac) byte = static_cast<uint8_t>(random());
  h.traffic_class = static_cast<uint8_t>(random());
  h.hop_limit = static_cast<uint8_t>(random());
  h.ip_id = static_cast<uint16_t>(random());
  h.source_ip = static_cast<uint32_t>(random());
  h.destination_ip = static_cast<uint32_t>(random());
  h.source_port = static_cast<uint16_t>(random());
  h.opcode = opcode;
  h.solicited = random() % 2 == 0;
  h.migrated = random() % 2 == 0;
  h.partition = static_cast<uint16_t>(random());
  h.queue_pair = static_cast<uint32_t>(random()) & kMask24;
  h.ack_request = random() % 2 == 0;
  h.psn = static_cast<uint32_t>(random()) & kMask24;
  h.remote_address = random();
  h.remote_key = static_cast<uint32_t>(random());
  h.dma_bytes = static_cast<uint32_t>(random());
  h.syndrome = static_cast<uint8_t>(random());
  h.message_sequence = static_cast<uint32_t>(random()) & kMask24;
  h.immediate = static_cast<uint32_t>(random());
  return h;
}

TEST(RocePacket, EveryOpcodeComesBackAsItWas) {
  for (uint8_t number = 0; number <= kLastOpcode; ++number) {
    const auto opcode = static_cast<Opcode>(number);
    for (size_t bytes : {0, 1, 2, 3, 4, 1023, 1024, 4096}) {
      SCOPED_TRACE(absl::StrCat("opcode ", int{number}, ", ", bytes, " bytes"));
      const Headers h = Sample(opcode, number * 7919 + bytes);
      const auto payload = SeededBytes(bytes, bytes);
      const Frame frame = Encode(h, payload);
      EXPECT_EQ((frame.size() - kEthernetBytes) % 4, 0u);
      EXPECT_LE(frame.size(), kMaxFrameBytes);
      Packet packet;
      ASSERT_EQ(Decode(frame, packet), DecodeError::kNone);
      EXPECT_TRUE(IcrcIsRight(frame));
      EXPECT_TRUE(
          std::equal(payload.begin(), payload.end(), packet.payload.begin(), packet.payload.end()));
      const Headers& g = packet.headers;
      EXPECT_EQ(g.destination_mac, h.destination_mac);
      EXPECT_EQ(g.source_mac, h.source_mac);
      EXPECT_EQ(g.source_ip, h.source_ip);
      EXPECT_EQ(g.destination_ip, h.destination_ip);
      EXPECT_EQ(g.partition, h.partition);
      EXPECT_EQ(g.queue_pair, h.queue_pair);
      EXPECT_EQ(g.psn, h.psn);
      EXPECT_EQ(g.ack_request, h.ack_request);
      if (HasReth(opcode)) {
        EXPECT_EQ(g.remote_address, h.remote_address);
        EXPECT_EQ(g.remote_key, h.remote_key);
        EXPECT_EQ(g.dma_bytes, h.dma_bytes);
      }
      if (HasAeth(opcode)) {
        EXPECT_EQ(g.syndrome, h.syndrome);
        EXPECT_EQ(g.message_sequence, h.message_sequence);
      }
      if (HasImmediate(opcode)) {
        EXPECT_EQ(g.immediate, h.immediate);
      }
      EXPECT_EQ(Encode(g, packet.payload), frame);
      // Ethernet pads short frames.
      Frame padded = frame;
      padded.resize(frame.size() + 20);
      EXPECT_EQ(Decode(padded, packet), DecodeError::kNone);
      EXPECT_TRUE(IcrcIsRight(padded));
    }
  }
}

TEST(RocePacket, IcrcCoversWhatStaysTheSameOnTheWay) {
  const Frame frame = Encode(Sample(Opcode::kWriteOnly, 5), SeededBytes(100, 1));
  // What routers change: traffic class, hop limit, IP checksum, UDP checksum, congestion bits.
  const std::set<size_t> free = {15, 22, 24, 25, 40, 41, 46};
  for (size_t at = kEthernetBytes; at < frame.size(); ++at) {
    Frame changed = frame;
    changed[at] ^= std::byte{0x10};
    if (at == 16 || at == 17) continue;  // the length itself
    EXPECT_EQ(IcrcIsRight(changed), free.contains(at)) << at;
  }
}

// Never reads outside the frame (asan looks on), never takes what does not fit.
TEST(RocePacket, CutAndChangedFramesAreRefusedOrWhole) {
  std::mt19937_64 random(9);
  for (uint8_t number = 0; number <= kLastOpcode; ++number) {
    const Frame frame = Encode(Sample(static_cast<Opcode>(number), number), SeededBytes(21, 1));
    Packet packet;
    for (size_t bytes = 0; bytes < frame.size(); ++bytes) {
      const Frame cut(frame.begin(), frame.begin() + static_cast<ptrdiff_t>(bytes));
      EXPECT_NE(Decode(cut, packet), DecodeError::kNone) << bytes;
    }
    for (int i = 0; i < 2000; ++i) {
      Frame changed = frame;
      for (uint64_t changes = 1 + random() % 3; changes > 0; --changes)
        changed[random() % changed.size()] = static_cast<std::byte>(random());
      if (Decode(changed, packet) != DecodeError::kNone) continue;
      EXPECT_GE(packet.payload.data(), changed.data());
      EXPECT_LE(packet.payload.data() + packet.payload.size(), changed.data() + changed.size());
      (void)IcrcIsRight(changed);
    }
  }
}

TEST(RocePacket, OtherTrafficIsNotOurs) {
  const Frame frame = Encode(Sample(Opcode::kSendOnly, 5), SeededBytes(8, 1));
  Packet packet;
  const auto with = [&](size_t at, int value) {
    Frame changed = frame;
    changed[at] = static_cast<std::byte>(value);
    return Decode(changed, packet);
  };
  EXPECT_EQ(with(12, 0x86), DecodeError::kNotRoce);    // IPv6
  EXPECT_EQ(with(14, 0x46), DecodeError::kNotRoce);    // IP options
  EXPECT_EQ(with(23, 6), DecodeError::kNotRoce);       // TCP
  EXPECT_EQ(with(37, 53), DecodeError::kNotRoce);      // another port
  EXPECT_EQ(with(20, 0x20), DecodeError::kMalformed);  // a fragment
  EXPECT_EQ(with(42, 0x64), DecodeError::kOpcode);     // datagrams
  EXPECT_EQ(with(42, 0x13), DecodeError::kOpcode);     // atomics
  EXPECT_EQ(with(43, 0x01), DecodeError::kMalformed);  // another version of the header
}

TEST(RocePacket, Addresses) {
  EXPECT_EQ(MacText(*ParseMac("02:00:5e:00:Fe:01")), "02:00:5e:00:fe:01");
  EXPECT_EQ(IpText(*ParseIp("10.77.0.254")), "10.77.0.254");
  for (const char* bad : {"", "02:00:00:00:00", "02:00:00:00:00:01:02", "02-00-00-00-00-01", "x"})
    EXPECT_TRUE(absl::IsInvalidArgument(ParseMac(bad).status())) << bad;
  for (const char* bad : {"", "10.0.0", "10.0.0.256", "fe80::1", "x"})
    EXPECT_TRUE(absl::IsInvalidArgument(ParseIp(bad).status())) << bad;
}

// Another program's opinion of what we send: every packet of a conversation with all operations.
TEST(RocePacket, TsharkReadsOursWithoutComplaint) {
  if (std::system("tshark --version >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "tshark is not installed";
  SimulatedWire wire({.seed = 2, .loss = 0.05}, {}, {.mtu = 1024});
  EngineMemory source(wire.engine(0), SeededBytes(64 * kKiB, 1), Access::kLocal);
  EngineMemory target(wire.engine(1), Frame(64 * kKiB), Access::kRemoteWrite);
  EngineMemory remote(wire.engine(1), SeededBytes(64 * kKiB, 2), Access::kRemoteRead);
  EngineMemory inbox(wire.engine(1), Frame(64 * kKiB), Access::kLocal);
  std::vector<Frame> sent;
  wire.filter = [&](size_t, std::span<const std::byte> frame) {
    sent.emplace_back(frame.begin(), frame.end());
    return false;
  };
  PairHalf& a = wire.half(0);
  uint64_t id = 0;
  for (const size_t bytes : {10u, 20001u}) {
    for (const auto operation :
         {Operation::kWrite, Operation::kWriteImmediate, Operation::kMessage, Operation::kRead}) {
      const EngineMemory& peer = operation == Operation::kRead ? remote : target;
      a.pair->Post(Request(++id, operation, {source.piece(0, bytes)}, peer.at(0), peer.key));
    }
  }
  // Some find no receive at first.
  wire.RunUntil([&] { return false; }, std::chrono::milliseconds(2));
  for (uint64_t i = 0; i < 4; ++i) wire.half(1).pair->PostReceive(i, inbox.piece(0, 64 * kKiB));
  ASSERT_TRUE(wire.RunUntil([&] { return a.completions.size() == 8; }));
  const std::string path = testing::TempDir() + absl::StrCat("/roce-", getpid(), ".pcap");
  ASSERT_TRUE(WritePcap(path, sent));
  // The disabled protocol is one that it looks for in any payload. One line a packet; the expert column is empty where there is nothing to complain about.
  const std::string command = absl::StrCat(
      "tshark -n --disable-protocol rpcordma -o ip.check_checksum:TRUE -r ", path,
      " -T fields -e infiniband.bth.opcode -e infiniband.aeth.syndrome -e infiniband.reth.dmalen"
      " -e ip.checksum.status -e _ws.malformed -e _ws.expert.message 2>/dev/null");
  FILE* pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::vector<std::string> lines;
  char line[512];
  while (fgets(line, sizeof(line), pipe) != nullptr) lines.emplace_back(line);
  EXPECT_EQ(pclose(pipe), 0);
  std::remove(path.c_str());
  ASSERT_EQ(lines.size(), sent.size());
  std::set<std::string> opcodes, syndromes, lengths;
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::vector<std::string> fields = absl::StrSplit(lines[i], '\t');
    ASSERT_EQ(fields.size(), 6u) << lines[i];
    opcodes.insert(fields[0]);
    syndromes.insert(fields[1]);
    lengths.insert(fields[2]);
    EXPECT_EQ(fields[3], "1") << "IP checksum of packet " << i;
    EXPECT_EQ(fields[4], "") << i;
    EXPECT_EQ(fields[5], "\n") << i;
  }
  EXPECT_GE(opcodes.size(), 14u);
  EXPECT_TRUE(syndromes.contains("96") && syndromes.contains("44") && syndromes.contains("31"));
  EXPECT_TRUE(lengths.contains("20001") || lengths.contains("0x00004e21"));
}

}  // namespace
}  // namespace starling::transport::roce
