#include "runtime/security/certificates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/file.h"
#include "tests/runtime/scratch.h"

namespace starling::security {
namespace {

using ::testing::HasSubstr;

unsigned Mode(const std::string& path) {
  struct stat info = {};
  EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
  return info.st_mode & 07777;
}

class Certificates : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto made = MakeAuthority(ca, kAuthorityDays);
    ASSERT_TRUE(made.ok()) << made.status();
  }

  absl::StatusOr<Made> Host(const std::string& name, int days = 30) {
    return MakeHostCertificate({ca, ca, name, {"10.77.0.1", "fd00::1"}, days});
  }
  absl::StatusOr<Credentials> Load(const std::string& name, const std::string& host) {
    return LoadCredentials(
        {ca + "/authority.crt", ca + "/" + name + ".crt", ca + "/" + name + ".key"}, host);
  }

  Scratch scratch;
  const std::string ca = scratch / "ca";
};

TEST_F(Certificates, AHostsCertificateIsGood) {
  const auto made = Host("node1");
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->certificate, ca + "/node1.crt");
  const auto loaded = Load("node1", "node1");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->ends, made->ends);
  EXPECT_GE(loaded->days_left, 28);
  EXPECT_LE(loaded->days_left, 30);
  EXPECT_THAT(loaded->certificate, HasSubstr("BEGIN CERTIFICATE"));
}

TEST_F(Certificates, KeysAreTheirOwnersAlone) {
  ASSERT_TRUE(Host("node1").ok());
  EXPECT_EQ(Mode(ca + "/authority.key"), 0600u);
  EXPECT_EQ(Mode(ca + "/node1.key"), 0600u);
  ASSERT_EQ(::chmod((ca + "/node1.key").c_str(), 0640), 0);
  const auto loaded = Load("node1", "node1");
  EXPECT_TRUE(absl::IsPermissionDenied(loaded.status())) << loaded.status();
  EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("chmod 600"));
}

TEST_F(Certificates, NothingIsWrittenOver) {
  ASSERT_TRUE(Host("node1").ok());
  const std::string key = *ReadFile(ca + "/node1.key");
  EXPECT_TRUE(absl::IsAlreadyExists(Host("node1").status()));
  EXPECT_TRUE(absl::IsAlreadyExists(MakeAuthority(ca, 10).status()));
  EXPECT_EQ(*ReadFile(ca + "/node1.key"), key);
  // Where only the certificate is in the way, no key is left behind.
  ASSERT_TRUE(WriteFileAtomic(ca + "/node2.crt", "mine").ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Host("node2").status()));
  EXPECT_TRUE(absl::IsNotFound(ReadFile(ca + "/node2.key").status()));
  EXPECT_EQ(*ReadFile(ca + "/node2.crt"), "mine");
}

TEST_F(Certificates, AnothersCertificateIsRefused) {
  ASSERT_TRUE(Host("node1").ok());
  const auto loaded = Load("node1", "node2");
  EXPECT_TRUE(absl::IsInvalidArgument(loaded.status())) << loaded.status();
  EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("host 'node1'"));
}

TEST_F(Certificates, AnothersKeyIsRefused) {
  ASSERT_TRUE(Host("node1").ok());
  ASSERT_TRUE(Host("node2").ok());
  const auto loaded =
      LoadCredentials({ca + "/authority.crt", ca + "/node1.crt", ca + "/node2.key"}, "node1");
  EXPECT_TRUE(absl::IsInvalidArgument(loaded.status())) << loaded.status();
}

TEST_F(Certificates, AnotherAuthorityIsRefused) {
  ASSERT_TRUE(Host("node1").ok());
  const std::string other = scratch / "other";
  ASSERT_TRUE(MakeAuthority(other, 30).ok());
  const auto loaded =
      LoadCredentials({other + "/authority.crt", ca + "/node1.crt", ca + "/node1.key"}, "node1");
  EXPECT_TRUE(absl::IsFailedPrecondition(loaded.status())) << loaded.status();
}

TEST_F(Certificates, OutlivesItsAuthorityNever) {
  const std::string brief = scratch / "brief";
  ASSERT_TRUE(MakeAuthority(brief, 10).ok());
  const auto made = MakeHostCertificate({brief, brief, "node1", {}, 11});
  EXPECT_TRUE(absl::IsFailedPrecondition(made.status())) << made.status();
  EXPECT_TRUE(MakeHostCertificate({brief, brief, "node1", {}, 9}).ok());
}

TEST_F(Certificates, WhatCannotBeIsSaid) {
  EXPECT_TRUE(absl::IsInvalidArgument(Host("no host").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Host("node1", 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Host("node1", kMaxDays + 1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      MakeHostCertificate({ca, ca, "node1", {"10.77.0.1,DNS:evil"}, 30}).status()));
  const auto nowhere = MakeHostCertificate({scratch / "none", ca, "node1", {}, 30});
  EXPECT_TRUE(absl::IsNotFound(nowhere.status())) << nowhere.status();
  EXPECT_THAT(std::string(nowhere.status().message()), HasSubstr("starling cert authority"));
  EXPECT_TRUE(absl::IsNotFound(Load("node9", "node9").status()));
  ASSERT_TRUE(Host("node1").ok());
  ASSERT_TRUE(WriteFileAtomic(ca + "/node1.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Load("node1", "node1").status()));
}

}  // namespace
}  // namespace starling::security
