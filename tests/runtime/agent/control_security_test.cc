#include "runtime/agent/control_security.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/file.h"
#include "runtime/agent/agent.h"
#include "runtime/agent/peer_client.h"
#include "runtime/agent/peer_service.h"
#include "tests/runtime/scratch.h"

// A real server of agents' calls on loopback, and callers with every kind of certificate.

namespace starling::agent {
namespace {

using ::testing::HasSubstr;

// Whoever reads certificates in this process does so with TLS 1.3 alone.
const bool kPrepared = [] {
  ControlSecurity::Prepare();
  return true;
}();

Deadline Soon() { return Deadline::After(std::chrono::seconds(60)); }

security::Credentials Read(const std::string& authority, const std::string& folder,
                           const std::string& name) {
  security::Credentials credentials;
  credentials.authority = *ReadFile(authority + "/authority.crt");
  credentials.certificate = *ReadFile(absl::StrCat(folder, "/", name, ".crt"));
  credentials.key = *ReadFile(absl::StrCat(folder, "/", name, ".key"));
  return credentials;
}

std::shared_ptr<grpc::ChannelCredentials> Channel(const security::Credentials& credentials) {
  return grpc::SslCredentials({credentials.authority, credentials.key, credentials.certificate});
}

// The same certificate, but one that ended an hour ago.
std::string Expired(const std::string& pem, const std::string& authority_key_pem) {
  BIO* in = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
  X509* certificate = PEM_read_bio_X509(in, nullptr, nullptr, nullptr);
  BIO* key_in =
      BIO_new_mem_buf(authority_key_pem.data(), static_cast<int>(authority_key_pem.size()));
  EVP_PKEY* key = PEM_read_bio_PrivateKey(key_in, nullptr, nullptr, nullptr);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -7200);
  X509_gmtime_adj(X509_getm_notAfter(certificate), -3600);
  EXPECT_GT(X509_sign(certificate, key, EVP_sha256()), 0);
  BIO* out = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(out, certificate);
  char* data = nullptr;
  const long size = BIO_get_mem_data(out, &data);
  std::string expired(data, static_cast<size_t>(size));
  for (BIO* bio : {in, key_in, out}) BIO_free(bio);
  X509_free(certificate);
  EVP_PKEY_free(key);
  return expired;
}

class ControlSecurityTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(security::MakeAuthority(ca, 30).ok());
    for (const char* name : {"node1", "node2", "node3", "node9"}) {
      ASSERT_TRUE(security::MakeHostCertificate({ca, ca, name, {"127.0.0.1"}, 10}).ok());
    }
    config.host = "node2";
    config.run_dir = scratch / "run";
    config.control.listen = "127.0.0.1:0";
    config.security.authority = ca + "/authority.crt";
    config.security.certificate = ca + "/node2.crt";
    config.security.key = ca + "/node2.key";
    config.peers = {{"node1", "127.0.0.1:1"}, {"node3", "127.0.0.1:1"}};
  }
  ~ControlSecurityTest() override {
    if (server) server->Shutdown(std::chrono::system_clock::now());
  }

  void Serve() {
    auto opened = Journal::Open(scratch / "journal.db", "boot");
    ASSERT_TRUE(opened.ok()) << opened.status();
    journal = *std::move(opened);
    auto loaded =
        ControlSecurity::Load(config, [this](absl::string_view kind, absl::string_view text) {
          const std::lock_guard lock(mutex);
          told.push_back(absl::StrCat(kind, ": ", text));
        });
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    security = *std::move(loaded);
    host =
        std::make_unique<Host>(Host{.config = config,
                                    .journal = *journal,
                                    .fabric = nullptr,
                                    .criu = absl::FailedPreconditionError("no CRIU in this test")});
    host->security = security.get();
    host->components = &components;
    targets = std::make_unique<migration::Targets>(*host);
    agent = std::make_unique<Agent>(*host, *targets);
    service = std::make_unique<PeerService>(*agent, *targets);
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", security->server(), &port);
    builder.RegisterService(service.get());
    server = builder.BuildAndStart();
    ASSERT_NE(server, nullptr);
  }

  PeerClient Caller(const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                    const std::string& whom = "node2") {
    return PeerClient(whom, absl::StrCat("127.0.0.1:", port), credentials);
  }
  PeerClient Caller(const std::string& name) { return Caller(Channel(Read(ca, ca, name))); }

  absl::Status Hello(PeerClient caller) {
    v1::HelloRequest request;
    request.set_protocol(kProtocol);
    return caller.Hello(request, Soon()).status();
  }
  static v1::ReserveRequest Reserve(const std::string& component, const std::string& from) {
    v1::ReserveRequest request;
    request.set_migration_id("7f3a");
    request.mutable_spec()->set_name(component);
    request.mutable_spec()->add_command("/bin/true");
    request.set_source_host(from);
    return request;
  }
  // That somebody was refused, that it was told once, and how often it was counted.
  void ExpectRefused(const std::string& kind, uint64_t least, const std::string& words) {
    EXPECT_GE(security->refusals().counts()[kind], least);
    const std::lock_guard lock(mutex);
    EXPECT_EQ(std::count_if(told.begin(), told.end(),
                            [&](const std::string& text) {
                              return text.find(kind) == 0 && text.find(words) != text.npos;
                            }),
              1)
        << ::testing::PrintToString(told);
  }

  Scratch scratch{InMemory()};
  const std::string ca = scratch / "ca";
  Config config;
  std::mutex mutex;
  std::vector<std::string> told;
  std::unique_ptr<Journal> journal;
  std::unique_ptr<ControlSecurity> security;
  ComponentTable components{[](const auto&, const auto&) {}};
  std::unique_ptr<Host> host;
  std::unique_ptr<migration::Targets> targets;
  std::unique_ptr<Agent> agent;
  std::unique_ptr<PeerService> service;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};

