#include "transport/gcm.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"

namespace starling::transport {
namespace {

template <typename Array>
Array FromHex(absl::string_view hex) {
  const std::string bytes = absl::HexStringToBytes(hex);
  Array array;
  EXPECT_EQ(bytes.size(), array.size());
  std::memcpy(array.data(), bytes.data(), array.size());
  return array;
}

std::vector<std::byte> Content(size_t size) {
  std::vector<std::byte> content(size);
  for (size_t i = 0; i < size; ++i) content[i] = static_cast<std::byte>(i * 31 + i / 251);
  return content;
}

absl::Status Open(Gcm& gcm, const CipherNonce& nonce, std::span<const std::byte> in,
                  std::span<std::byte> out, const CipherTag& tag) {
  return gcm.Open(nonce, in, {{out}}, tag);
}

std::vector<Gcm::Engine> EnginesHere() {
  std::vector<Gcm::Engine> engines = {Gcm::Engine::kOpenSsl};
  const absl::Status fast = Gcm::Create(CipherKey{}, Gcm::Engine::kIpsecMb).status();
  if (fast.ok()) {
    engines.push_back(Gcm::Engine::kIpsecMb);
  } else {
    EXPECT_EQ(fast.code(), absl::StatusCode::kUnimplemented) << fast;
  }
  return engines;
}

// Test case 14 of "The Galois/Counter Mode of Operation" (McGrew, Viega).
TEST(GcmTest, AgreesWithThePublishedVector) {
  for (const Gcm::Engine engine : EnginesHere()) {
    const auto gcm = Gcm::Create(CipherKey{}, engine).value();
    std::vector<std::byte> bytes(16);
    CipherTag tag;
    ASSERT_TRUE(gcm->Seal(CipherNonce{}, bytes, bytes, tag).ok());
    EXPECT_EQ(absl::BytesToHexString({reinterpret_cast<const char*>(bytes.data()), bytes.size()}),
              "cea7403d4d606b6e074ec5d3baf39d18");
    EXPECT_EQ(tag, FromHex<CipherTag>("d0d1c8a799996bf0265b98b5d48ab919"));
  }
}

TEST(GcmTest, AllEnginesWriteTheSameBytesAndReadEachOther) {
  const auto key =
      FromHex<CipherKey>("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
  const auto nonce = FromHex<CipherNonce>("cafebabefacedbaddecaf888");
  const auto reference = Gcm::Create(key, Gcm::Engine::kOpenSsl).value();
  for (const Gcm::Engine engine : EnginesHere()) {
    const auto gcm = Gcm::Create(key, engine).value();
    for (const size_t size : {0, 1, 15, 16, 17, 255, 256, 4096, 65537}) {
      const std::vector<std::byte> content = Content(size);
      std::vector<std::byte> expected(size), sealed(size), opened(size);
      CipherTag expected_tag, tag;
      ASSERT_TRUE(reference->Seal(nonce, content, expected, expected_tag).ok());
      ASSERT_TRUE(gcm->Seal(nonce, content, sealed, tag).ok());
      EXPECT_EQ(sealed, expected) << size;
      EXPECT_EQ(tag, expected_tag) << size;
      ASSERT_TRUE(Open(*gcm, nonce, expected, opened, expected_tag).ok()) << size;
      EXPECT_EQ(opened, content);
    }
  }
}

TEST(GcmTest, OpensIntoPieces) {
  const std::vector<std::byte> content = Content(4096 * 3 + 100);
  for (const Gcm::Engine engine : EnginesHere()) {
    const auto gcm = Gcm::Create(CipherKey{5}, engine).value();
    std::vector<std::byte> sealed(content.size());
    CipherTag tag;
    ASSERT_TRUE(gcm->Seal(CipherNonce{2}, content, sealed, tag).ok());
    std::vector<std::byte> one(4096), two(0), three(8192 + 7), four(93);
    const std::vector<std::span<std::byte>> pieces = {one, two, three, four};
    ASSERT_TRUE(gcm->Open(CipherNonce{2}, sealed, pieces, tag).ok());
    std::vector<std::byte> opened = one;
    opened.insert(opened.end(), three.begin(), three.end());
    opened.insert(opened.end(), four.begin(), four.end());
    EXPECT_EQ(opened, content);
    tag[0] ^= 1;
    EXPECT_EQ(gcm->Open(CipherNonce{2}, sealed, pieces, tag).code(), absl::StatusCode::kDataLoss);
  }
}

TEST(GcmTest, RefusesWhatWasAltered) {
  for (const Gcm::Engine engine : EnginesHere()) {
    const auto gcm = Gcm::Create(CipherKey{}, engine).value();
    std::vector<std::byte> bytes = Content(4096);
    CipherTag tag;
    ASSERT_TRUE(gcm->Seal(CipherNonce{}, bytes, bytes, tag).ok());
    std::vector<std::byte> opened(bytes.size());
    for (const size_t at : {size_t{0}, size_t{1000}, bytes.size() - 1}) {
      bytes[at] ^= std::byte{1};
      EXPECT_EQ(Open(*gcm, CipherNonce{}, bytes, opened, tag).code(), absl::StatusCode::kDataLoss);
      bytes[at] ^= std::byte{1};
    }
    EXPECT_EQ(Open(*gcm, CipherNonce{1}, bytes, opened, tag).code(), absl::StatusCode::kDataLoss);
    EXPECT_TRUE(Open(*gcm, CipherNonce{}, bytes, opened, tag).ok());
  }
}

TEST(GcmTest, WorksInPlace) {
  for (const Gcm::Engine engine : EnginesHere()) {
    const auto gcm = Gcm::Create(CipherKey{3}, engine).value();
    std::vector<std::byte> bytes = Content(70000);
    CipherTag tag;
    ASSERT_TRUE(gcm->Seal(CipherNonce{}, bytes, bytes, tag).ok());
    EXPECT_NE(bytes, Content(70000));
    ASSERT_TRUE(Open(*gcm, CipherNonce{}, bytes, bytes, tag).ok());
    EXPECT_EQ(bytes, Content(70000));
  }
}

}  // namespace
}  // namespace starling::transport
