#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace starling::transport::roce {

// Captured Ethernet frames: the classic pcap format, little-endian, microseconds. Nothing when it
// is another file.
inline std::vector<std::vector<std::byte>> ReadPcap(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  uint32_t header[6] = {};
  file.read(reinterpret_cast<char*>(header), sizeof(header));
  if (header[0] != 0xa1b2c3d4 || header[5] != 1) return {};
  std::vector<std::vector<std::byte>> frames;
  uint32_t record[4];
  while (file.read(reinterpret_cast<char*>(record), sizeof(record))) {
    std::vector<std::byte> frame(record[2]);
    file.read(reinterpret_cast<char*>(frame.data()), record[2]);
    frames.push_back(std::move(frame));
  }
  return frames;
}

inline bool WritePcap(const std::string& path, const std::vector<std::vector<std::byte>>& frames) {
  std::ofstream file(path, std::ios::binary);
  const uint32_t header[6] = {0xa1b2c3d4, 4u << 16 | 2u, 0, 0, 65535, 1};
  file.write(reinterpret_cast<const char*>(header), sizeof(header));
  uint32_t at = 0;
  for (const auto& frame : frames) {
    const auto bytes = static_cast<uint32_t>(frame.size());
    const uint32_t record[4] = {1, ++at, bytes, bytes};
    file.write(reinterpret_cast<const char*>(record), sizeof(record));
    file.write(reinterpret_cast<const char*>(frame.data()), bytes);
  }
  return file.good();
}

}  // namespace starling::transport::roce