TEST_F(ControlSecurityTest, APeerIsHeard) {
  Serve();
  const absl::Status hello = Hello(Caller("node1"));
  EXPECT_TRUE(hello.ok()) << hello;
  EXPECT_TRUE(security->refusals().counts().empty());
  EXPECT_FALSE(security->insecure());
}

TEST_F(ControlSecurityTest, WithoutACertificateNobodyIs) {
  Serve();
  for (int i = 0; i < 2; ++i) {
    const absl::Status hello =
        Hello(Caller(grpc::SslCredentials({*ReadFile(ca + "/authority.crt"), "", ""})));
    EXPECT_TRUE(absl::IsUnavailable(hello)) << hello;
  }
  EXPECT_TRUE(absl::IsUnavailable(Hello(Caller(grpc::InsecureChannelCredentials()))));
  ExpectRefused("certificate", 2, "peer did not return a certificate");
}

TEST_F(ControlSecurityTest, AnotherAuthoritysCertificateIsRefused) {
  Serve();
  const std::string other = scratch / "other";
  ASSERT_TRUE(security::MakeAuthority(other, 30).ok());
  ASSERT_TRUE(security::MakeHostCertificate({other, other, "node1", {}, 10}).ok());
  // It trusts our authority, but is not known by it.
  for (int i = 0; i < 2; ++i)
    EXPECT_TRUE(absl::IsUnavailable(Hello(Caller(Channel(Read(ca, other, "node1"))))));
  ExpectRefused("certificate", 2, "certificate verify failed");
}

TEST_F(ControlSecurityTest, AnExpiredCertificateIsRefused) {
  Serve();
  security::Credentials credentials = Read(ca, ca, "node1");
  credentials.certificate = Expired(credentials.certificate, *ReadFile(ca + "/authority.key"));
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(absl::IsUnavailable(Hello(Caller(Channel(credentials)))));
  ExpectRefused("certificate", 2, "certificate verify failed");
  // Its own agent does not even start with it.
  ASSERT_TRUE(WriteFileAtomic(ca + "/node2.crt", Expired(*ReadFile(ca + "/node2.crt"),
                                                         *ReadFile(ca + "/authority.key")))
                  .ok());
  const auto loaded = ControlSecurity::Load(config, [](auto, auto) {});
  EXPECT_TRUE(absl::IsFailedPrecondition(loaded.status())) << loaded.status();
  EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("expired"));
}

TEST_F(ControlSecurityTest, AHostWithoutARoleIsRefused) {
  Serve();
  for (int i = 0; i < 3; ++i) {
    const absl::Status hello = Hello(Caller("node9"));
    EXPECT_TRUE(absl::IsPermissionDenied(hello)) << hello;
    EXPECT_THAT(std::string(hello.message()), HasSubstr("host node9 has no role here"));
  }
  ExpectRefused("role", 3, "node9");
}

TEST_F(ControlSecurityTest, OnlyWhatItsRoleAllowsMayBeMoved) {
  config.security.allow = {{"node1", {"web*"}, true, false}};
  Serve();
  PeerClient caller = Caller("node1");
  EXPECT_TRUE(Hello(Caller("node1")).ok());
  const absl::Status db = caller.Reserve(Reserve("db", "node1"), Soon()).status();
  EXPECT_TRUE(absl::IsPermissionDenied(db)) << db;
  EXPECT_THAT(std::string(db.message()),
              HasSubstr("component db may not be moved from host node1"));
  v1::ExamineRequest examine;
  examine.mutable_spec()->set_name("db");
  examine.set_source_host("node1");
  EXPECT_TRUE(absl::IsPermissionDenied(caller.Examine(examine, Soon()).status()));
  // This one gets as far as the parts that this test does not have.
  const absl::Status web = caller.Reserve(Reserve("web1", "node1"), Soon()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(web)) << web;
  EXPECT_TRUE(absl::IsPermissionDenied(Hello(Caller("node3"))));
  ExpectRefused("role", 3, "component db");
}

TEST_F(ControlSecurityTest, AHostIsWhoItsCertificateSays) {
  Serve();
  const absl::Status status = Caller("node1").Reserve(Reserve("db", "node3"), Soon()).status();
  EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("host node1 says that it is host node3"));
  ExpectRefused("role", 1, "says that it is");
}

TEST_F(ControlSecurityTest, AMigrationBelongsToWhoReservedIt) {
  Serve();
  MigrationRow row;
  row.id = "7f3a";
  row.role = MigrationRole::kTarget;
  row.component = "db";
  row.peer = "node1";
  row.state = MigrationState::kPending;
  row.spec.set_name("db");
  row.spec.add_command("/bin/true");
  ASSERT_TRUE(journal->Begin(row).ok());
  PeerClient other = Caller("node3");
  v1::CommitRequest commit;
  commit.set_migration_id("7f3a");
  v1::AbortRequest abort;
  abort.set_migration_id("7f3a");
  v1::QueryRequest query;
  query.set_migration_id("7f3a");
  v1::RenewRequest renew;
  renew.set_migration_id("7f3a");
  v1::RestoreRequest restore;
  restore.set_migration_id("7f3a");
  v1::GrowRequest grow;
  grow.set_migration_id("7f3a");
  v1::ProbeRequest probe;
  probe.set_migration_id("7f3a");
  for (const absl::Status& status :
       {other.Commit(commit, Soon()).status(), other.Abort(abort, Soon()).status(),
        other.Query(query, Soon()).status(), other.Renew(renew, Soon()).status(),
        other.Restore(restore, Soon()).status(), other.Grow(grow, Soon()).status(),
        other.Probe(probe, Soon()).status(),
        other
            .SendImages(
                "7f3a", ca, [](const std::string& f) { return f != "node1.crt"; }, Soon())
            .status()}) {
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
  }
  EXPECT_EQ(journal->GetMigration("7f3a")->state, MigrationState::kPending);
  EXPECT_EQ(security->refusals().counts()["ownership"], 8u);
  ExpectRefused("ownership", 8, "Commit");
  // Its own source may.
  const auto aborted = Caller("node1").Abort(abort, Soon());
  ASSERT_TRUE(aborted.ok()) << aborted.status();
  EXPECT_EQ(aborted->verdict(), v1::ABORTED);
}

TEST_F(ControlSecurityTest, ATargetThatIsAnotherIsNotSpokenTo) {
  Serve();  // as node2
  const absl::Status hello = Hello(Caller(Channel(Read(ca, ca, "node1")), "node3"));
  EXPECT_TRUE(absl::IsUnavailable(hello)) << hello;
}

// Connects with at most this version of TLS; whether the handshake came to an end.
bool Handshake(int port, const std::string& ca, int version) {
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_max_proto_version(context, version);
  SSL_CTX_use_certificate_file(context, (ca + "/node1.crt").c_str(), SSL_FILETYPE_PEM);
  SSL_CTX_use_PrivateKey_file(context, (ca + "/node1.key").c_str(), SSL_FILETYPE_PEM);
  const unsigned char alpn[] = {2, 'h', '2'};
  SSL_CTX_set_alpn_protos(context, alpn, sizeof(alpn));
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  SSL* ssl = SSL_new(context);
  SSL_set_fd(ssl, socket.get());
  const bool connected = SSL_connect(ssl) == 1;
  SSL_free(ssl);
  SSL_CTX_free(context);
  return connected;
}

TEST_F(ControlSecurityTest, OlderTlsIsNotSpoken) {
  Serve();
  EXPECT_TRUE(Handshake(port, ca, TLS1_3_VERSION));
  EXPECT_FALSE(Handshake(port, ca, TLS1_2_VERSION));
}

TEST_F(ControlSecurityTest, BeyondLoopbackCertificatesAreNeeded) {
  config.security = {};
  config.control.listen = "127.0.0.1:7400";
  const auto alone = ControlSecurity::Load(config, [](auto, auto) {});
  EXPECT_TRUE(alone.ok()) << alone.status();
  config.control.listen = "10.77.0.2:7400";
  const auto refused = ControlSecurity::Load(config, [](auto, auto) {});
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
  for (const char* words : {"10.77.0.2:7400", "starling cert", "security.insecure"})
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(words));
  config.security.insecure = true;
  const auto insecure = ControlSecurity::Load(config, [](auto, auto) {});
  ASSERT_TRUE(insecure.ok()) << insecure.status();
  EXPECT_TRUE((*insecure)->insecure());
  Config roce;
  roce.roce.listen = "10.77.0.1:7402";
  EXPECT_TRUE(ControlSecurity::Load(roce, [](auto, auto) {}).ok()) << "it is not opened";
  roce.data.offer = {"roce"};
  const auto introductions = ControlSecurity::Load(roce, [](auto, auto) {});
  EXPECT_TRUE(absl::IsFailedPrecondition(introductions.status())) << introductions.status();
  EXPECT_THAT(std::string(introductions.status().message()), HasSubstr("roce.listen is 10.77.0.1"));
}

}  // namespace
}  // namespace starling::agent
